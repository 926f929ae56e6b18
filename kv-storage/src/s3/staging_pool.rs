//! The memory in which uploads wait: the caller's pool, or one that is made for the first upload.

use std::sync::{Mutex, PoisonError};

use kv_memory::{HostBuf, HugePages, StagingPool};

use crate::{Error, ErrorKind, Result};

/// Bytes of one part of the store's own pool: what the pipeline writes at a time fits.
pub(super) const PART_BYTES: usize = 1 << 20;
/// Bytes of the store's own pool.
const POOL_BYTES: usize = 256 << 20;

/// A pool that may not exist yet: a process that only reads has none.
#[derive(Debug)]
pub(super) struct Staging {
    pool: Mutex<Option<StagingPool>>,
}

impl Staging {
    pub(super) fn new(given: Option<StagingPool>) -> Self {
        Self { pool: Mutex::new(given) }
    }

    /// Buffers for a whole object, all at once, so that two uploads can never each hold half of what both need.
    ///
    /// # Errors
    /// `Invalid` for an object that is larger than the pool; `NoSpace` if there is no memory for the pool.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub(super) async fn reserve(&self, store: &str, len: u64) -> Result<Vec<HostBuf>> {
        let pool = self.pool(store)?;
        let parts = len.div_ceil(pool.part_bytes() as u64);
        match usize::try_from(parts) {
            Ok(0) => Ok(Vec::new()),
            Ok(parts) if parts <= pool.parts() => Ok(pool.acquire_many(parts).await),
            _ => {
                let have = pool.usage().bytes_total;
                let message = format!(
                    "an object of {len} bytes: an upload holds all of it, expected at most the {have} bytes of staging; give the store more (staging_mib=, S3Options::staging)"
                );
                Err(Error::new(ErrorKind::Invalid, store, message))
            }
        }
    }

    fn pool(&self, store: &str) -> Result<StagingPool> {
        // A pool is made whole or not at all.
        let mut pool = self.pool.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(pool) = &*pool {
            return Ok(pool.clone());
        }
        let made = HugePages::allocate(POOL_BYTES).and_then(|region| StagingPool::new(region, PART_BYTES));
        let made = made.map_err(|error| {
            let message =
                format!("no memory for uploads ({error}): give the store a smaller pool (staging_mib=)");
            Error::new(ErrorKind::NoSpace, store, message)
        })?;
        Ok(pool.insert(made).clone())
    }
}
