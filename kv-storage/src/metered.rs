//! A wrapper that counts calls, errors and bytes of the store beneath it.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use kv_format::{NamespaceDigest, ObjectName, RecordName};
use kv_memory::HostBuf;

use crate::{
    ByteRange, Capabilities, KvStore, Next, ObjectMeta, Operation, Publication, ReadOutcome, ReadPart,
    ReadSink, Record, Result, StoreHealth, Upload, Version, WriteSource,
};

/// Counts what goes through to the store beneath. Clones count together.
#[derive(Debug, Clone)]
pub struct Metered {
    inner: Arc<dyn KvStore>,
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

#[derive(Debug)]
struct MeteredUpload {
    inner: Box<dyn Upload>,
    counts: Arc<Mutex<Snapshot>>,
}

/// Counts what a streamed read hands over.
struct CountingSink {
    inner: Arc<dyn ReadSink>,
    bytes: AtomicUsize,
}

impl ReadSink for CountingSink {
    fn filled(&self, meta: &ObjectMeta, index: usize, buffer: HostBuf) -> Next {
        self.bytes.fetch_add(buffer.len(), Ordering::Relaxed);
        self.inner.filled(meta, index, buffer)
    }
}

/// One call that goes on.
struct Running {
    counts: Arc<Mutex<Snapshot>>,
    operation: Operation,
    answered: bool,
}

impl Metered {
    /// Counts the calls to `inner`.
    pub fn new(inner: Arc<dyn KvStore>) -> Self {
        Self { inner, counts: Arc::default() }
    }

    /// The counts now.
    pub fn snapshot(&self) -> Snapshot {
        lock(&self.counts).clone()
    }

    fn start(&self, operation: Operation) -> Running {
        Running::start(&self.counts, operation)
    }
}

impl Snapshot {
    /// The counts of one kind.
    pub fn of(&self, operation: Operation) -> OperationMetrics {
        self.operations.get(&operation).copied().unwrap_or_default()
    }
}

impl Running {
    fn start(counts: &Arc<Mutex<Snapshot>>, operation: Operation) -> Self {
        let mut snapshot = lock(counts);
        snapshot.operations.entry(operation).or_default().calls += 1;
        snapshot.in_flight += 1;
        snapshot.in_flight_high_water = snapshot.in_flight_high_water.max(snapshot.in_flight);
        drop(snapshot);
        Self { counts: Arc::clone(counts), operation, answered: false }
    }

