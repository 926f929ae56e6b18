//! Every call of a store, by one path or another.

use std::sync::Arc;

use async_trait::async_trait;
use kv_format::{NamespaceDigest, ObjectName, RecordName};
use kv_memory::HostBuf;

use super::Vast;
use super::by_another::Asked;
use super::path::{key_of, mixed};
use crate::{
    ByteRange, Capabilities, HealthGate, KvStore, ObjectMeta, Operation, ReadOutcome, ReadPart, ReadSink,
    Record, Result, Setback, StoreHealth, Upload, Version, WriteOrder,
};

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl KvStore for Vast {
    /// What every path can do, and the concurrency of all.
    fn capabilities(&self) -> Capabilities {
        let paths = self.shared.paths.iter().map(|path| path.gate.capabilities());
        let of_two = |a: Capabilities, b: Capabilities| Capabilities {
            write_order: if a.write_order == WriteOrder::Whole { a.write_order } else { b.write_order },
            part_bytes: a.part_bytes.max(b.part_bytes),
            alignment: a.alignment.max(b.alignment),
            concurrency: a.concurrency + b.concurrency,
            atomic_create: a.atomic_create && b.atomic_create,
        };
        let one = Capabilities {
            write_order: WriteOrder::Any,
            part_bytes: 1,
            alignment: 1,
            concurrency: 1,
            atomic_create: false,
        };
        paths.reduce(of_two).unwrap_or(one) // there is a path
    }

    /// Down when every path is.
    fn health(&self) -> StoreHealth {
        let paths = self.shared.paths.iter().map(|path| path.gate.health());
        let of_two = |a: StoreHealth, b: StoreHealth| StoreHealth {
            in_flight: a.in_flight + b.in_flight,
            stranded: a.stranded + b.stranded,
            down: a.down && b.down,
            reason: a.reason.or(b.reason).filter(|_| a.down && b.down),
        };
        paths.reduce(of_two).unwrap_or_default()
    }

    async fn idle(&self) {
        for path in &self.shared.paths {
            path.gate.idle().await;
        }
    }

    async fn begin(&self, name: &ObjectName, len: u64) -> Result<Box<dyn Upload>> {
        self.begin_upload(name, len).await
    }

    async fn read(&self, name: &ObjectName, parts: Vec<ReadPart>) -> ReadOutcome {
        self.read_parts(name, parts).await
    }

    fn calls_back_on_own_threads(&self) -> bool {
        self.shared.paths.iter().all(|path| path.gate.calls_back_on_own_threads())
    }

    async fn read_into(
        &self,
        name: &ObjectName,
        ranges: Vec<ByteRange>,
        buffers: Vec<HostBuf>,
        sink: Arc<dyn ReadSink>,
    ) -> Result<Option<ObjectMeta>> {
        self.stream_parts(name, ranges, buffers, sink).await
    }

    async fn head(&self, name: &ObjectName) -> Result<Option<ObjectMeta>> {
        let (kind, meta) = self.head_by(name, Asked::First(0)).await?;
        Ok(meta.map(|meta| self.shown(kind, meta)))
    }

    async fn list(
        &self,
        namespace: &NamespaceDigest,
        after: Option<&ObjectName>,
        limit: usize,
    ) -> Result<Vec<ObjectMeta>> {
        let (namespace, after) = (*namespace, after.copied());
        let call = move |gate: HealthGate| async move { gate.list(&namespace, after.as_ref(), limit).await };
        let key = mixed(u64::from(namespace.0[0]));
        let listed = self.by_any(Operation::List, key, Asked::First(0), call).await?;
        Ok(listed.answer.into_iter().map(|meta| self.shown(listed.path.kind, meta)).collect())
    }

    async fn delete(&self, name: &ObjectName) -> Result<bool> {
        let name = *name;
        let call = move |gate: HealthGate| async move { gate.delete(&name).await };
        Ok(self.by_any(Operation::Delete, key_of(&name), Asked::First(0), call).await?.answer)
    }

    async fn quarantine(&self, name: &ObjectName, version: &Version) -> Result<bool> {
        let Some((kind, version)) = self.untagged(version) else { return Ok(false) };
        let name = *name;
        let call = move |gate: HealthGate| {
            let version = version.clone();
            async move { gate.quarantine(&name, &version).await }
        };
        Ok(self.by_any(Operation::Quarantine, key_of(&name), Asked::Only(kind), call).await?.answer)
    }

    fn another_way(&self, name: &ObjectName, setback: Setback) -> bool {
        let (setbacks, now) = (&self.shared.setbacks, self.now());
        let Some((last, avoided)) = setbacks.avoid_last(name, now) else { return false };
        if setback == Setback::Corrupt {
            self.shared.paths[last].doubts();
        }
        let left = self.shared.paths.iter().any(|path| !avoided.has(path.number) && !path.gate.is_down());
        if !left {
            setbacks.forgive(name);
        }
        left
    }

    async fn create_record(&self, name: &RecordName, body: &[u8]) -> Result<Option<Version>> {
        self.create_by_any(name, body).await
    }

    async fn replace_record(
        &self,
        name: &RecordName,
        expected: &Version,
        body: &[u8],
    ) -> Result<Option<Version>> {
        self.replace_by_its_kind(name, expected, body).await
    }

    async fn read_record(&self, name: &RecordName) -> Result<Option<Record>> {
        self.read_by_any(name).await
    }

    async fn delete_record(&self, name: &RecordName) -> Result<bool> {
        self.delete_by_any(name).await
    }
}
