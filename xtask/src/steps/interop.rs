//! The format without Rust: `kv-format/interop/kv_object.py` reads what Rust writes and writes what Rust reads, and both refuse the
//! same damage. What each says is then made wrong in one place, to show that the comparison can fail.

use super::{Bench, Outcome};
use crate::programs::{Program, Programs};
use crate::python::{self, Unavailable};
use anyhow::{Context as _, Result, bail};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};

/// What the reader and writer imports.
const PACKAGES: [&str; 2] = ["numpy==2.2.6", "blake3==1.0.8"];

/// In kv-format: what Rust says.
const EXAMPLE: &str = "interop";

/// A specification that needs more lines than this to be read and written is not portable.
const LINES: usize = 200;

pub(super) fn run(bench: &Bench) -> Result<Outcome> {
    let script = bench.root.join("kv-format/interop/kv_object.py");
    let lines = fs::read_to_string(&script).with_context(|| format!("{}", script.display()))?.lines().count();
    if lines > LINES {
        return Ok(Outcome::Failed(format!("{} has {lines} lines, at most {LINES}", script.display())));
    }
    let modules = match python::packages(&bench.processes, &bench.metadata.target_directory, &PACKAGES) {
        Ok(path) => path,
        Err(error) if error.is::<Unavailable>() => return Ok(Outcome::Skipped(error.to_string())),
        Err(error) => return Err(error),
    };
    let folder = tempfile::tempdir_in(&bench.metadata.target_directory)?;
    let golden = copied(&bench.root.join("kv-format/tests/golden/v1"), folder.path().join("golden"))?;
    let programs =
        Programs::build(&bench.processes, &bench.root.join("kv-format"), &[Program::Example(EXAMPLE)])?;
    let sides = Sides { bench, programs, script, modules, folder: folder.path(), golden };
    if !(sides.rust("write")? && sides.python()? && sides.rust("compare")?) {
        return Ok(Outcome::Failed("Rust and Python differ: the first difference is above".into()));
    }
    println!("   each of the next runs must fail");
    let listing = folder.path().join("cases.json");
    let cases: Value = serde_json::from_slice(&fs::read(&listing)?)?;
    // What stands last in a group's KV is the last byte of V, of a scale, of a state.
    let kv = |case: &str| folder.path().join(case).with_extension("kv");
    let (values, scales, states) = (kv("golden"), kv("golden-token-head-scales"), kv("golden-two-groups"));
    let object = a_file_below(&sides.golden)?;
    let lies: [(&str, &Path, Vec<u8>); 6] = [
        ("another token", &listing, changed(&cases, "/cases/0/tokens/0", 1.into())?),
        ("another verdict", &listing, changed(&cases, "/damaged/0/1", "incomparable".into())?),
        ("another byte of V", &values, flipped(&values)?),
        ("another byte of a scale", &scales, flipped(&scales)?),
        ("another byte of a state", &states, flipped(&states)?),
        ("another byte of a golden object", &object, flipped(&object)?),
    ];
    for (what, path, wrong) in lies {
        let right = fs::read(path)?;
        fs::write(path, wrong)?;
        if sides.python()? {
            return Ok(Outcome::Failed(format!("Python noticed nothing of {what}")));
        }
        fs::write(path, right)?;
    }
    let theirs = a_file_below(&folder.path().join("python"))?;
    fs::write(&theirs, flipped(&theirs)?)?;
    if sides.rust("compare")? {
        return Ok(Outcome::Failed(format!("Rust noticed nothing of another byte in {}", theirs.display())));
    }
    Ok(Outcome::Passed)
}

/// The two programs and the folder that they share.
struct Sides<'a> {
    bench: &'a Bench,
    programs: Programs,
    script: PathBuf,
    modules: PathBuf,
    folder: &'a Path,
    golden: PathBuf,
}

impl Sides<'_> {
    fn rust(&self, command: &str) -> Result<bool> {
        let mut program = self.programs.command(EXAMPLE)?;
        self.bench.run(program.arg(command).arg(self.folder).env("RUST_BACKTRACE", "0"))
    }

    fn python(&self) -> Result<bool> {
        let mut command = python::python(&[]);
        command.arg(&self.script).arg(self.folder).arg(&self.golden);
        self.bench.run(command.env("PYTHONPATH", &self.modules).env("PYTHONDONTWRITEBYTECODE", "1"))
    }
}

/// The listing with another value at `pointer`.
fn changed(listing: &Value, pointer: &str, value: Value) -> Result<Vec<u8>> {
    let mut listing = listing.clone();
    let place = listing.pointer_mut(pointer).with_context(|| format!("cases.json has no {pointer}"))?;
    if *place == value {
        bail!("{pointer} is {value} already");
    }
    *place = value;
    Ok(serde_json::to_vec(&listing)?)
}

/// The file's bytes with the last one changed.
fn flipped(path: &Path) -> Result<Vec<u8>> {
    let mut bytes = fs::read(path).with_context(|| format!("{} cannot be read", path.display()))?;
    *bytes.last_mut().with_context(|| format!("{} is empty", path.display()))? ^= 1;
    Ok(bytes)
}

/// The files of a folder, in a new one.
fn copied(from: &Path, to: PathBuf) -> Result<PathBuf> {
    fs::create_dir_all(&to)?;
    for entry in fs::read_dir(from).with_context(|| format!("{} cannot be read", from.display()))? {
        let entry = entry?;
        fs::copy(entry.path(), to.join(entry.file_name()))?;
    }
    Ok(to)
}

/// Any file below a folder.
fn a_file_below(folder: &Path) -> Result<PathBuf> {
    let first =
        fs::read_dir(folder)?.next().with_context(|| format!("{} is empty", folder.display()))??.path();
    if first.is_dir() { a_file_below(&first) } else { Ok(first) }
}
