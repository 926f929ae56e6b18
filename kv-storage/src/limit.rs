//! A wrapper that lets only so many calls, and so many bytes, go to the store at a time.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::passage::{Answer, Entry, Passage, Rule};
use crate::{Capabilities, Error, ErrorKind, KvStore, Result};

/// Bounds the calls and the bytes in flight to the store beneath; the others wait, and pass in the order in which they came.
///
/// For stores that answer too much at a time with errors or with memory: an S3 endpoint that throttles, a link that many ranks share.
/// A call whose caller leaves gives its place to the next at once; if the backend still holds it, the store beneath counts it as
/// [stranded](crate::StoreHealth::stranded) and bounds that.
///
/// ```
/// use std::sync::Arc;
/// use kv_storage::{KvStore, Limit, MemoryStore};
/// let store = Limit::new(Arc::new(MemoryStore::new()), 4, 64 << 20); // four calls, 64 MiB
/// assert_eq!(store.capabilities().concurrency, 4);
/// ```
pub type Limit = Passage<Limiting>;

/// The rule of [`Limit`]: wait for a place.
#[derive(Debug)]
pub struct Limiting {
    operations: usize,
    places: Arc<Semaphore>,
    /// In units, because a semaphore hands out 32 bits at a time.
    units: Arc<Semaphore>,
    all_units: u32,
}

/// A call's place.
#[derive(Debug)]
pub struct Place {
    _place: OwnedSemaphorePermit,
    _units: Option<OwnedSemaphorePermit>,
}

/// Bytes that are counted as one: the smallest page.
const UNIT: u64 = 4096;

impl Limit {
    /// Lets `operations` calls and `bytes` of objects and records to `inner` at a time, at least one of each. A call that moves more
    /// than `bytes` passes alone.
    pub fn new(inner: Arc<dyn KvStore>, operations: usize, bytes: u64) -> Self {
        let operations = operations.clamp(1, Semaphore::MAX_PERMITS);
        let all_units = units(bytes).clamp(1, u32::try_from(Semaphore::MAX_PERMITS).unwrap_or(u32::MAX));
        let rule = Limiting {
            operations,
            places: Arc::new(Semaphore::new(operations)),
            units: Arc::new(Semaphore::new(usize::try_from(all_units).unwrap_or(Semaphore::MAX_PERMITS))),
            all_units,
        };
        Self::through(inner, rule)
    }
}

fn units(bytes: u64) -> u32 {
    u32::try_from(bytes.div_ceil(UNIT)).unwrap_or(u32::MAX)
}

impl Rule for Limiting {
    type Pass = Place;

    async fn enter(&self, entry: Entry) -> Result<Place> {
        let ended = |_| {
            let message = "the queue of its calls has ended: this is a defect of the wrapper";
            Error::new(ErrorKind::Unavailable, "limit", message)
        };
        // The queue for places is served first come, first served; so is that for bytes, which holds a place meanwhile. Calls that
        // move nothing do not wait behind those that do.
        let place = Arc::clone(&self.places).acquire_owned().await.map_err(ended)?;
        let wanted = units(entry.bytes).min(self.all_units);
        let units = match wanted {
            0 => None,
            _ => Some(Arc::clone(&self.units).acquire_many_owned(wanted).await.map_err(ended)?),
        };
        Ok(Place { _place: place, _units: units })
    }

    fn leave(&self, place: Place, _: Answer<'_>) {
        drop(place);
    }

    fn capabilities(&self, beneath: Capabilities) -> Capabilities {
        Capabilities { concurrency: beneath.concurrency.min(self.operations), ..beneath }
    }
}
