//! The memory in which uploads wait: the caller's pool, or one that is made for the first upload.
//!
//! An object that fits is staged whole and sent by one request. A larger one has a few windows, each of which becomes a part of the
//! upload and then holds the next.

use std::sync::{Mutex, PoisonError};

use kv_memory::{HostBuf, HugePages, StagingPool};

use crate::{Error, ErrorKind, Result};

/// Bytes of one part of the store's own pool: what the pipeline writes at a time fits.
pub(super) const PART_BYTES: usize = 1 << 20;
/// Bytes of the store's own pool.
const POOL_BYTES: usize = 256 << 20;
/// Bytes of a window where there is room: S3 takes 10,000 parts, so 80 GiB.
const WINDOW_BYTES: usize = 8 << 20;
/// Fewest bytes that S3 takes as a part, but for the last.
const LEAST_WINDOW_BYTES: usize = 5 << 20;
/// Windows of one upload: one waits for the object's header, which is written last, one fills, the others are sent.
const WINDOWS: usize = 4;
/// Most bytes of an object: what S3 copies by one request, as a quarantine does.
const MOST_BYTES: u64 = 5 << 30;

/// Memory for one upload.
#[derive(Debug)]
pub(super) enum Reserved {
    /// For all of the object.
    Whole(Vec<HostBuf>),
    /// For windows of so many buffers each.
    Windows {
        /// All windows' buffers.
        buffers: Vec<HostBuf>,
        /// Buffers of one window.
        each: usize,
        /// Bytes of one window.
        bytes: usize,
    },
}

/// A pool that may not exist yet: a process that only reads has none.
#[derive(Debug)]
pub(super) struct Staging {
    pool: Mutex<Option<StagingPool>>,
}

impl Staging {
    pub(super) fn new(given: Option<StagingPool>) -> Self {
        Self { pool: Mutex::new(given) }
    }

    /// Memory for an object, all at once, so that two uploads can never each hold half of what both need. `parts` is why an object
    /// cannot be uploaded in parts, if it cannot.
    ///
    /// # Errors
    /// `Invalid` for an object that is larger than the pool and cannot be uploaded in parts; `NoSpace` if there is no memory for the
    /// pool.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub(super) async fn reserve(&self, store: &str, len: u64, parts: Result<(), &str>) -> Result<Reserved> {
        let pool = self.pool(store)?;
        let needed = len.div_ceil(pool.part_bytes() as u64);
        if let Some(needed) = usize::try_from(needed).ok().filter(|needed| *needed <= pool.parts()) {
            let none = needed == 0;
            return Ok(Reserved::Whole(if none { Vec::new() } else { pool.acquire_many(needed).await }));
        }
        let have = pool.usage().bytes_total;
        let too_large = |why: &str| {
            let message = format!(
                "an object of {len} bytes: expected at most the {have} bytes of staging, {why}; give the store more (staging_mib=, S3Options::staging)"
            );
            Error::new(ErrorKind::Invalid, store, message)
        };
        if let Err(why) = parts {
            return Err(too_large(&format!("since it cannot be uploaded in parts: {why}")));
        }
        if len > MOST_BYTES {
            return Err(too_large(&format!("and never more than {MOST_BYTES}")));
        }
        let each = |bytes: usize| bytes.div_ceil(pool.part_bytes());
        let fits = |each: &usize| pool.parts() / each >= 2;
        let Some(each) = [each(WINDOW_BYTES), each(LEAST_WINDOW_BYTES)].into_iter().find(fits) else {
            return Err(too_large(&format!(
                "or twice the {LEAST_WINDOW_BYTES} bytes of a part for a larger one"
            )));
        };
        let windows = (pool.parts() / each).min(WINDOWS);
        let buffers = pool.acquire_many(windows * each).await;
        Ok(Reserved::Windows { buffers, each, bytes: each * pool.part_bytes() })
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
