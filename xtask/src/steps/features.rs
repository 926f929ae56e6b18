//! Feature builds: additive features compile alone, not only in the mix that the other crates ask for.

use super::checks::cargo_with;
use super::{Bench, Outcome};
use crate::workspace::Metadata;
use anyhow::Result;

/// Lints each library with no feature and with each feature alone; reports every combination that fails.
pub(super) fn run(bench: &Bench) -> Result<Outcome> {
    let mut failed = Vec::new();
    for (package, feature) in combinations(&bench.metadata) {
        // Clippy type-checks as `cargo check` does, and fails on a warning without rebuilding the dependencies.
        let mut command = cargo_with(&["clippy", "--quiet", "-p", package, "--no-default-features"]);
        if let Some(feature) = feature {
            command.args(["--features", feature]);
        }
        if !bench.run(command.args(["--", "-D", "warnings"]))? {
            failed.push(format!("{package} with {}", feature.unwrap_or("no feature")));
        }
    }
    Ok(if failed.is_empty() { Outcome::Passed } else { Outcome::Failed(failed.join(", ")) })
}

/// Each `kv-*` crate with no feature, then with each of its features but `default`.
fn combinations(metadata: &Metadata) -> Vec<(&str, Option<&str>)> {
    let libraries = metadata.packages.iter().filter(|package| package.name.starts_with("kv-"));
    libraries
        .flat_map(|package| {
            let features = package.features.keys().filter(|name| *name != "default");
            let alone = features.map(|name| Some(name.as_str()));
            std::iter::once(None).chain(alone).map(|feature| (package.name.as_str(), feature))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_feature_of_each_library_is_built_alone() {
        let metadata: Metadata = serde_json::from_str(
            r#"{"workspace_root": "/r", "target_directory": "/r/target", "packages": [
                {"name": "kv-x", "manifest_path": "", "dependencies": [], "features": {"default": ["a"], "a": [], "b": []}},
                {"name": "kv-y", "manifest_path": "", "dependencies": [], "features": {}},
                {"name": "xtask", "manifest_path": "", "dependencies": [], "features": {"c": []}}]}"#,
        )
        .unwrap();
        let expected = [("kv-x", None), ("kv-x", Some("a")), ("kv-x", Some("b")), ("kv-y", None)];
        assert_eq!(combinations(&metadata), expected);
    }
}
