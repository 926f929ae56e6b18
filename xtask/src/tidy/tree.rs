//! The text files of a work tree, read once: what git tracks or would track, or all files where there is no git.

use anyhow::{Context as _, Result};
use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};

/// Every text file by its path from the root, with `/` between folders.
pub(super) struct Tree {
    files: BTreeMap<String, String>,
}

impl Tree {
    /// Reads the tree. Files that are not UTF-8 are binary and left out.
    pub(super) fn load(root: &Path) -> Result<Self> {
        let paths = match tracked(root) {
            Some(paths) => paths,
            None => {
                let mut paths = Vec::new();
                walk(root, "", &mut paths)?;
                paths
            }
        };
        let mut files = BTreeMap::new();
        for path in paths {
            // A file may be deleted and not committed yet, or a link to a folder.
            if let Ok(bytes) = std::fs::read(root.join(&path))
                && let Ok(text) = String::from_utf8(bytes)
            {
                files.insert(path, text);
            }
        }
        Ok(Self { files })
    }

    /// Path and text of every file, in order.
    pub(super) fn files(&self) -> impl Iterator<Item = (&str, &str)> {
        self.files.iter().map(|(path, text)| (path.as_str(), text.as_str()))
    }

    /// Path and text of every Rust file, in order.
    pub(super) fn rust(&self) -> impl Iterator<Item = (&str, &str)> {
        self.files().filter(|(path, _)| path.ends_with(".rs"))
    }

    /// One file's text.
    pub(super) fn text(&self, path: &str) -> Option<&str> {
        self.files.get(path).map(String::as_str)
    }
}

/// What git tracks or would track; `None` without git or outside of a work tree of its own.
fn tracked(root: &Path) -> Option<Vec<String>> {
    if !root.join(".git").exists() {
        return None;
    }
    let output = Command::new("git")
        .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
        .current_dir(root)
        .stderr(Stdio::null())
        .output()
        .ok()?;
    let list = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| list.split_terminator('\0').map(str::to_owned).collect())
}

fn walk(root: &Path, folder: &str, paths: &mut Vec<String>) -> Result<()> {
    let here = root.join(folder);
    for entry in std::fs::read_dir(&here).with_context(|| format!("{} cannot be read", here.display()))? {
        let entry = entry?;
        let Ok(name) = entry.file_name().into_string() else {
            continue;
        };
        let path = if folder.is_empty() { name.clone() } else { format!("{folder}/{name}") };
        if !entry.file_type()?.is_dir() {
            paths.push(path);
        } else if name != ".git" && path != "target" {
            walk(root, &path, paths)?;
        }
    }
    Ok(())
}

/// A made-up tree in a temp folder.
#[cfg(test)]
pub(super) fn on_disk(files: &[(&str, &str)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (path, text) in files {
        let path = folder.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    folder
}

/// A made-up tree, written and read back.
#[cfg(test)]
pub(super) fn of(files: &[(&str, &str)]) -> Tree {
    Tree::load(on_disk(files).path()).unwrap()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn build_output_and_binary_files_are_left_out() {
        let folder = on_disk(&[("a/b.rs", "x"), ("target/c.rs", "x"), ("a/target/d.rs", "x")]);
        std::fs::write(folder.path().join("binary"), [0xFF, 0xFE]).unwrap();
        let tree = Tree::load(folder.path()).unwrap();
        assert_eq!(tree.files().map(|(path, _)| path).collect::<Vec<_>>(), ["a/b.rs", "a/target/d.rs"]);
        assert_eq!(tree.text("a/b.rs"), Some("x"));
    }

    #[test]
    fn what_git_ignores_is_left_out() {
        let folder = on_disk(&[(".gitignore", "*.log\n"), ("a.rs", "x"), ("b.log", "x")]);
        let init = Command::new("git").args(["init", "--quiet"]).current_dir(folder.path()).status();
        if !init.is_ok_and(|status| status.success()) {
            return; // No git: the other test's case.
        }
        let tree = Tree::load(folder.path()).unwrap();
        assert_eq!(tree.files().map(|(path, _)| path).collect::<Vec<_>>(), [".gitignore", "a.rs"]);
    }
}
