//! Where the library is looked for. Nothing is loaded here.
//!
//! Wheels keep it in a folder of their own in site-packages, `.nixl_cu12.mesonpy.libs`, out of the loader's sight, and find the rest of
//! themselves from there. The first library that opens is taken or refused: a second copy beside a refused one would be given parts of the
//! first by the loader, which knows libraries by their short names.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::missing::Attempt;

/// Names a library, the folder that it is in, or a site-packages folder that a wheel is in, instead of the search.
pub(super) const VARIABLE: &str = "KVBRIDGE_NIXL";
/// The library's name, for the loader and in folders.
pub(super) const NAME: &str = "libnixl_capi.so";

/// Where packages of the system's Python are, and under these the folders of its versions.
const PYTHONS: [&str; 3] = ["/usr/local/lib", "/usr/lib", "/opt/venv/lib"];
/// Where NIXL's own build installs it.
const SYSTEM: [&str; 6] = [
    "/opt/nvidia/nvda_nixl/lib/x86_64-linux-gnu",
    "/opt/nvidia/nvda_nixl/lib/aarch64-linux-gnu",
    "/opt/nvidia/nvda_nixl/lib64",
    "/usr/local/nixl/lib/x86_64-linux-gnu",
    "/usr/local/nixl/lib/aarch64-linux-gnu",
    "/usr/local/nixl/lib64",
];

/// A place to try.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Candidate {
    /// What the process has loaded already: an engine's.
    Loaded,
    /// The loader's own search: `LD_LIBRARY_PATH` and the system's folders.
    Loader,
    /// A file that exists.
    File(PathBuf),
}

/// Everything to try, in order, and folders that were looked into in vain.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Search {
    pub(super) candidates: Vec<Candidate>,
    pub(super) vain: Vec<Attempt>,
}

