//! Where the workspace is and what cargo says about it.

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The part of `cargo metadata --no-deps --format-version 1` that the commands use.
#[derive(Debug, Deserialize)]
pub(crate) struct Metadata {
    /// Every crate of the workspace, and no other.
    pub packages: Vec<Package>,
    pub workspace_root: PathBuf,
    /// Follows `CARGO_TARGET_DIR`.
    pub target_directory: PathBuf,
}

/// One crate of the workspace.
#[derive(Debug, Deserialize)]
pub(crate) struct Package {
    pub name: String,
    pub manifest_path: PathBuf,
    pub dependencies: Vec<Dependency>,
    pub features: BTreeMap<String, Vec<String>>,
}

/// One dependency of a crate, as its manifest states it.
#[derive(Debug, Deserialize)]
pub(crate) struct Dependency {
    pub name: String,
    /// `None` is a normal dependency; otherwise "dev" or "build".
    pub kind: Option<String>,
    pub features: Vec<String>,
}

impl Metadata {
    /// Asks cargo about the workspace at `root`.
    pub(crate) fn read(root: &Path) -> Result<Self> {
        let output = Command::new(cargo())
            .args(["metadata", "--no-deps", "--format-version", "1"])
            .current_dir(root)
            .output()
            .context("cargo could not be started")?;
        if !output.status.success() {
            bail!("cargo metadata in {}: {}", root.display(), String::from_utf8_lossy(&output.stderr).trim());
        }
        serde_json::from_slice(&output.stdout).context("cargo metadata printed JSON of an unknown shape")
    }
}

/// The workspace root: the folder above this crate's.
pub(crate) fn root() -> Result<PathBuf> {
    // Cargo sets the variable for `cargo run`; the compiled-in value serves the bare binary.
    let here = std::env::var_os("CARGO_MANIFEST_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
    here.parent()
        .map(Path::to_path_buf)
        .with_context(|| format!("{} has no parent folder, expected the workspace root", here.display()))
}

/// The cargo that runs us, so that a `+toolchain` choice holds for every step.
pub(crate) fn cargo() -> OsString {
    std::env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo"))
}
