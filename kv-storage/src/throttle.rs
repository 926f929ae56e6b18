//! A wrapper that makes a store slower: bytes per second each way, and a latency for each call.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::env::{Clock, Environment};
use crate::passage::{Answer, Entry, Passage, Rule};
use crate::{KvStore, Operation, Result};

/// Delays the calls to the store beneath, so that no more bytes move in a second than are allowed: to leave a shared link to others,
/// and to try what is above a store against a slow one.
///
/// A call waits until its bytes are due, and is then made; a streamed one waits for all of its bytes first, so that it still moves them
/// on the store's own threads. A caller that leaves while it waits gives its turn to the next. A miss has had its turn.
pub type Throttle = Passage<Throttling>;

/// How slow a [`Throttle`] is. The default changes nothing.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct ThrottleOptions {
    /// Bytes of objects and records that may be read in a second. `None`: all there are.
    pub read_bytes_per_second: Option<u64>,
    /// Bytes of objects and records that may be written in a second. `None`: all there are.
    pub write_bytes_per_second: Option<u64>,
    /// Bytes that may pass at once after a pause, each way. 0: a call of `n` bytes takes at least `n` / rate.
    pub burst_bytes: u64,
    /// Time that each call takes longer, whatever it moves and whatever else goes on.
    pub latency: Duration,
    /// Time.
    pub environment: Environment,
}

/// The rule of [`Throttle`]: wait until it is due.
#[derive(Debug)]
pub struct Throttling {
    reading: Option<Arc<Bucket>>,
    writing: Option<Arc<Bucket>>,
    latency: Duration,
    environment: Environment,
}

/// One direction. The mutex holds the time at which every byte so far has passed, in nanoseconds of the clock.
#[derive(Debug)]
struct Bucket {
    bytes_per_second: u64,
    burst: u128,
    spent_until: Mutex<u128>,
}

/// The slot of time that a call's bytes have; what of it still lies ahead goes to others if the caller leaves.
#[derive(Debug)]
pub struct Slot {
    bucket: Arc<Bucket>,
    clock: Arc<dyn Clock>,
    nanos: u128,
    end: u128,
}

impl ThrottleOptions {
    /// Sets the bytes that may be read in a second.
    #[must_use]
    pub fn read_bytes_per_second(mut self, rate: u64) -> Self {
        self.read_bytes_per_second = Some(rate);
        self
    }

    /// Sets the bytes that may be written in a second.
    #[must_use]
    pub fn write_bytes_per_second(mut self, rate: u64) -> Self {
        self.write_bytes_per_second = Some(rate);
        self
    }

    /// Sets the bytes that may pass at once after a pause.
    #[must_use]
    pub fn burst_bytes(mut self, bytes: u64) -> Self {
        self.burst_bytes = bytes;
        self
    }

    /// Sets the time that each call takes longer.
    #[must_use]
    pub fn latency(mut self, latency: Duration) -> Self {
        self.latency = latency;
        self
    }

    /// Sets the clock.
    #[must_use]
    pub fn environment(mut self, environment: Environment) -> Self {
        self.environment = environment;
        self
    }
}

impl Throttle {
    /// Slows `inner` down. A rate of 0 counts as one byte in a second.
    pub fn new(inner: Arc<dyn KvStore>, options: ThrottleOptions) -> Self {
        let bucket = |rate: Option<u64>| rate.map(|rate| Bucket::new(rate, options.burst_bytes));
        let rule = Throttling {
            reading: bucket(options.read_bytes_per_second),
            writing: bucket(options.write_bytes_per_second),
            latency: options.latency,
            environment: options.environment,
        };
        Self::through(inner, rule)
    }
}

impl Bucket {
    fn new(bytes_per_second: u64, burst_bytes: u64) -> Arc<Self> {
        let bytes_per_second = bytes_per_second.max(1);
        let burst = nanos(burst_bytes, bytes_per_second);
        Arc::new(Self { bytes_per_second, burst, spent_until: Mutex::default() })
    }

    fn spent_until(&self) -> MutexGuard<'_, u128> {
        // Every critical section is one assignment; a panic cannot leave it half done.
        self.spent_until.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives `bytes` the next free slot, and says how long after now it ends.
    fn take(self: &Arc<Self>, bytes: u64, clock: &Arc<dyn Clock>) -> (Slot, Duration) {
        let nanos = nanos(bytes, self.bytes_per_second);
        let now = clock.now().as_nanos();
        let mut spent_until = self.spent_until();
        // What was not used in the past is lost, except for the burst.
        let end = (*spent_until).max(now.saturating_sub(self.burst)) + nanos;
        *spent_until = end;
        drop(spent_until);
        let wait = u64::try_from(end.saturating_sub(now)).unwrap_or(u64::MAX);
        let slot = Slot { bucket: Arc::clone(self), clock: Arc::clone(clock), nanos, end };
        (slot, Duration::from_nanos(wait))
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let ahead = self.end.saturating_sub(self.clock.now().as_nanos()).min(self.nanos);
        let mut spent_until = self.bucket.spent_until();
        *spent_until = spent_until.saturating_sub(ahead);
    }
}

fn nanos(bytes: u64, bytes_per_second: u64) -> u128 {
    u128::from(bytes) * 1_000_000_000 / u128::from(bytes_per_second)
}

impl Rule for Throttling {
    type Pass = (Option<Slot>, u64);

    async fn enter(&self, entry: Entry) -> Result<Self::Pass> {
        let bucket = match entry.operation {
            Operation::Read | Operation::ReadRecord => self.reading.as_ref(),
            Operation::Write | Operation::CreateRecord | Operation::ReplaceRecord => self.writing.as_ref(),
            _ => None,
        };
        let clock = &self.environment.clock;
        let taken = bucket.map(|bucket| bucket.take(entry.bytes, clock));
        let (slot, due) = taken.map_or((None, Duration::ZERO), |(slot, due)| (Some(slot), due));
        let wait = due.saturating_add(self.latency);
        if !wait.is_zero() {
            clock.sleep(wait).await;
        }
        Ok((slot, entry.bytes))
    }

    fn leave(&self, (slot, asked): Self::Pass, answer: Answer<'_>) {
        let Some(mut slot) = slot else { return };
        slot.nanos = 0; // within the burst, it may lie ahead
        // The length of a record is known once it is read: the calls after it wait for it.
        let more = answer.bytes.saturating_sub(asked);
        *slot.bucket.spent_until() += nanos(more, slot.bucket.bytes_per_second);
    }
}
