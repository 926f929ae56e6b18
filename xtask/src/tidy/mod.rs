//! `cargo xtask tidy`: the project's rules that no compiler and no linter keeps.

mod anchors;
mod dependencies;
mod layout;
mod mask;
mod sources;
mod tree;
mod unsafety;

use crate::workspace::{Metadata, root};
use anyhow::{Result, bail};
use std::fmt;
use std::path::Path;
use tree::Tree;

/// Check the project's own rules: dependency direction, file shape, where unsafe lives, specification anchors.
///
/// Prints each violation as file:line and fails if there is one.
#[derive(clap::Args)]
pub(crate) struct Options {}

/// One broken rule, at one place.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Violation {
    /// Relative to the workspace root.
    pub path: String,
    pub line: usize,
    /// What was found and what to do.
    pub text: String,
}

impl Violation {
    fn new(path: impl Into<String>, line: usize, text: impl Into<String>) -> Self {
        Self { path: path.into(), line, text: text.into() }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.path, self.line, self.text)
    }
}

/// Runs every rule over the workspace at `root`; the answer is in the order of files.
pub(crate) fn check(root: &Path, metadata: &Metadata) -> Result<Vec<Violation>> {
    let tree = Tree::load(root)?;
    let mut found = dependencies::check(metadata, &tree);
    found.extend(sources::check(&tree));
    found.extend(unsafety::check(&tree));
    found.extend(anchors::check(&tree));
    found.extend(layout::check(&tree));
    found.sort();
    Ok(found)
}

/// One line each, then the count.
pub(crate) fn listing(violations: &[Violation]) -> String {
    let mut text: String = violations.iter().map(|violation| format!("{violation}\n")).collect();
    text.push_str(&format!("tidy: {} violations\n", violations.len()));
    text
}

/// The command line's side.
pub(crate) fn command(_: &Options) -> Result<()> {
    let root = root()?;
    let violations = check(&root, &Metadata::read(&root)?)?;
    print!("{}", listing(&violations));
    if !violations.is_empty() {
        bail!("the rules above are broken (each is explained in xtask/src/tidy)");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The smallest workspace: one library that keeps every rule, in a temp folder, read by the real cargo.
    fn workspace(source: &str) -> tempfile::TempDir {
        tree::on_disk(&[
            ("Cargo.toml", "[workspace]\nresolver = \"3\"\nmembers = [\"kv-format\", \"kv-storage\"]\n"),
            ("CHANGELOG.md", "# Changelog\n"),
            ("kv-format/Cargo.toml", "[package]\nname = \"kv-format\"\nedition = \"2024\"\n"),
            ("kv-format/README.md", "# kv-format\n"),
            ("kv-format/SPEC.md", "# Format\n\n- `[magic]` A reader MUST refuse another magic.\n"),
            ("kv-format/src/lib.rs", source),
            ("kv-format/tests/magic.rs", "//! Magic.\n\n//= SPEC.md#magic\n#[test]\nfn magic() {}\n"),
            ("kv-storage/Cargo.toml", "[package]\nname = \"kv-storage\"\nedition = \"2024\"\n"),
            ("kv-storage/README.md", "# kv-storage\n"),
            ("kv-storage/SEMANTICS.md", "# Semantics\n"),
            ("kv-storage/src/lib.rs", "//! Storage.\n"),
        ])
    }

    /// The list of unsafe modules is of the real tree: its stale entries are not this test's subject.
    fn violations(folder: &Path) -> Vec<String> {
        let found = check(folder, &Metadata::read(folder).unwrap()).unwrap();
        found
            .iter()
            .map(ToString::to_string)
            .filter(|text| !text.starts_with("xtask/src/tidy/unsafety.rs"))
            .collect()
    }

    #[test]
    fn a_tidy_tree_has_no_violation_and_an_untidy_one_is_reported_by_file_and_line() {
        let tidy = workspace("//! Format.\n");
        assert_eq!(violations(tidy.path()), Vec::<String>::new());

        let untidy = workspace(concat!("//! Format.\n\n// TO", "DO: all of it\n"));
        let found = violations(untidy.path());
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found.iter().all(|text| text.starts_with("kv-format/src/lib.rs:3: ")), "{found:?}");
    }

    #[test]
    fn the_listing_ends_with_the_count() {
        let violations = [Violation::new("a.rs", 3, "is untidy")];
        assert_eq!(listing(&violations), "a.rs:3: is untidy\ntidy: 1 violations\n");
    }
}
