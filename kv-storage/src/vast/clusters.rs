//! Which paths lead to a cluster: what the name in `vast://name/directory` stands for.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;

use super::{Vast, VastOptions, VastPath};
use crate::{Error, ErrorKind, Result};

/// The environment variable that names the file with the clusters.
pub const CLUSTERS_VARIABLE: &str = "KVBRIDGE_VAST";

const EXAMPLE: &str = r#"{"vast-cluster": {"paths": [{"url": "file:///mnt/vast-1"}, {"url": "file:///mnt/vast-2"}, {"url": "s3://bucket?endpoint=https://vip:443"}]}}"#;

/// Clusters by their names.
///
/// ```
/// let clusters = kv_storage::vast::Clusters::from_json(
///     r#"{"vast-cluster": {"paths": [{"url": "file:///mnt/vast-1"}, {"url": "file:///mnt/vast-2"}]}}"#,
/// )?;
/// assert_eq!(clusters.urls("vast://vast-cluster/kv-cache")?[1], "file:///mnt/vast-2/kv-cache");
/// # Ok::<(), kv_storage::Error>(())
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Clusters(pub BTreeMap<String, Cluster>);

/// One cluster.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cluster {
    /// The ways to its namespace. Objects are written by the kind of the first.
    pub paths: Vec<ClusterPath>,
    /// The kind of paths that keeps records, the same in every process. Default: the first path's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub records: Option<String>,
}

/// One way to a cluster's namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClusterPath {
    /// Where the namespace begins by this path, as [`open`](crate::open()) takes it: a mount as `file:///mnt/vast-1`, a bucket as
    /// `s3://bucket?endpoint=https://vip:443`.
    pub url: String,
    /// Paths of one kind show one object with one version. Default: the URL's scheme.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
}

/// A cluster that was opened.
#[derive(Debug)]
#[non_exhaustive]
pub struct Opened {
    /// The store over the paths that opened.
    pub store: Vast,
    /// What the others said. They are tried again when the cluster is opened again.
    pub left_out: Vec<Error>,
}

impl Clusters {
    /// Reads clusters from JSON.
    ///
    /// # Errors
    /// `Invalid` with line and column for a text that is none, has unknown keys, or a cluster without paths.
    pub fn from_json(text: &str) -> Result<Self> {
        let invalid = |message: String| Err(Error::new(ErrorKind::Invalid, "vast clusters", message));
        let clusters: Self = match serde_json::from_str(text) {
            Ok(clusters) => clusters,
            Err(error) => return invalid(format!("{error}: expected for example {EXAMPLE}")),
        };
        match clusters.0.iter().find(|(_, cluster)| cluster.paths.is_empty()) {
            Some((name, _)) => {
                invalid(format!("the cluster {name:?} has no paths: expected at least one, as in {EXAMPLE}"))
            }
            None => Ok(clusters),
        }
    }

    /// Reads the clusters of the file that [`CLUSTERS_VARIABLE`] names.
    ///
    /// # Errors
    /// `Invalid` if it is not set, the file cannot be read, or as [`from_json`](Self::from_json).
    pub async fn from_environment() -> Result<Self> {
        let invalid = |message: String| Error::new(ErrorKind::Invalid, "vast clusters", message);
        let Some(path) = std::env::var_os(CLUSTERS_VARIABLE).map(PathBuf::from) else {
            let message = format!(
                "{CLUSTERS_VARIABLE} is not set: it names a file that says which paths lead to which cluster, such as {EXAMPLE}"
            );
            return Err(invalid(message));
        };
        let shown = path.display().to_string();
        let read = tokio::task::spawn_blocking(move || std::fs::read_to_string(path)).await;
        let text = match read {
            Ok(Ok(text)) => text,
            Ok(Err(error)) => {
                return Err(invalid(format!("{CLUSTERS_VARIABLE}={shown} cannot be read: {error}")));
            }
            Err(error) => return Err(invalid(format!("reading {shown} ended early: {error}"))),
        };
        Self::from_json(&text).map_err(|error| invalid(format!("{shown}: {error}")))
    }

    /// The URLs that lead where `url` (`vast://cluster/directory`) points to, one for each path.
    ///
    /// # Errors
    /// `Invalid` for another URL, a cluster that is not known, or a path that leads nowhere.
    pub fn urls(&self, url: &str) -> Result<Vec<String>> {
        Ok(self.paths(url)?.into_iter().map(|path| path.url).collect())
    }

    /// The paths, each leading to the URL's directory.
    fn paths(&self, url: &str) -> Result<Vec<ClusterPath>> {
        let (cluster, directory) = self.cluster(url)?;
        let paths: Vec<ClusterPath> =
            cluster.paths.iter().map(|path| path.in_directory(url, directory)).collect::<Result<_>>()?;
        let kinds: Vec<&str> = paths.iter().filter_map(|path| path.kind.as_deref()).collect();
        match &cluster.records {
            Some(records) if !kinds.contains(&records.as_str()) => {
                let message = format!(
                    "records are to be kept by paths of the kind {records:?}, but the kinds are {kinds:?}"
                );
                Err(Error::new(ErrorKind::Invalid, url, message))
            }
            _ => Ok(paths),
        }
    }

