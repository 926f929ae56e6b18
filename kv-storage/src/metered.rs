//! A wrapper that counts calls, errors and bytes of the store beneath it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::passage::{Answer, Entry, Passage, Rule};
use crate::{KvStore, Operation, Result};

/// Counts what goes through to the store beneath. Clones count together.
pub type Metered = Passage<Metering>;

/// The rule of [`Metered`]: let everything in, and count.
#[derive(Debug, Default)]
pub struct Metering {
    counts: Arc<Mutex<Snapshot>>,
}

/// The counts at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// What was called, by kind; kinds that were never called are missing.
    pub operations: BTreeMap<Operation, OperationMetrics>,
    /// Calls that go on now.
    pub in_flight: usize,
    /// Most calls that went on at one time.
    pub in_flight_high_water: usize,
}

/// The counts of one kind of call.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct OperationMetrics {
    /// Calls that began.
    pub calls: u64,
    /// Calls that answered with an error.
    pub errors: u64,
    /// Calls whose futures were dropped before they answered.
    pub dropped: u64,
    /// Bytes of objects and records that successful calls moved.
    pub bytes: u64,
}

/// One call that goes on.
#[derive(Debug)]
pub struct Running {
    counts: Arc<Mutex<Snapshot>>,
    operation: Operation,
    answered: bool,
}

impl Metered {
    /// Counts the calls to `inner`.
    pub fn new(inner: Arc<dyn KvStore>) -> Self {
        Self::through(inner, Metering::default())
    }

    /// The counts now.
    pub fn snapshot(&self) -> Snapshot {
        lock(&self.rule().counts).clone()
    }
}

impl Snapshot {
    /// The counts of one kind.
    pub fn of(&self, operation: Operation) -> OperationMetrics {
        self.operations.get(&operation).copied().unwrap_or_default()
    }
}

impl Rule for Metering {
    type Pass = Running;

    async fn enter(&self, entry: Entry) -> Result<Running> {
        let mut snapshot = lock(&self.counts);
        snapshot.operations.entry(entry.operation).or_default().calls += 1;
        snapshot.in_flight += 1;
        snapshot.in_flight_high_water = snapshot.in_flight_high_water.max(snapshot.in_flight);
        drop(snapshot);
        Ok(Running { counts: Arc::clone(&self.counts), operation: entry.operation, answered: false })
    }

    fn leave(&self, mut running: Running, answer: Answer<'_>) {
        running.answered = true;
        let mut snapshot = lock(&self.counts);
        let metrics = snapshot.operations.entry(running.operation).or_default();
        metrics.bytes += answer.bytes;
        metrics.errors += u64::from(answer.error.is_some());
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let mut snapshot = lock(&self.counts);
        snapshot.in_flight -= 1;
        if !self.answered {
            snapshot.operations.entry(self.operation).or_default().dropped += 1;
        }
    }
}

fn lock(counts: &Mutex<Snapshot>) -> MutexGuard<'_, Snapshot> {
    // Every critical section is a few additions; a panic cannot leave it half done.
    counts.lock().unwrap_or_else(PoisonError::into_inner)
}
