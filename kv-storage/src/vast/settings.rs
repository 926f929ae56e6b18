//! The storage section of a configuration file, as data: which store, and how much of its speed is this process's.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::env::Environment;
use crate::{Error, ErrorKind, KvStore, Result, Throttle, ThrottleOptions};

/// Bytes per second for each unit of `bandwidth_gbps`.
const GB: f64 = 1e9;

/// `storage_backend` of a configuration file. Whoever reads the file chooses the syntax; keys that are not here are refused.
///
/// ```
/// let section = r#"{"type": "vast", "config": {"path": "vast://vast-cluster/kv-cache", "bandwidth_gbps": 25}}"#;
/// let section: kv_storage::vast::StorageBackend = serde_json::from_str(section)?;
/// assert_eq!(section.config.bandwidth_gbps, Some(25.0));
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StorageBackend {
    /// What the path leads to.
    #[serde(rename = "type")]
    pub kind: StorageType,
    /// Where, and how fast.
    pub config: StorageConfig,
}

/// Kinds of stores; each has its scheme in [`StorageConfig::path`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum StorageType {
    /// `vast://`
    Vast,
    /// `file://`
    File,
    /// `s3://`
    S3,
}

/// Where a store is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StorageConfig {
    /// The store's URL.
    pub path: String,
    /// Most gigabytes (1e9 bytes) per second that this process moves each way. Default: all there are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bandwidth_gbps: Option<f64>,
}

impl StorageBackend {
    /// Checks what no single key shows.
    ///
    /// # Errors
    /// `Invalid` if the type and the path contradict each other, or for a bandwidth that moves nothing.
    pub fn check(&self) -> Result<()> {
        let StorageConfig { path, bandwidth_gbps } = &self.config;
        let invalid = |message: String| Err(Error::new(ErrorKind::Invalid, path, message));
        let scheme = match self.kind {
            StorageType::Vast => "vast://",
            StorageType::File => "file://",
            StorageType::S3 => "s3://",
        };
        if !path.starts_with(scheme) {
            return invalid(format!(
                "storage_backend.config.path: expected {scheme}..., as storage_backend.type says"
            ));
        }
        match bandwidth_gbps {
            Some(rate) if !(rate.is_finite() && *rate * GB >= 1.0 && *rate * GB <= 1e18) => invalid(format!(
                "storage_backend.config.bandwidth_gbps is {rate}: expected gigabytes per second, such as 25"
            )),
            _ => Ok(()),
        }
    }

    /// Opens the store, behind a [`Throttle`] if the bandwidth is bounded. What was not used in the last hundredth of a second may be used
    /// at once, so that a store that is not busy is not slowed.
    ///
    /// # Errors
    /// As [`check`](Self::check) and [`open`](crate::open()).
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn open(&self) -> Result<Arc<dyn KvStore>> {
        self.check()?;
        let store = crate::open(&self.config.path).await?;
        Ok(self.cap(store, Environment::default()))
    }

    /// Bounds what a store moves as the section says.
    pub fn cap(&self, store: Arc<dyn KvStore>, environment: Environment) -> Arc<dyn KvStore> {
        let Some(rate) = self.config.bandwidth_gbps else { return store };
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a float that is out of range becomes the nearest that is not"
        )]
        let bytes = (rate * GB) as u64;
        let options = ThrottleOptions::default().read_bytes_per_second(bytes).write_bytes_per_second(bytes);
        Arc::new(Throttle::new(store, options.burst_bytes(bytes / 100).environment(environment)))
    }
}
