//! Which crate may name which: the layers stay layers only if something refuses the first shortcut.

use super::Violation;
use super::tree::Tree;
use crate::workspace::{Dependency, Metadata, Package};
use std::path::Path;

/// Each library and the crates of this workspace that it may name.
const LIBRARIES: [(&str, &[&str]); 8] = [
    ("kv-format", &[]),
    ("kv-memory", &[]),
    ("kv-device", &["kv-format", "kv-memory"]),
    ("kv-device-rocm", &["kv-format", "kv-memory", "kv-device"]),
    ("kv-device-hpu", &["kv-format", "kv-memory", "kv-device"]),
    // A store vendor never sees a device.
    ("kv-storage", &["kv-format", "kv-memory"]),
    ("kv-pipeline", &["kv-format", "kv-memory", "kv-device", "kv-storage"]),
    ("kv-planner", &["kv-format"]),
];

/// Programs name every library; nobody names them. So do the crates in examples/.
const PROGRAMS: [&str; 2] = ["kv-cli", "xtask"];

/// The parts of tokio that libraries use: no I/O, no thread pool, no signals of their own.
const TOKIO: [&str; 4] = ["sync", "rt", "time", "macros"];

/// For programs only: a library has typed errors and no command line.
const NOT_IN_LIBRARIES: [&str; 2] = ["anyhow", "clap"];

/// Checks every crate that cargo lists. Dev-dependencies are free.
pub(super) fn check(metadata: &Metadata, tree: &Tree) -> Vec<Violation> {
    let mut found = Vec::new();
    for package in &metadata.packages {
        let manifest = relative(&package.manifest_path, &metadata.workspace_root);
        let Some(place) = place(package, &manifest) else {
            found.push(Violation::new(
                manifest,
                1,
                format!(
                    "{} has no place in the layers: add it to xtask/src/tidy/dependencies.rs",
                    package.name
                ),
            ));
            continue;
        };
        for dependency in package.dependencies.iter().filter(|d| d.kind.as_deref() != Some("dev")) {
            let local = metadata.packages.iter().any(|other| other.name == dependency.name);
            if let Some(text) = objection(package, dependency, local, &place) {
                found.push(Violation::new(&manifest, line_of(tree, &manifest, dependency), text));
            }
        }
    }
    found
}

/// What a crate of the workspace is.
enum Place {
    Program,
    /// A library, and the local crates that it may name.
    Library(&'static [&'static str]),
}

/// `None` for a crate that has no place yet.
fn place(package: &Package, manifest: &str) -> Option<Place> {
    if PROGRAMS.contains(&package.name.as_str()) || manifest.starts_with("examples/") {
        return Some(Place::Program);
    }
    LIBRARIES.iter().find(|(name, _)| *name == package.name).map(|(_, allowed)| Place::Library(allowed))
}

/// What is wrong with this dependency, if anything.
fn objection(package: &Package, dependency: &Dependency, local: bool, place: &Place) -> Option<String> {
    let (from, to) = (&package.name, dependency.name.as_str());
    let Place::Library(allowed) = place else {
        let library = LIBRARIES.iter().any(|(name, _)| *name == to);
        return (local && !library)
            .then(|| format!("{from} names {to}, which is a program: nobody names one"));
    };
    if local {
        let layers =
            if allowed.is_empty() { "no crate of this workspace".into() } else { allowed.join(", ") };
        return (!allowed.contains(&to))
            .then(|| format!("{from} may not name {to}: its layer names {layers}"));
    }
    if NOT_IN_LIBRARIES.contains(&to) {
        return Some(format!("{from} is a library and may not name {to}: it is for programs"));
    }
    let extra: Vec<&str> =
        dependency.features.iter().map(String::as_str).filter(|feature| !TOKIO.contains(feature)).collect();
    (to == "tokio" && dependency.kind.is_none() && !extra.is_empty()).then(|| {
        format!("{from} asks for tokio's {}: libraries use {} only", extra.join(", "), TOKIO.join(", "))
    })
}

fn relative(manifest: &Path, root: &Path) -> String {
    manifest.strip_prefix(root).unwrap_or(manifest).to_string_lossy().replace('\\', "/")
}

