//! A bounded pool of equal buffers cut from one region, lent out in order of request.

use std::fmt;
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Semaphore;

use crate::{BUFFER_ALIGNMENT, Error, HostBuf, HostRegion, Result, poison};

/// What of a pool is in use, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PoolUsage {
    /// Bytes of all parts together: the pool never holds more.
    pub bytes_total: usize,
    /// Bytes of the parts that are lent out now.
    pub bytes_lent: usize,
    /// Most bytes that were lent out at one time.
    pub bytes_high_water: usize,
}

/// The state that lent buffers share with their pool.
pub(crate) struct Shared {
    region: Box<dyn HostRegion>,
    part_bytes: usize,
    parts: usize,
    lent: Mutex<Lent>,
    permits: Semaphore,
}

/// The free slots, and how many were out at most.
struct Lent {
    free: Vec<usize>,
    high_water: usize,
}

impl Shared {
    /// Address and length of a slot.
    pub(crate) fn part(&self, slot: usize) -> (NonNull<u8>, usize) {
        // SAFETY: slots are below `parts`, and parts * part_bytes does not exceed the region, so the address is inside it.
        (unsafe { self.region.base().byte_add(slot * self.part_bytes) }, self.part_bytes)
    }

    /// Called by a buffer when it is dropped.
    pub(crate) fn give_back(&self, slot: usize) {
        let (base, bytes) = self.part(slot);
        poison::forbid(base, bytes);
        self.lent().free.push(slot);
        self.permits.add_permits(1);
    }

    fn lent(&self) -> MutexGuard<'_, Lent> {
        // A panic cannot leave the list half-changed: every critical section is one push or one pop.
        self.lent.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        poison::allow(self.region.base(), self.part_bytes * self.parts);
    }
}

/// A fixed number of equal, aligned, reused buffers.
///
/// Cloning gives another handle to the same pool. The region lives until the last handle and the last buffer are gone.
#[derive(Clone)]
pub struct StagingPool {
    shared: Arc<Shared>,
}

impl StagingPool {
    /// Cuts `region` into as many parts of `part_bytes` as fit.
    ///
    /// # Errors
    /// [`Invalid`](crate::ErrorKind::Invalid) unless `part_bytes` is a positive multiple of [`BUFFER_ALIGNMENT`] and at least one
    /// part fits.
    pub fn new(region: impl HostRegion, part_bytes: usize) -> Result<Self> {
        Self::from_boxed(Box::new(region), part_bytes)
    }

    /// As [`StagingPool::new`], for a region that a device handed out behind a pointer.
    ///
    /// # Errors
    /// As [`StagingPool::new`].
    pub fn from_boxed(region: Box<dyn HostRegion>, part_bytes: usize) -> Result<Self> {
        if part_bytes == 0 || !part_bytes.is_multiple_of(BUFFER_ALIGNMENT) {
            return Err(Error::invalid(format!(
                "staging parts of {part_bytes} bytes: expected a positive multiple of {BUFFER_ALIGNMENT}"
            )));
        }
        let parts = (region.len() / part_bytes).min(Semaphore::MAX_PERMITS);
        if parts == 0 {
            let have = region.len();
            return Err(Error::invalid(format!(
                "{have} bytes of staging hold no part of {part_bytes} bytes: give more staging or smaller parts"
            )));
        }
        poison::forbid(region.base(), part_bytes * parts);
        let lent = Mutex::new(Lent { free: (0..parts).rev().collect(), high_water: 0 });
        Ok(Self {
            shared: Arc::new(Shared { region, part_bytes, parts, lent, permits: Semaphore::new(parts) }),
        })
    }

    /// Bytes of one part.
    pub fn part_bytes(&self) -> usize {
        self.shared.part_bytes
    }

    /// The memory that the parts are cut from, for whoever registers it with a kernel or a device; its bytes belong to the buffers.
    pub fn region(&self) -> &dyn HostRegion {
        &*self.shared.region
    }

    /// Number of parts.
    pub fn parts(&self) -> usize {
        self.shared.parts
    }

    /// One buffer; waits, first come first served, while all are lent out.
    ///
    /// # Cancel safety
    /// Cancel safe: a dropped wait gives up its place in the queue and holds no memory.
    pub async fn acquire(&self) -> HostBuf {
        loop {
            if let Some(buffer) = self.acquire_many(1).await.pop() {
                return buffer;
            }
        }
    }

    /// `count` buffers at once (at most all of them), so that two callers can never each hold half of what both need.
    ///
    /// # Cancel safety
    /// Cancel safe, as [`acquire`](Self::acquire).
    pub async fn acquire_many(&self, count: usize) -> Vec<HostBuf> {
        let count = u32::try_from(count.min(self.shared.parts)).unwrap_or(u32::MAX);
        match self.shared.permits.acquire_many(count).await {
            Ok(permit) => {
                permit.forget(); // each buffer gives its permit back when it is dropped
                self.take(count as usize)
            }
            // The semaphore is private and never closed.
            Err(_) => Vec::new(),
        }
    }

    /// One buffer if one is free now.
    pub fn try_acquire(&self) -> Option<HostBuf> {
        self.shared.permits.try_acquire().ok()?.forget();
        self.take(1).pop()
    }

    /// Takes slots for which permits are held.
    fn take(&self, count: usize) -> Vec<HostBuf> {
        let mut lent = self.shared.lent();
        let first = lent.free.len().saturating_sub(count);
        let slots = lent.free.split_off(first);
        lent.high_water = lent.high_water.max(self.shared.parts - lent.free.len());
        drop(lent);
        let lend = |slot| {
            let (base, bytes) = self.shared.part(slot);
            poison::allow(base, bytes);
            HostBuf::lend(Arc::clone(&self.shared), slot)
        };
        slots.into_iter().map(lend).collect()
    }

    /// What is in use.
    pub fn usage(&self) -> PoolUsage {
        let lent = self.shared.lent();
        let part = self.shared.part_bytes;
        PoolUsage {
            bytes_total: part * self.shared.parts,
            bytes_lent: part * (self.shared.parts - lent.free.len()),
            bytes_high_water: part * lent.high_water,
        }
    }
}

impl fmt::Debug for StagingPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StagingPool")
            .field("region", &self.shared.region)
            .field("part_bytes", &self.shared.part_bytes)
            .field("usage", &self.usage())
            .finish()
    }
}
