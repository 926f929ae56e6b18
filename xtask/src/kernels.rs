//! `cargo xtask kernels`: the code objects of kv-device-rocm's kernels, built from their source by the compiler that Debian packages.
//!
//! They are committed, so that users need no compiler; a list of digests says which source they were built from, and a test of this
//! crate that it is the committed one. The step `clang19` builds them again and compares.

use crate::processes::{Processes, Stdout};
use crate::workspace::root;
use anyhow::{Context as _, Result, bail};
use sha2::{Digest as _, Sha256};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

const FOLDER: &str = "kv-device-rocm/kernels";
const SOURCE: &str = "gather_scatter.hip";
const DIGESTS: &str = "SHA256SUMS";
/// Processors with a committed code object. `clang-19` does not know gfx950: hiprtc compiles for it, as for all others.
const COMMITTED: [&str; 1] = ["gfx942"];
/// Processors for which the source must compile as well.
const COMPILED: [&str; 3] = ["gfx908", "gfx90a", "gfx1100"];
const COMPILER: &str = "clang-19";
const LIMIT: Duration = Duration::from_secs(5 * 60);

/// Build the code objects of the gather and scatter kernels and replace the committed ones.
///
/// Needs clang-19 and lld-19 (apt-get install clang-19 lld-19).
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Fail if they are not the committed ones, and replace nothing.
    #[arg(long)]
    check: bool,
}

/// Whether the compiler is installed.
pub(crate) fn available() -> bool {
    let quiet = |program: &str| {
        let mut command = Command::new(program);
        command.arg("--version").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    };
    quiet(COMPILER) && quiet("ld.lld-19")
}

/// Runs the command.
pub(crate) fn run(options: &Options) -> Result<()> {
    if !available() {
        bail!("{COMPILER} was not found: apt-get install clang-19 lld-19");
    }
    build(&Processes::new()?, &root()?, !options.check)
}

/// Builds every code object, and replaces or compares the committed ones.
pub(crate) fn build(processes: &Processes, root: &Path, replace: bool) -> Result<()> {
    let folder = root.join(FOLDER);
    let scratch = tempfile::tempdir()?;
    for arch in COMMITTED.iter().chain(&COMPILED) {
        let built = scratch.path().join(name(arch));
        let mut compiler = Command::new(COMPILER);
        compiler
            .args([
                "-x",
                "hip",
                "--cuda-device-only",
                "--no-gpu-bundle-output",
                "-nogpuinc",
                "-nogpulib",
                "-O3",
                // No identifier that depends on where and when it was compiled.
                "-fuse-cuid=none",
            ])
            .args(["-Wall", "-Wextra", "-Werror"])
            .arg(format!("--offload-arch={arch}"))
            // By its name alone, so that no path of this machine is in the output.
            .args([SOURCE, "-o"])
            .arg(&built)
            .current_dir(&folder);
        if !processes.run(&mut compiler, Stdout::Inherit, LIMIT)?.status.success() {
            bail!("{SOURCE} does not compile for {arch}: the compiler's words are above");
        }
        println!("   {arch}: {} bytes", read(&built)?.len());
        if !COMMITTED.contains(arch) {
            continue;
        }
        let committed = folder.join(name(arch));
        if replace {
            std::fs::write(&committed, read(&built)?)?;
        } else if read(&built)? != read(&committed)? {
            bail!("{} is not what {SOURCE} compiles to: run cargo xtask kernels", committed.display());
        }
    }
    let digests = digests(&folder)?;
    if replace {
        std::fs::write(folder.join(DIGESTS), digests)?;
    }
    Ok(())
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
