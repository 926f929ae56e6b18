//! Python and packages of it for checks by somebody else's code, installed below target/ and nowhere else.

use crate::processes::{Processes, Stdout};
use anyhow::{Context as _, Result};
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(15 * 60);

/// This machine lacks Python, pip or the registry: a reason to skip, not a fault of the project.
#[derive(Debug)]
pub(crate) struct Unavailable(String);

impl Unavailable {
    /// Says what is lacking.
    pub(crate) fn new(why: impl Into<String>) -> Self {
        Self(why.into())
    }
}

impl fmt::Display for Unavailable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Unavailable {}

/// `python3` with these arguments.
pub(crate) fn python(arguments: &[&str]) -> Command {
    let mut command = Command::new("python3");
    command.args(arguments);
    command
}

/// Whether `python3` runs this without an error.
fn works(command: &mut Command) -> bool {
    let quiet = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    quiet.status().is_ok_and(|status| status.success())
}

/// Whether there is a `python3` with pip.
pub(crate) fn has_pip() -> bool {
    works(&mut python(&["-m", "pip", "--version"]))
}

/// A folder for `PYTHONPATH` with these packages, each `name==version` and imported by its name.
///
/// # Errors
/// [`Unavailable`] when the machine has no pip or reaches no registry; anything else is a failure.
pub(crate) fn packages(processes: &Processes, target: &Path, pinned: &[&str]) -> Result<PathBuf> {
    let names: Vec<_> = pinned.iter().filter_map(|pin| pin.split("==").next()).collect();
    // Compiled packages are of one version of Python: the import shows whether it is still the same.
    let import = format!("import {}", names.join(", "));
    install(processes, target, pinned, |path| works(python(&["-c", &import]).env("PYTHONPATH", path)))
}

/// A folder with the files of a package, `name==version`, that has nothing to import.
///
/// # Errors
/// As [`packages`].
pub(crate) fn files(processes: &Processes, target: &Path, pinned: &str) -> Result<PathBuf> {
    install(processes, target, &[pinned], Path::exists)
}

/// Installs packages once, and again if what was installed is not `usable`.
fn install(
    processes: &Processes,
    target: &Path,
    pinned: &[&str],
    usable: impl Fn(&Path) -> bool,
) -> Result<PathBuf> {
    let folder = target.join("python");
    let path = folder.join(pinned.join("-").replace("==", "-"));
    if path.exists() {
        if usable(&path) {
            return Ok(path);
        }
        println!("   {} does not work with this python3 any more: installing it again", path.display());
        std::fs::remove_dir_all(&path).with_context(|| format!("{} cannot be removed", path.display()))?;
    }
    if !has_pip() {
        return Err(Unavailable("python3 with pip was not found (install python3-pip)".into()).into());
    }
    std::fs::create_dir_all(&folder).with_context(|| format!("{} cannot be created", folder.display()))?;
    let temporary = tempfile::Builder::new().prefix("install-").tempdir_in(&folder)?;
    println!("   pip install {}", pinned.join(" "));
    let arguments =
        ["-m", "pip", "install", "--quiet", "--no-deps", "--no-input", "--disable-pip-version-check"];
    let install = processes.run(
        python(&arguments)
            .args(["--root-user-action", "ignore", "--only-binary", ":all:", "--target"])
            .arg(temporary.path())
            .args(pinned),
        Stdout::Inherit,
        LIMIT,
    )?;
    if !install.status.success() || !usable(temporary.path()) {
        let why = format!("pip could not install {} (its message is above)", pinned.join(" "));
        return Err(Unavailable(why).into());
    }
    publish(&temporary.keep(), &path)?;
    Ok(path)
}

#[expect(clippy::disallowed_methods, reason = "a cache on this machine; an import shows whether it is whole")]
fn publish(from: &Path, to: &Path) -> Result<()> {
    std::fs::rename(from, to).with_context(|| format!("{} cannot be put in place", to.display()))
}
