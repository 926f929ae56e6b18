//! Where the KV rests: a URL, or the storage section of a configuration file.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, anyhow};
use kv_storage::KvStore;
use kv_storage::env::Environment;
use kv_storage::vast::StorageBackend;
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};

/// A store, and how much of its speed is a rank's.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Storage {
    /// Where it is.
    pub url: String,
    section: Option<StorageBackend>,
}

/// A configuration file; this program reads one of its sections.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    storage_backend: StorageBackend,
    #[serde(rename = "version")]
    _version: Option<IgnoredAny>,
    #[serde(rename = "role")]
    _role: Option<IgnoredAny>,
    #[serde(rename = "cache_config")]
    _cache_config: Option<IgnoredAny>,
    #[serde(rename = "device")]
    _device: Option<IgnoredAny>,
}

impl Storage {
    /// The store that a URL names, at all of its speed.
    #[must_use]
    pub fn at(url: &str) -> Self {
        Self { url: url.to_owned(), section: None }
    }

    /// The store of a configuration file's section `storage_backend`.
    ///
    /// # Errors
    /// The file cannot be read, or has no such section or keys that nobody knows: with the line.
    pub fn configured(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("cannot read the configuration {}", path.display()))?;
        // The first line says where and what; the rest is a picture of the place.
        let first =
            |error: String| error.lines().next().unwrap_or_default().trim_start_matches("error: ").to_owned();
        let file: File = serde_saphyr::from_str(&text)
            .map_err(|error| anyhow!("{}: {}", path.display(), first(error.to_string())))?;
        let section = file.storage_backend;
        section.check().map_err(|error| anyhow!("{}: {error}", path.display()))?;
        Ok(Self { url: section.config.path.clone(), section: Some(section) })
    }

    /// Bounds the store's speed as the section says.
    pub(super) fn capped(&self, store: Arc<dyn KvStore>) -> Arc<dyn KvStore> {
        match &self.section {
            Some(section) => section.cap(store, Environment::default()),
            None => store,
        }
    }
}

impl fmt::Display for Storage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.url)
    }
}