/// The manifest's line that names the dependency, or the first one.
fn line_of(tree: &Tree, manifest: &str, dependency: &Dependency) -> usize {
    let section = match dependency.kind.as_deref() {
        Some("build") => "build-dependencies",
        _ => "dependencies",
    };
    let mut current = "";
    for (index, line) in tree.text(manifest).unwrap_or_default().lines().enumerate() {
        if let Some(header) = line.trim().strip_prefix('[') {
            // `[dependencies]`, `[target.'cfg(unix)'.dependencies]`, `[dependencies.tokio]`.
            current = header.trim_end_matches(']');
        }
        let inside = current == section || current.ends_with(&format!(".{section}"));
        let named = line
            .trim_start()
            .strip_prefix(&dependency.name)
            .is_some_and(|rest| rest.trim_start().starts_with(['=', '.']));
        if (inside && named) || current == format!("{section}.{}", dependency.name) {
            return index + 1;
        }
    }
    1
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::tree;

    /// What tidy says of a workspace of these crates; the dependencies are lines of a manifest.
    fn found(crates: &[(&str, &str)]) -> Vec<String> {
        let folders = crates.iter().map(|(folder, _)| format!("{folder:?}")).collect::<Vec<_>>().join(", ");
        let root = format!("[workspace]\nresolver = \"3\"\nmembers = [{folders}]\n");
        let mut files = vec![("Cargo.toml".to_owned(), root)];
        for (folder, dependencies) in crates {
            let name = folder.rsplit('/').next().unwrap();
            let package = format!("[package]\nname = {name:?}\nedition = \"2024\"\n\n{dependencies}\n");
            files.push((format!("{folder}/Cargo.toml"), package));
            files.push((format!("{folder}/src/lib.rs"), String::new()));
        }
        let files: Vec<(&str, &str)> = files.iter().map(|(p, t)| (p.as_str(), t.as_str())).collect();
        let folder = tree::on_disk(&files);
        let metadata = Metadata::read(folder.path()).unwrap();
        let violations = check(&metadata, &Tree::load(folder.path()).unwrap());
        violations.iter().map(ToString::to_string).collect()
    }

    const DOWN: &str = "[dependencies]\nkv-format = { path = \"../kv-format\" }";

    #[test]
    fn names_down_the_layers_are_fine() {
        let none: Vec<String> = Vec::new();
        assert_eq!(found(&[("kv-format", ""), ("kv-device", DOWN), ("kv-planner", DOWN)]), none);
        let program = "[dependencies]\nkv-format = { path = \"../../kv-format\" }\nanyhow = \"1\"";
        assert_eq!(found(&[("kv-format", ""), ("examples/any-name", program)]), none);
        let dev = "[dev-dependencies]\nkv-format = { path = \"../kv-format\" }\nclap = \"4\"";
        assert_eq!(found(&[("kv-format", ""), ("kv-memory", dev)]), none);
    }

    #[test]
    fn a_name_up_the_layers_is_reported_at_its_line() {
        let up = "[dev-dependencies]\n\n[dependencies]\nkv-device = { path = \"../kv-device\" }";
        let found = found(&[("kv-format", ""), ("kv-device", ""), ("kv-storage", up)]);
        let expected = "kv-storage/Cargo.toml:8: kv-storage may not name kv-device: its layer names kv-format, kv-memory";
        assert_eq!(found, [expected]);
    }

    #[test]
    fn a_build_dependency_counts() {
        let build = "[build-dependencies]\nkv-format = { path = \"../kv-format\" }";
        let found = found(&[("kv-format", ""), ("kv-memory", build)]);
        let expected = "kv-memory/Cargo.toml:6: kv-memory may not name kv-format: its layer names no crate of this workspace";
        assert_eq!(found, [expected]);
    }

    #[test]
    fn nobody_names_a_program() {
        let names = "[dependencies]\nkv-cli = { path = \"../kv-cli\" }";
        assert_eq!(found(&[("kv-cli", ""), ("kv-planner", names)]).len(), 1);
        assert_eq!(found(&[("kv-cli", ""), ("xtask", names)]).len(), 1);
    }

    #[test]
    fn a_crate_without_a_place_is_told_where_to_add_it() {
        let found = found(&[("kv-novel", "")]);
        assert_eq!(found.len(), 1);
        assert!(
            found[0].starts_with("kv-novel/Cargo.toml:1: ") && found[0].contains("tidy/dependencies.rs"),
            "{found:?}"
        );
    }

    #[test]
    fn libraries_use_little_of_tokio_and_no_crate_for_programs() {
        let tokio =
            "[dependencies]\ntokio = { version = \"1\", features = [\"sync\", \"net\"] }\nanyhow = \"1\"";
        let found = found(&[("kv-memory", tokio)]);
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(
            found
                .iter()
                .any(|text| text.starts_with("kv-memory/Cargo.toml:6: ") && text.contains("tokio's net:"))
        );
        assert!(
            found
                .iter()
                .any(|text| text.starts_with("kv-memory/Cargo.toml:7: ") && text.contains("name anyhow"))
        );
    }
}
