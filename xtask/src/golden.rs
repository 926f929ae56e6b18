//! `cargo xtask golden`: makes the golden files anew by programs that share no code with the library, and compares.
//!
//! The files are committed and the tests read those; this shows that they are what the generators make. It needs python3, pip and
//! a package registry, so it is no step of `cargo xtask test`.

use crate::processes::{Processes, Stdout};
use crate::workspace::{Metadata, root};
use anyhow::{Context as _, Result, bail};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// What the generators import. numpy 2.1 was the first with a reshape that refuses to copy.
const REQUIREMENTS: [&str; 1] = ["numpy>=2.1,<3"];
const INSTALL_LIMIT: Duration = Duration::from_secs(15 * 60);
const RUN_LIMIT: Duration = Duration::from_secs(5 * 60);

/// A program that writes golden files into the folder it is given, and where they are committed.
struct Generator {
    script: &'static str,
    folder: &'static str,
}

const GENERATORS: [Generator; 1] =
    [Generator { script: "kv-format/golden/layouts.py", folder: "kv-format/tests/golden/layouts" }];

/// Make the golden files anew from their generators and fail if they are not the committed ones.
///
/// Installs numpy under target/golden-python first (needs python3 with pip, and a package registry).
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Replace the committed files by what the generators make.
    #[arg(long)]
    write: bool,
}

/// Runs the command.
pub(crate) fn run(options: &Options) -> Result<()> {
    let root = root()?;
    let target = Metadata::read(&root)?.target_directory;
    let processes = Processes::new()?;
    let packages = install(&processes, &target)?;
    let mut differing = Vec::new();
    for generator in &GENERATORS {
        let made = tempfile::Builder::new().prefix("golden-").tempdir_in(&target)?;
        let mut command = Command::new("python3");
        command.arg(root.join(generator.script)).arg(made.path()).env("PYTHONPATH", &packages);
        if !processes.run(&mut command, Stdout::Inherit, RUN_LIMIT)?.status.success() {
            bail!("{} failed: its message is above", generator.script);
        }
        let committed = root.join(generator.folder);
        let differences = differences(&files(made.path())?, &files(&committed)?);
        if options.write {
            write(made.path(), &committed)?;
        }
        println!("{}: {} files differ from {}", generator.script, differences.len(), generator.folder);
        differing.extend(differences.into_iter().map(|name| format!("{}/{name}", generator.folder)));
    }
    if !differing.is_empty() && !options.write {
        bail!(
            "not what the generators make: {} (`cargo xtask golden --write` replaces them; say in the commit why)",
            differing.join(", ")
        );
    }
    Ok(())
}

/// The folder with the generators' packages, filled if need be.
fn install(processes: &Processes, target: &Path) -> Result<PathBuf> {
    let packages = target.join("golden-python");
    let pip = ["-m", "pip", "install", "--quiet", "--no-input", "--disable-pip-version-check", "--upgrade"];
    let mut command = Command::new("python3");
    command.args(pip).arg("--target").arg(&packages).args(REQUIREMENTS);
    let done = processes
        .run(&mut command, Stdout::Inherit, INSTALL_LIMIT)
        .context("python3 was not found: install python3 and python3-pip")?;
    if !done.status.success() {
        bail!("pip could not install {} (its message is above): check the network", REQUIREMENTS.join(", "));
    }
    Ok(packages)
}

/// Every file below a folder by its path from there; none if there is no folder.
fn files(folder: &Path) -> Result<BTreeMap<String, Vec<u8>>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![(folder.to_path_buf(), String::new())];
    while let Some((folder, prefix)) = folders.pop() {
        if !folder.exists() {
            continue;
        }
        for entry in
            std::fs::read_dir(&folder).with_context(|| format!("{} cannot be read", folder.display()))?
        {
            let entry = entry?;
            let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
            if entry.file_type()?.is_dir() {
                folders.push((entry.path(), format!("{name}/")));
            } else {
                found.insert(name, std::fs::read(entry.path())?);
            }
        }
    }
    Ok(found)
}

/// Names of files that are missing, superfluous or of other bytes.
fn differences(made: &BTreeMap<String, Vec<u8>>, committed: &BTreeMap<String, Vec<u8>>) -> Vec<String> {
    let mut names: Vec<&String> = made.keys().chain(committed.keys()).collect();
    names.sort_unstable();
    names.dedup();
    names.into_iter().filter(|name| made.get(*name) != committed.get(*name)).cloned().collect()
}

/// Replaces the committed files by the made ones.
fn write(made: &Path, committed: &Path) -> Result<()> {
    for name in files(committed)?.keys() {
        std::fs::remove_file(committed.join(name)).with_context(|| format!("{name} cannot be removed"))?;
    }
    for (name, bytes) in files(made)? {
        let path = committed.join(&name);
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)
                .with_context(|| format!("{} cannot be created", folder.display()))?;
        }
        std::fs::write(&path, bytes).with_context(|| format!("{} cannot be written", path.display()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_a_missing_and_a_superfluous_file_differ_until_they_are_written() {
        let (made, committed) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        for (name, bytes) in [("same", "1"), ("sub/changed", "2"), ("missing", "3")] {
            let path = made.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, bytes).unwrap();
        }
        std::fs::create_dir(committed.path().join("sub")).unwrap();
        for (name, bytes) in [("same", "1"), ("sub/changed", "x"), ("superfluous", "4")] {
            std::fs::write(committed.path().join(name), bytes).unwrap();
        }
        let compare = || differences(&files(made.path()).unwrap(), &files(committed.path()).unwrap());
        assert_eq!(compare(), ["missing", "sub/changed", "superfluous"]);
        write(made.path(), committed.path()).unwrap();
        assert_eq!(compare(), Vec::<String>::new());
    }

    #[test]
    fn every_generator_and_its_files_are_there() {
        let root = root().unwrap();
        for generator in &GENERATORS {
            assert!(root.join(generator.script).is_file(), "{}", generator.script);
            assert!(!files(&root.join(generator.folder)).unwrap().is_empty(), "{}", generator.folder);
        }
    }
}