    /// The call answered; a success moved `bytes`.
    fn answered<T>(mut self, result: &Result<T>, bytes: usize) {
        self.answered = true;
        let mut snapshot = lock(&self.counts);
        let metrics = snapshot.operations.entry(self.operation).or_default();
        match result {
            Ok(_) => metrics.bytes += bytes as u64,
            Err(_) => metrics.errors += 1,
        }
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
    counts.lock().unwrap_or_else(PoisonError::into_inner)
}

impl fmt::Display for Metered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f) // errors name the store that failed, not its wrapper
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl KvStore for Metered {
    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    fn health(&self) -> StoreHealth {
        self.inner.health()
    }

    async fn idle(&self) {
        self.inner.idle().await;
    }

    async fn begin(&self, name: &ObjectName, len: u64) -> Result<Box<dyn Upload>> {
        let running = self.start(Operation::Begin);
        let result = self.inner.begin(name, len).await;
        running.answered(&result, 0);
        let inner = result?;
        Ok(Box::new(MeteredUpload { inner, counts: Arc::clone(&self.counts) }))
    }

    async fn read(&self, name: &ObjectName, parts: Vec<ReadPart>) -> ReadOutcome {
        let running = self.start(Operation::Read);
        let outcome = self.inner.read(name, parts).await;
        let read = match &outcome.result {
            Ok(Some(_)) => outcome.buffers.iter().map(|buffer| buffer.len()).sum(),
            _ => 0,
        };
        running.answered(&outcome.result, read);
        outcome
    }

    fn calls_back_on_own_threads(&self) -> bool {
        self.inner.calls_back_on_own_threads()
    }

    async fn read_into(
        &self,
        name: &ObjectName,
        ranges: Vec<ByteRange>,
        buffers: Vec<HostBuf>,
        sink: Arc<dyn ReadSink>,
    ) -> Result<Option<ObjectMeta>> {
        let running = self.start(Operation::Read);
        let counting = Arc::new(CountingSink { inner: sink, bytes: AtomicUsize::new(0) });
        let result = self.inner.read_into(name, ranges, buffers, Arc::<CountingSink>::clone(&counting)).await;
        running.answered(&result, counting.bytes.load(Ordering::Relaxed));
        result
    }

    async fn head(&self, name: &ObjectName) -> Result<Option<ObjectMeta>> {
        let running = self.start(Operation::Head);
        let result = self.inner.head(name).await;
        running.answered(&result, 0);
        result
    }

    async fn list(
        &self,
        namespace: &NamespaceDigest,
        after: Option<&ObjectName>,
        limit: usize,
    ) -> Result<Vec<ObjectMeta>> {
        let running = self.start(Operation::List);
        let result = self.inner.list(namespace, after, limit).await;
        running.answered(&result, 0);
        result
    }

    async fn delete(&self, name: &ObjectName) -> Result<bool> {
        let running = self.start(Operation::Delete);
        let result = self.inner.delete(name).await;
        running.answered(&result, 0);
        result
    }

    async fn quarantine(&self, name: &ObjectName, version: &Version) -> Result<bool> {
        let running = self.start(Operation::Quarantine);
        let result = self.inner.quarantine(name, version).await;
        running.answered(&result, 0);
        result
    }

    async fn create_record(&self, name: &RecordName, body: &[u8]) -> Result<Option<Version>> {
        let running = self.start(Operation::CreateRecord);
        let result = self.inner.create_record(name, body).await;
        running.answered(&result, body.len());
        result
    }

    async fn replace_record(
        &self,
        name: &RecordName,
        expected: &Version,
        body: &[u8],
    ) -> Result<Option<Version>> {
        let running = self.start(Operation::ReplaceRecord);
        let result = self.inner.replace_record(name, expected, body).await;
        running.answered(&result, body.len());
        result
    }

    async fn read_record(&self, name: &RecordName) -> Result<Option<Record>> {
        let running = self.start(Operation::ReadRecord);
        let result = self.inner.read_record(name).await;
        let bytes = match &result {
            Ok(Some(record)) => record.body.len(),
            _ => 0,
        };
        running.answered(&result, bytes);
        result
    }

    async fn delete_record(&self, name: &RecordName) -> Result<bool> {
        let running = self.start(Operation::DeleteRecord);
        let result = self.inner.delete_record(name).await;
        running.answered(&result, 0);
        result
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl Upload for MeteredUpload {
    async fn write(&self, offset: u64, part: HostBuf) -> (HostBuf, Result<()>) {
        let running = Running::start(&self.counts, Operation::Write);
        let (part, result) = self.inner.write(offset, part).await;
        running.answered(&result, part.len());
        (part, result)
    }

    async fn write_from(
        &self,
        ranges: Vec<ByteRange>,
        buffer: HostBuf,
        source: Arc<dyn WriteSource>,
    ) -> (HostBuf, Result<()>) {
        let running = Running::start(&self.counts, Operation::Write);
        let bytes = ranges.iter().map(|range| range.len).sum();
        let (buffer, result) = self.inner.write_from(ranges, buffer, source).await;
        running.answered(&result, bytes);
        (buffer, result)
    }

    async fn commit(self: Box<Self>) -> Result<Publication> {
        let running = Running::start(&self.counts, Operation::Commit);
        let result = self.inner.commit().await;
        running.answered(&result, 0);
        result
    }

    async fn abort(self: Box<Self>) -> Result<()> {
        let running = Running::start(&self.counts, Operation::Abort);
        let result = self.inner.abort().await;
        running.answered(&result, 0);
        result
    }
}
