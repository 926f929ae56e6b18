//! Every call of a store, through the door.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use kv_format::{NamespaceDigest, ObjectName, RecordName};
use kv_memory::HostBuf;

use super::upload::PassingUpload;
use super::{Passage, Rule, asked, buffers, ranged};
use crate::{
    ByteRange, Capabilities, KvStore, Next, ObjectMeta, Operation, ReadOutcome, ReadPart, ReadSink, Record,
    Result, Setback, StoreHealth, Upload, Version,
};

/// Counts what a streamed read hands over.
struct CountingSink {
    inner: Arc<dyn ReadSink>,
    bytes: AtomicU64,
}

impl ReadSink for CountingSink {
    fn filled(&self, meta: &ObjectMeta, index: usize, buffer: HostBuf) -> Next {
        self.bytes.fetch_add(buffer.len() as u64, Ordering::Relaxed);
        self.inner.filled(meta, index, buffer)
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl<R: Rule> KvStore for Passage<R> {
    fn capabilities(&self) -> Capabilities {
        self.rule.capabilities(self.inner.capabilities())
    }

    fn health(&self) -> StoreHealth {
        self.rule.health(self.inner.health())
    }

    async fn idle(&self) {
        self.rule.idle().await;
        self.inner.idle().await;
    }

    async fn begin(&self, name: &ObjectName, len: u64) -> Result<Box<dyn Upload>> {
        let inner = self.pass(Operation::Begin, 0, self.inner.begin(name, len), |_| 0).await?;
        Ok(Box::new(PassingUpload { passage: self.clone(), inner }))
    }

    async fn read(&self, name: &ObjectName, parts: Vec<ReadPart>) -> ReadOutcome {
        let bytes = asked(&parts);
        let pass = match self.enter(Operation::Read, bytes).await {
            Ok(pass) => pass,
            Err(error) => return ReadOutcome { buffers: buffers(parts), result: Err(error) },
        };
        let answer = self.in_time(Operation::Read, self.inner.read(name, parts)).await;
        let outcome = answer.unwrap_or_else(|error| ReadOutcome { buffers: Vec::new(), result: Err(error) });
        let moved = if matches!(outcome.result, Ok(Some(_))) { bytes } else { 0 };
        self.leave(pass, &outcome.result, moved);
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
        let counting = Arc::new(CountingSink { inner: sink, bytes: AtomicU64::new(0) });
        let sink = Arc::<CountingSink>::clone(&counting);
        let bytes = ranged(&ranges);
        let read = self.inner.read_into(name, ranges, buffers, sink);
        self.pass(Operation::Read, bytes, read, |_| counting.bytes.load(Ordering::Relaxed)).await
    }

    async fn head(&self, name: &ObjectName) -> Result<Option<ObjectMeta>> {
        self.pass(Operation::Head, 0, self.inner.head(name), |_| 0).await
    }

    async fn list(
        &self,
        namespace: &NamespaceDigest,
        after: Option<&ObjectName>,
        limit: usize,
    ) -> Result<Vec<ObjectMeta>> {
        self.pass(Operation::List, 0, self.inner.list(namespace, after, limit), |_| 0).await
    }

    async fn delete(&self, name: &ObjectName) -> Result<bool> {
        self.pass(Operation::Delete, 0, self.inner.delete(name), |_| 0).await
    }

    async fn quarantine(&self, name: &ObjectName, version: &Version) -> Result<bool> {
        self.pass(Operation::Quarantine, 0, self.inner.quarantine(name, version), |_| 0).await
    }

    fn another_way(&self, name: &ObjectName, setback: Setback) -> bool {
        self.inner.another_way(name, setback)
    }

    async fn create_record(&self, name: &RecordName, body: &[u8]) -> Result<Option<Version>> {
        let bytes = body.len() as u64;
        let call = self.inner.create_record(name, body);
        self.pass(Operation::CreateRecord, bytes, call, |_| bytes).await
    }

    async fn replace_record(
        &self,
        name: &RecordName,
        expected: &Version,
        body: &[u8],
    ) -> Result<Option<Version>> {
        let bytes = body.len() as u64;
        let call = self.inner.replace_record(name, expected, body);
        self.pass(Operation::ReplaceRecord, bytes, call, |_| bytes).await
    }

    async fn read_record(&self, name: &RecordName) -> Result<Option<Record>> {
        let moved = |record: &Option<Record>| record.as_ref().map_or(0, |record| record.body.len() as u64);
        self.pass(Operation::ReadRecord, 0, self.inner.read_record(name), moved).await
    }

    async fn delete_record(&self, name: &RecordName) -> Result<bool> {
        self.pass(Operation::DeleteRecord, 0, self.inner.delete_record(name), |_| 0).await
    }
}