    /// The cluster that `url` names, and the directory in it.
    fn cluster<'a>(&self, url: &'a str) -> Result<(&Cluster, &'a str)> {
        let invalid = |message: String| Err(Error::new(ErrorKind::Invalid, url, message));
        let Some((name, directory)) =
            url.strip_prefix("vast://").map(|rest| rest.split_once('/').unwrap_or((rest, "")))
        else {
            return invalid("expected vast://cluster/directory".to_owned());
        };
        let directory = directory.trim_matches('/');
        if name.is_empty()
            || directory.split('/').any(|step| matches!(step, "." | ".."))
            || directory.contains(['?', '#'])
        {
            return invalid(
                "expected vast://cluster/directory, without options and without . or ..".to_owned(),
            );
        }
        let Some(cluster) = self.0.get(name) else {
            let known: Vec<&str> = self.0.keys().map(String::as_str).collect();
            return invalid(format!(
                "the cluster {name:?} is not known, only {known:?}: add it to the file that {CLUSTERS_VARIABLE} names, as in {EXAMPLE}"
            ));
        };
        Ok((cluster, directory))
    }

    /// Opens the store that `url` (`vast://cluster/directory`) names: the paths that open within the deadline of
    /// [`VastOptions::gate`], one at least.
    ///
    /// # Errors
    /// As [`urls`](Self::urls); if no path opens, as the last that did not.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn open(&self, url: &str, options: VastOptions) -> Result<Opened> {
        let mut opening = JoinSet::new();
        let records = self.cluster(url)?.0.records.clone();
        for (number, path) in self.paths(url)?.into_iter().enumerate() {
            let (clock, allowed) = (Arc::clone(&options.gate.environment.clock), options.gate.deadline);
            opening.spawn(async move {
                let late = async {
                    match allowed {
                        Some(allowed) => clock.sleep(allowed).await,
                        None => std::future::pending().await,
                    }
                };
                let store = tokio::select! {
                    biased;
                    store = crate::open::path(path.url.clone()) => store,
                    () = late => {
                        let message = format!("it did not open within {allowed:?}: its server does not answer");
                        Err(Error::new(ErrorKind::Unavailable, &path.url, message))
                    }
                };
                (number, path.kind, store)
            });
        }
        let (mut paths, mut left_out) = (Vec::new(), Vec::new());
        while let Some(opened) = opening.join_next().await {
            match opened {
                Ok((number, kind, Ok(store))) => {
                    paths.push((number, VastPath::new(kind.unwrap_or_default(), store)));
                }
                Ok((_, _, Err(error))) => left_out.push(error),
                Err(error) => {
                    let message = format!("a path ended while it was opened: {error}");
                    left_out.push(Error::new(ErrorKind::Backend, url, message));
                }
            }
        }
        if paths.is_empty()
            && let Some(error) = left_out.pop()
        {
            let mut message = format!("no path opens, {} in all; the last said: {error}", left_out.len() + 1);
            if error.kind() == ErrorKind::Invalid {
                message +=
                    "; a directory of the cluster that is new is made and formatted first, as by `format`";
            }
            return Err(Error::new(error.kind(), url, message).with_source(error));
        }
        paths.sort_by_key(|(number, _)| *number);
        let paths: Vec<VastPath> = paths.into_iter().map(|(_, path)| path).collect();
        let name = url.trim_start_matches("vast://");
        // If none of the kind that keeps records has opened, another kind keeps them meanwhile, as when they go down later.
        let keeps = |records: &String| paths.iter().any(|path| path.kind == *records);
        let options = VastOptions { records: records.filter(keeps).or(options.records), ..options };
        Ok(Opened { store: Vast::new(name, paths, options)?, left_out })
    }

    /// Makes the directory that `url` names a store by every mount, and the directory itself if it is not there; `false` if it was one.
    ///
    /// # Errors
    /// As [`urls`](Self::urls), and as [`format`](crate::format()).
    pub async fn format(&self, url: &str) -> Result<bool> {
        let mut formatted = false;
        for url in self.urls(url)? {
            if let Some(path) = url.strip_prefix("file://").or_else(|| url.strip_prefix("nixl+posix://")) {
                make_directory(&url, PathBuf::from(path)).await?;
            }
            formatted |= Box::pin(crate::format(&url)).await?;
        }
        Ok(formatted)
    }
}

impl ClusterPath {
    /// The path to a directory of the namespace, and its kind.
    fn in_directory(&self, cluster: &str, directory: &str) -> Result<Self> {
        let Some((scheme, _)) =
            self.url.split_once("://").filter(|(scheme, _)| !matches!(*scheme, "memory" | "null" | "vast"))
        else {
            let message = format!(
                "the path {:?} leads to no namespace that others share: expected for example file:///mnt/vast-1 or s3://bucket?endpoint=https://vip",
                self.url
            );
            return Err(Error::new(ErrorKind::Invalid, cluster, message));
        };
        let (place, options) = match self.url.split_once('?') {
            Some((place, options)) => (place, format!("?{options}")),
            None => (&*self.url, String::new()),
        };
        let kind = self.kind.clone().unwrap_or_else(|| scheme.to_owned());
        let place = place.trim_end_matches('/');
        let url = if directory.is_empty() {
            format!("{place}{options}")
        } else {
            format!("{place}/{directory}{options}")
        };
        Ok(Self { url, kind: Some(kind) })
    }
}

/// Makes a directory beneath a mount that is there, for its owner alone: `format` refuses what others can write.
async fn make_directory(url: &str, path: PathBuf) -> Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    let make = move || std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
    let made = tokio::task::spawn_blocking(make).await;
    let made = made.unwrap_or_else(|error| Err(std::io::Error::other(error)));
    made.map_err(|error| {
        let message = format!("the directory cannot be made: {error}");
        Error::new(ErrorKind::Invalid, url, message).with_source(error)
    })
}
