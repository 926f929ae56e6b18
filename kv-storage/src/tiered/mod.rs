//! A bounded tier of fast memory or NVMe in front of a slower, shared store.
//!
//! The tier holds copies and never the only one: a save goes to both and is answered by the store behind. What is there, and which object it
//! is, is asked of the store behind, so that what another host deletes, quarantines or replaces is not served from the copy. What
//! the tier saves is moving the bytes again.

mod contents;
mod filling;
mod store;
mod upload;

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use contents::Contents;
use kv_format::ObjectName;

use crate::KvStore;
use crate::env::Environment;

/// How large a [`Tiered`]'s front is, and how long it is believed.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct TieredOptions {
    /// Most bytes of objects in the tier, those on their way in included.
    pub front_bytes: u64,
    /// How long after the store behind was asked about an object its copy is served without asking again. Default 0: each read asks.
    pub trust_for: Duration,
    /// Time.
    pub environment: Environment,
}

impl TieredOptions {
    /// A tier of `front_bytes` whose every hit is checked.
    pub fn new(front_bytes: u64) -> Self {
        Self { front_bytes, trust_for: Duration::ZERO, environment: Environment::default() }
    }

    /// Sets how long a copy is served without asking.
    #[must_use]
    pub fn trust_for(mut self, time: Duration) -> Self {
        self.trust_for = time;
        self
    }

    /// Sets the clock.
    #[must_use]
    pub fn environment(mut self, environment: Environment) -> Self {
        self.environment = environment;
        self
    }
}

/// What a tier did so far, and what it holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct TierState {
    /// Reads that were answered by the tier.
    pub hits: u64,
    /// Reads that went to the store behind.
    pub misses: u64,
    /// Copies that went to make room.
    pub evicted: u64,
    /// Copies that went because the object behind was gone or another, or because they could not be read.
    pub stale: u64,
    /// Bytes of copies, those on their way in included.
    pub bytes: u64,
    /// Copies that are complete.
    pub objects: usize,
}

/// A fast store in front of a slow one, write-through. Clones share the tier.
///
/// The front belongs to this handle and its clones alone, holds no records, and begins empty: what another process left there is
/// neither used nor counted, so give each process a fresh [`MemoryStore`](crate::MemoryStore) or directory.
///
/// ```
/// use std::sync::Arc;
/// use kv_storage::{MemoryStore, Tiered, TieredOptions};
/// let back = Arc::new(MemoryStore::new()); // a shared store
/// let store = Tiered::new(Arc::new(MemoryStore::new()), back, TieredOptions::new(8 << 30));
/// assert_eq!(store.state().objects, 0);
/// ```
#[derive(Clone)]
pub struct Tiered {
    front: Arc<dyn KvStore>,
    back: Arc<dyn KvStore>,
    options: Arc<TieredOptions>,
    contents: Arc<Mutex<Contents>>,
}

impl Tiered {
    /// Puts `front` before `back`.
    pub fn new(front: Arc<dyn KvStore>, back: Arc<dyn KvStore>, options: TieredOptions) -> Self {
        let contents = Arc::new(Mutex::new(Contents::new(options.front_bytes)));
        Self { front, back, options: Arc::new(options), contents }
    }

    /// What it did so far, and what it holds.
    pub fn state(&self) -> TierState {
        self.contents().state()
    }

    fn contents(&self) -> MutexGuard<'_, Contents> {
        // Counts and maps are changed together by code that does not panic.
        self.contents.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a copy out of the tier.
    async fn forget(&self, name: &ObjectName) {
        if self.contents().remove(name) {
            let _ = self.front.delete(name).await; // a copy that cannot be removed is not counted and not served
        }
    }

    /// Makes room for a copy; whether there is some.
    async fn make_room(&self, name: &ObjectName, bytes: u64) -> bool {
        let Some(evicted) = self.contents().reserve(name, bytes) else { return false };
        for name in evicted {
            let _ = self.front.delete(&name).await;
        }
        true
    }
}

impl fmt::Display for Tiered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "tiered({}, {})", self.front, self.back)
    }
}

impl fmt::Debug for Tiered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tiered")
            .field("front", &self.front)
            .field("back", &self.back)
            .field("options", &self.options)
            .field("state", &self.state())
            .finish_non_exhaustive()
    }
}
