//! The store's URL: checked before anything is built, so that a slip costs a second and not a compilation.

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

/// The variable that names the file of clusters, and what stands in it.
const CLUSTERS: &str = "KVBRIDGE_VAST";
const EXAMPLE: &str =
    r#"such as {"vast-cluster": {"paths": [{"url": "file:///mnt/vast-1"}, {"url": "file:///mnt/vast-2"}]}}"#;

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
    /// Writes a file into the folder of a `file://` store, and looks for the cluster of a `vast://` store in the file of clusters.
    ///
    /// # Errors
    /// Names the folder that is not there or cannot be written, or what is wrong with the file of clusters.
    pub(super) fn check(&self) -> Result<()> {
        if let Some(rest) = self.0.strip_prefix("vast://") {
            return known(
                rest.split('/').next().unwrap_or(rest),
                std::env::var_os(CLUSTERS).map(PathBuf::from),
            );
        }
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

/// Whether the file of clusters names this one; `handoff` knows what else may be wrong with it.
fn known(cluster: &str, file: Option<PathBuf>) -> Result<()> {
    let file = file.with_context(|| {
        format!(
            "{CLUSTERS} is not set: vast:// needs a file that says which paths lead to the cluster, {EXAMPLE}"
        )
    })?;
    let text = std::fs::read_to_string(&file)
        .with_context(|| format!("{CLUSTERS}={} cannot be read", file.display()))?;
    let clusters: BTreeMap<String, Value> = serde_json::from_str(&text)
        .with_context(|| format!("{} names no clusters: expected {EXAMPLE}", file.display()))?;
    ensure!(
        clusters.contains_key(cluster),
        "the cluster {cluster:?} is not in {}, only {:?}: mend --store or add it, {EXAMPLE}",
        file.display(),
        clusters.keys().collect::<Vec<_>>()
    );
    Ok(())
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
        parse(&url).unwrap().check().unwrap();
        assert_ne!(fresh(folder.path()).unwrap(), url);
        assert!(fresh(&folder.path().join("absent")).is_err());
    }

    #[test]
    fn a_folder_that_is_not_there_is_named_and_not_made() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        std::fs::write(&file, "").unwrap();
        let error = parse(&format!("file://{}/store", file.display())).unwrap().check().unwrap_err();
        assert!(error.to_string().contains("file/store is not there"), "{error}");
        let absent = file.with_file_name("absent");
        assert!(parse(&format!("file://{}", absent.display())).unwrap().check().is_err());
        assert!(!absent.exists(), "a mistyped path was made");
    }

    #[test]
    fn a_cluster_that_nobody_knows_is_told_before_anything_is_built() {
        let said = |cluster, file| format!("{:#}", known(cluster, file).unwrap_err());
        assert!(said("c", None).starts_with("KVBRIDGE_VAST is not set"), "{}", said("c", None));
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("clusters.json");
        let path = || Some(file.clone());
        assert!(said("c", path()).contains("clusters.json cannot be read"), "{}", said("c", path()));
        std::fs::write(&file, "{").unwrap();
        assert!(said("c", path()).contains("names no clusters: expected such as"), "{}", said("c", path()));
        std::fs::write(&file, r#"{"d": {"paths": []}}"#).unwrap();
        let unknown = said("c", path());
        assert!(
            unknown.contains(r#"the cluster "c" is not in "#) && unknown.contains(r#"only ["d"]"#),
            "{unknown}"
        );
        known("d", path()).unwrap();
    }
}
