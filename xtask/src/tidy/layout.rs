//! Files that each crate and the project must have, and what they are called.

use super::Violation;
use super::tree::Tree;
use std::collections::BTreeMap;

/// Checks that the files are there.
pub(super) fn check(tree: &Tree) -> Vec<Violation> {
    let mut found = Vec::new();
    for (path, _) in tree.files() {
        if let Some(folder) = path.strip_suffix("/Cargo.toml")
            && folder.starts_with("kv-")
            && !folder.contains('/')
            && tree.text(&format!("{folder}/README.md")).is_none()
        {
            found.push(Violation::new(
                format!("{folder}/README.md"),
                1,
                "is missing: crates.io shows it first",
            ));
        }
    }
    if tree.text("CHANGELOG.md").is_none() {
        found.push(Violation::new("CHANGELOG.md", 1, "is missing: say what changes for users"));
    }
    let mut numbers = BTreeMap::new();
    for (path, _) in tree.files() {
        let Some(name) = path.strip_prefix("docs/adr/").and_then(|name| name.strip_suffix(".md")) else {
            continue;
        };
        match number(name) {
            None => {
                found.push(Violation::new(path, 1, "is not named NNNN-title.md, in lower case with hyphens"))
            }
            Some(number) => {
                if let Some(other) = numbers.insert(number, path) {
                    found.push(Violation::new(
                        path,
                        1,
                        format!("has the number of {other}: take the next free one"),
                    ));
                }
            }
        }
    }
    found
}

/// The number of `NNNN-title`.
fn number(name: &str) -> Option<&str> {
    let (number, title) = name.split_once('-')?;
    let digits = number.len() == 4 && number.bytes().all(|byte| byte.is_ascii_digit());
    let words = title.split('-').all(|word| {
        !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
    });
    (digits && words).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::tree::of;

    const CHANGELOG: (&str, &str) = ("CHANGELOG.md", "# Changelog\n");

    fn paths(files: &[(&str, &str)]) -> Vec<String> {
        check(&of(files)).into_iter().map(|violation| violation.path).collect()
    }

    #[test]
    fn a_readme_and_a_changelog_are_asked_for() {
        let manifest = ("kv-x/Cargo.toml", "");
        let none: Vec<String> = Vec::new();
        assert_eq!(paths(&[CHANGELOG, manifest, ("kv-x/README.md", ""), ("xtask/Cargo.toml", "")]), none);
        assert_eq!(paths(&[CHANGELOG, manifest]), ["kv-x/README.md"]);
        assert_eq!(paths(&[("README.md", "")]), ["CHANGELOG.md"]);
    }

    #[test]
    fn decisions_are_numbered_once_and_named_alike() {
        let none: Vec<String> = Vec::new();
        assert_eq!(
            paths(&[CHANGELOG, ("docs/adr/0001-one-format.md", ""), ("docs/adr/0002-x.md", "")]),
            none
        );
        for wrong in ["1-one.md", "0001.md", "0001-One.md", "0001_one.md", "0001-one--two.md", "README.md"] {
            let path = format!("docs/adr/{wrong}");
            assert_eq!(paths(&[CHANGELOG, (&path, "")]), std::slice::from_ref(&path));
        }
        let twice = [CHANGELOG, ("docs/adr/0001-a.md", ""), ("docs/adr/0001-b.md", "")];
        assert_eq!(paths(&twice), ["docs/adr/0001-b.md"]);
    }
}
