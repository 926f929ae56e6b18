//! Programs of the workspace, built as the step `tests` builds them.
//!
//! Cargo unites features over what one command selects: a command for one package alone would compile that package again with other
//! features, and most of what it depends on. So whatever runs a test or an example in the dev profile selects the whole workspace with
//! all features, and names what it wants.

use crate::processes::{Processes, Stdout};
use crate::workspace::cargo;
use anyhow::{Context as _, Result, bail};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(30 * 60);

/// A program of a package.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Program {
    Test(&'static str),
    Example(&'static str),
    Binary(&'static str),
}

impl Program {
    const fn name(self) -> &'static str {
        match self {
            Self::Test(name) | Self::Example(name) | Self::Binary(name) => name,
        }
    }

    /// How cargo is asked for it.
    const fn option(self) -> &'static str {
        match self {
            Self::Test(_) => "--test",
            Self::Example(_) => "--example",
            Self::Binary(_) => "--bin",
        }
    }
}

/// Programs of one package that have been built.
pub(crate) struct Programs {
    folder: PathBuf,
    paths: BTreeMap<String, PathBuf>,
}

impl Programs {
    /// Builds these programs of the package in `folder`, one test or example among them at the least: a binary alone would be built
    /// without the features that tests ask for.
    pub(crate) fn build(processes: &Processes, folder: &Path, programs: &[Program]) -> Result<Self> {
        let mut command = Command::new(cargo());
        command.current_dir(folder).args(["build", "--quiet", "--workspace", "--all-features"]);
        command.args(["--message-format", "json-render-diagnostics"]);
        command.args(programs.iter().flat_map(|program| [program.option(), program.name()]));
        let finished = processes.run(&mut command, Stdout::Capture, LIMIT)?;
        if !finished.status.success() {
            let names: Vec<_> = programs.iter().map(|program| program.name()).collect();
            bail!("{} in {} do not build: the errors are above", names.join(", "), folder.display());
        }
        let paths = executables(&finished.stdout, &folder.join("Cargo.toml"));
        Ok(Self { folder: folder.to_owned(), paths })
    }

    /// Where a program is.
    pub(crate) fn path(&self, name: &str) -> Result<&Path> {
        let path = self.paths.get(name).map(PathBuf::as_path);
        path.with_context(|| format!("cargo built no program named {name} in {}", self.folder.display()))
    }

    /// A command that runs a program in the folder of its package, as `cargo test` does.
    pub(crate) fn command(&self, name: &str) -> Result<Command> {
        let mut command = Command::new(self.path(name)?);
        command.current_dir(&self.folder);
        Ok(command)
    }
}

/// Names and paths of one package's programs in cargo's messages.
fn executables(messages: &str, manifest: &Path) -> BTreeMap<String, PathBuf> {
    let messages = messages.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    messages
        .filter_map(|message| {
            let text = |pointer| message.pointer(pointer)?.as_str();
            let ours = Path::new(text("/manifest_path")?) == manifest;
            let is_example = text("/target/kind/0") == Some("example");
            // An example that is a library is no executable.
            let library = || text("/filenames/0").filter(|_| is_example);
            let path = text("/executable").or_else(library);
            ours.then_some((text("/target/name")?.to_owned(), path?.into()))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_found_in_cargos_messages_under_the_package_that_they_are_of() {
        let messages = r#"{"manifest_path":"/a/Cargo.toml","target":{"name":"kv_storage"},"executable":null}
{"manifest_path":"/a/Cargo.toml","target":{"name":"crash"},"executable":"/t/crash-1"}
{"manifest_path":"/b/Cargo.toml","target":{"name":"crash"},"executable":"/t/crash-2"}
{"manifest_path":"/b/Cargo.toml","target":{"name":"kv","kind":["lib"]},"executable":null,"filenames":["/t/libkv.rlib"]}
{"manifest_path":"/b/Cargo.toml","target":{"name":"fake","kind":["example"]},"executable":null,"filenames":["/t/libfake.so"]}
not json
{"reason":"build-finished","success":true}"#;
        let found = |manifest| executables(messages, Path::new(manifest)).into_iter().collect::<Vec<_>>();
        assert_eq!(found("/a/Cargo.toml"), [("crash".to_owned(), "/t/crash-1".into())]);
        let [crash, fake] = [("crash", "/t/crash-2"), ("fake", "/t/libfake.so")];
        assert_eq!(found("/b/Cargo.toml"), [crash, fake].map(|(name, path)| (name.to_owned(), path.into())));
    }
}