/// The search, where `given` and then the variable stand for all of it.
pub(super) fn search(given: Option<&Path>, variable: impl Fn(&str) -> Option<OsString>) -> Search {
    let variable = |name: &str| variable(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let mut search = Search::default();
    if let Some(named) = given.map(Path::to_owned).or_else(|| variable(VARIABLE)) {
        if named.is_dir() {
            search.look_into(&named);
        } else {
            search.candidates.push(Candidate::File(named));
        }
        return search;
    }
    search.candidates.extend([Candidate::Loaded, Candidate::Loader]);
    for root in ["VIRTUAL_ENV", "CONDA_PREFIX"].into_iter().filter_map(variable) {
        search.look_into_pythons(&root.join("lib"));
    }
    if let Some(paths) = variable("PYTHONPATH") {
        std::env::split_paths(&paths).for_each(|path| search.look_into(&path));
    }
    if let Some(home) = variable("HOME") {
        search.look_into_pythons(&home.join(".local/lib"));
    }
    PYTHONS.iter().for_each(|root| search.look_into_pythons(Path::new(root)));
    if let Some(prefix) = variable("NIXL_PREFIX") {
        for lib in ["lib", "lib64", "lib/x86_64-linux-gnu", "lib/aarch64-linux-gnu"] {
            search.look_into(&prefix.join(lib));
        }
    }
    SYSTEM.iter().for_each(|folder| search.look_into(Path::new(folder)));
    search
}

impl Search {
    /// Looks into the packages of every version of Python under a `lib` folder.
    fn look_into_pythons(&mut self, lib: &Path) {
        let pythons = entries(lib).into_iter().filter(|(name, _)| name.starts_with("python3"));
        let found: Vec<PathBuf> = pythons
            .flat_map(|(_, path)| [path.join("site-packages"), path.join("dist-packages")])
            .filter(|path| path.is_dir())
            .collect();
        if found.is_empty() {
            self.vain.push(Attempt { path: lib.join("python3*"), reason: "no packages of Python".into() });
        }
        found.iter().for_each(|packages| self.look_into(packages));
    }

    /// Looks for the library in a folder, and for wheels' folders in it.
    fn look_into(&mut self, folder: &Path) {
        let wheels = entries(folder)
            .into_iter()
            .filter(|(name, _)| name.starts_with(".nixl") && name.ends_with(".mesonpy.libs"));
        let mut found: Vec<PathBuf> =
            std::iter::once(folder.to_owned()).chain(wheels.map(|(_, path)| path)).collect();
        found.iter_mut().for_each(|folder| folder.push(NAME));
        found.retain(|file| file.is_file());
        if found.is_empty() {
            let reason = format!("no {NAME}, and no wheel of NIXL");
            self.vain.push(Attempt { path: folder.to_owned(), reason });
        }
        self.candidates.extend(found.into_iter().map(Candidate::File));
    }
}

/// The entries of a folder, by name; of one that cannot be read, none.
fn entries(folder: &Path) -> Vec<(String, PathBuf)> {
    let Ok(read) = folder.read_dir() else { return Vec::new() };
    let named = read.flatten().map(|entry| (entry.file_name().to_string_lossy().into_owned(), entry.path()));
    let mut found: Vec<_> = named.collect();
    found.sort();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A site-packages folder with a wheel.
    fn wheel(packages: &Path, name: &str) -> PathBuf {
        let folder = packages.join(format!(".{name}.mesonpy.libs"));
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join(NAME), "").unwrap();
        folder.join(NAME)
    }

    fn environment(of: &[(&'static str, &Path)]) -> impl Fn(&str) -> Option<OsString> + use<> {
        let of: Vec<_> = of.iter().map(|(name, value)| (*name, value.as_os_str().to_owned())).collect();
        move |name| of.iter().find(|(known, _)| *known == name).map(|(_, value)| value.clone())
    }

    //= SEMANTICS.md#nixl-found
    #[test]
    fn wheels_are_found_where_python_has_them() {
        let root = tempfile::tempdir().unwrap();
        let in_venv = wheel(&root.path().join("venv/lib/python3.12/site-packages"), "nixl_cu12");
        let on_path = wheel(&root.path().join("packages"), "nixl_cu13");
        let at_home = wheel(&root.path().join("home/.local/lib/python3.11/site-packages"), "nixl_rocm");
        let own = root.path().join("prefix/lib64").join(NAME);
        std::fs::create_dir_all(own.parent().unwrap()).unwrap();
        std::fs::write(&own, "").unwrap();
        let variables = environment(&[
            ("VIRTUAL_ENV", &root.path().join("venv")),
            ("PYTHONPATH", &root.path().join("packages")),
            ("HOME", &root.path().join("home")),
            ("NIXL_PREFIX", &root.path().join("prefix")),
        ]);
        let found = search(None, variables).candidates;
        assert_eq!(found[..2], [Candidate::Loaded, Candidate::Loader]);
        let files: Vec<_> = [in_venv, on_path, at_home, own].map(Candidate::File).into();
        let places: Vec<_> = files.iter().map(|file| found.iter().position(|c| c == file).unwrap()).collect();
        assert!(places.is_sorted(), "{found:?}");
    }

    //= SEMANTICS.md#nixl-found
    #[test]
    fn what_is_named_stands_for_the_whole_search() {
        let root = tempfile::tempdir().unwrap();
        let library = wheel(root.path(), "nixl_cu12");
        let expected = [Candidate::File(library.clone())];
        for named in [root.path(), library.parent().unwrap(), &library] {
            let by_variable = search(None, environment(&[(VARIABLE, named)]));
            assert_eq!(by_variable.candidates, expected, "{}", named.display());
            let other = environment(&[(VARIABLE, Path::new("/other"))]);
            assert_eq!(
                search(Some(named), other).candidates,
                expected,
                "the option goes before the variable"
            );
        }
        let empty = tempfile::tempdir().unwrap();
        let vain = search(Some(empty.path()), |_| None);
        assert_eq!((vain.candidates.len(), vain.vain[0].path.as_path()), (0, empty.path()));
    }
}
