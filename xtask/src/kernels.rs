//! `cargo xtask kernels`: the code objects of kv-device-rocm's kernels, built from their source by compilers that come as packages.
//!
//! They are committed, so that users need no compiler; a list of digests says which source they were built from, and a test of this
//! crate that it is the committed one. The steps `clang19` and `gfx950` build them again and compare.

use crate::processes::{Processes, Stdout};
use crate::python;
use crate::workspace::{Metadata, root};
use anyhow::{Context as _, Result, bail};
use sha2::{Digest as _, Sha256};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

const FOLDER: &str = "kv-device-rocm/kernels";
const SOURCE: &str = "gather_scatter.hip";
const DIGESTS: &str = "SHA256SUMS";
/// Processors with a committed code object; hiprtc compiles for all others.
const COMMITTED: [&str; 2] = ["gfx942", "gfx950"];
/// A clang with every target of LLVM, inside of another compiler's package.
const ZIGLANG: &str = "ziglang==0.17.1";
const LIMIT: Duration = Duration::from_secs(5 * 60);

/// Build the code objects of the gather and scatter kernels and replace the committed ones.
///
/// Needs clang-19 and lld-19 (apt-get install clang-19 lld-19), and pip for a compiler that knows gfx950.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Fail if they are not the committed ones, and replace nothing.
    #[arg(long)]
    check: bool,
}

/// A compiler, and the processors that it is for.
pub(crate) struct Compiler {
    /// The programs with their first arguments.
    clang: Vec<PathBuf>,
    lld: Vec<PathBuf>,
    /// Those of [`COMMITTED`] that it builds.
    builds: &'static [&'static str],
    /// Those for which the source must compile as well.
    compiles: &'static [&'static str],
}

impl Compiler {
    /// Debian's, if it is installed. It does not know gfx950.
    pub(crate) fn clang19() -> Option<Self> {
        let installed = |program: &str| {
            let mut command = Command::new(program);
            command.arg("--version").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            command.status().is_ok_and(|status| status.success())
        };
        (installed("clang-19") && installed("ld.lld-19")).then(|| Self {
            clang: vec!["clang-19".into()],
            lld: vec!["ld.lld-19".into()],
            builds: &["gfx942"],
            compiles: &["gfx908", "gfx90a", "gfx1100"],
        })
    }

    /// The newer clang and lld of the Python package `ziglang`, installed below `target`.
    ///
    /// # Errors
    /// [`python::Unavailable`] without pip or a registry.
    pub(crate) fn ziglang(processes: &Processes, target: &Path) -> Result<Self> {
        let zig = python::packages(processes, target, &[ZIGLANG])?.join("ziglang/zig");
        Ok(Self {
            clang: vec![zig.clone(), "clang".into()],
            lld: vec![zig, "ld.lld".into()],
            builds: &["gfx950"],
            compiles: &["gfx942", "gfx1201"],
        })
    }
}

/// Runs the command.
pub(crate) fn run(options: &Options) -> Result<()> {
    let Some(clang19) = Compiler::clang19() else {
        bail!("clang-19 was not found: apt-get install clang-19 lld-19");
    };
    let (processes, root) = (Processes::new()?, root()?);
    let ziglang = Compiler::ziglang(&processes, &Metadata::read(&root)?.target_directory)?;
    for compiler in [clang19, ziglang] {
        build(&processes, &root, &compiler, !options.check)?;
    }
    Ok(())
}

/// Builds a compiler's code objects, and replaces or compares the committed ones.
pub(crate) fn build(processes: &Processes, root: &Path, compiler: &Compiler, replace: bool) -> Result<()> {
    let folder = root.join(FOLDER);
    for arch in compiler.builds.iter().chain(compiler.compiles) {
        let built = compile(processes, &folder, compiler, arch)?;
        println!("   {arch}: {} bytes", built.len());
        if !compiler.builds.contains(arch) {
            continue;
        }
        let committed = folder.join(name(arch));
        if replace {
            std::fs::write(&committed, built)?;
        } else if built != read(&committed)? {
            bail!("{} is not what {SOURCE} compiles to: run cargo xtask kernels", committed.display());
        }
    }
    if replace {
        std::fs::write(folder.join(DIGESTS), digests(&folder)?)?;
    }
    Ok(())
}

/// The code object for a processor. Compiled and linked by two commands, since a package's clang need not find its own linker.
fn compile(processes: &Processes, folder: &Path, compiler: &Compiler, arch: &str) -> Result<Vec<u8>> {
    let scratch = tempfile::tempdir()?;
    let (object, linked) = (scratch.path().join("kernels.o"), scratch.path().join("kernels.hsaco"));
    let mut clang = command(&compiler.clang)?;
    clang.args([
        "-x",
        "hip",
        "--cuda-device-only",
        "--no-gpu-bundle-output",
        "-fhip-emit-relocatable",
        "-nogpuinc",
        "-nogpulib",
        "-O3",
        // What every runtime loads that knows these processors; the default of newer compilers is not.
        "-mcode-object-version=5",
        // No identifier that depends on where and when it was compiled.
        "-fuse-cuid=none",
    ]);
    clang.args(["-Wall", "-Wextra", "-Werror"]).arg(format!("--offload-arch={arch}"));
    // By its name alone, so that no path of this machine is in the output.
    clang.args([SOURCE, "-o"]).arg(&object).current_dir(folder);
    let mut lld = command(&compiler.lld)?;
    lld.args(["-m", "elf64_amdgpu", "--no-undefined", "-shared"]).arg(&object).arg("-o").arg(&linked);
    for mut command in [clang, lld] {
        if !processes.run(&mut command, Stdout::Inherit, LIMIT)?.status.success() {
            bail!("{SOURCE} does not compile for {arch}: the compiler's words are above");
        }
    }
    read(&linked)
}

fn command(words: &[PathBuf]) -> Result<Command> {
    let (program, arguments) = words.split_first().context("a compiler without a program")?;
    let mut command = Command::new(program);
    command.args(arguments);
    Ok(command)
}

fn name(arch: &str) -> String {
    format!("gather_scatter.{arch}.hsaco")
}

/// The source and the code objects, as `sha256sum` lists them.
fn digests(folder: &Path) -> Result<String> {
    let mut list = String::new();
    for file in COMMITTED.iter().map(|arch| name(arch)).chain([SOURCE.to_owned()]) {
        let digest = Sha256::digest(read(&folder.join(&file))?);
        for byte in digest {
            let _ = write!(list, "{byte:02x}"); // a string takes all
        }
        let _ = writeln!(list, "  {file}");
    }
    Ok(list)
}

fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).with_context(|| PathBuf::from(path).display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_committed_code_objects_are_of_the_committed_source() {
        let folder = root().unwrap().join(FOLDER);
        let list = std::fs::read_to_string(folder.join(DIGESTS)).unwrap();
        assert_eq!(list, digests(&folder).unwrap(), "the kernels changed: run cargo xtask kernels");
    }
}
