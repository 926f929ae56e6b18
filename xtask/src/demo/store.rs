//! The store's URL: checked before anything is built, so that a slip costs a second and not a compilation.

use anyhow::{Context as _, Result, ensure};
use std::fmt;
use std::path::{Path, PathBuf};

/// A store that the user named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Store(String);

impl fmt::Display for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Accepts what several processes can share; `handoff` knows which backends it has.
pub(super) fn parse(text: &str) -> Result<Store, String> {
    match text.split_once("://") {
        None | Some(("", _)) => Err("a store is a URL, such as file:///mnt/shared/kv".into()),
        Some(("memory" | "null", _)) => {
            Err("two clusters cannot meet there: name a store that processes share, such as file:///mnt/shared/kv".into())
        }
        Some(("file", path)) if !path.starts_with('/') => {
            Err("file:// is followed by an absolute path, as in file:///mnt/shared/kv".into())
        }
        Some(_) => Ok(Store(text.into())),
    }
}

impl Store {
    /// Creates the folder of a `file://` store if it is absent, and writes a file there.
    ///
    /// # Errors
    /// Names the folder that cannot be created or written.
    pub(super) fn check_writable(&self) -> Result<()> {
        let Some(path) = self.0.strip_prefix("file://") else {
            return Ok(());
        };
        // Options of the store may follow the path.
        let path = PathBuf::from(path.split('?').next().unwrap_or(path));
        ensure!(
            path.is_dir(),
            "the store's folder {} is not there: create it, or mend --store",
            path.display()
        );
        tempfile::tempfile_in(&path)
            .with_context(|| format!("the store's folder {} is not writable", path.display()))?;
        Ok(())
    }
}

/// The URL of a new, empty folder within the demo's own, which removes it at the end.
pub(super) fn fresh(folder: &Path) -> Result<String> {
    let path = tempfile::Builder::new()
        .prefix("store-")
        .tempdir_in(folder)
        .with_context(|| format!("{} is not writable: set TMPDIR", folder.display()))?
        .keep();
    let text = path.to_str().with_context(|| format!("{} is not UTF-8: set TMPDIR", path.display()))?;
    Ok(format!("file://{text}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_processes_cannot_share_is_refused() {
        for wrong in ["", "/mnt/kv", "://x", "memory://", "null://x", "file://relative/path"] {
            assert!(parse(wrong).is_err(), "{wrong:?} was accepted");
        }
        assert_eq!(parse("file:///mnt/kv").unwrap().to_string(), "file:///mnt/kv");
        assert!(parse("s3://bucket/prefix").is_ok());
    }

    #[test]
    fn a_fresh_store_is_an_empty_folder_under_the_demos() {
        let folder = tempfile::tempdir().unwrap();
        let url = fresh(folder.path()).unwrap();
        let path = PathBuf::from(url.strip_prefix("file://").unwrap());
        assert_eq!(path.parent(), Some(folder.path()));
        assert_eq!(path.read_dir().unwrap().count(), 0);
        parse(&url).unwrap().check_writable().unwrap();
        assert_ne!(fresh(folder.path()).unwrap(), url);
        assert!(fresh(&folder.path().join("absent")).is_err());
    }

    #[test]
    fn a_folder_that_is_not_there_is_named_and_not_made() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        std::fs::write(&file, "").unwrap();
        let error = parse(&format!("file://{}/store", file.display())).unwrap().check_writable().unwrap_err();
        assert!(error.to_string().contains("file/store is not there"), "{error}");
        let absent = file.with_file_name("absent");
        assert!(parse(&format!("file://{}", absent.display())).unwrap().check_writable().is_err());
        assert!(!absent.exists(), "a mistyped path was made");
    }
}
