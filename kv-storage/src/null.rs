//! A store that swallows what it is given: measures everything above a store, and switches saving off without another code path.

use std::fmt;

use std::sync::Arc;

use async_trait::async_trait;
use kv_format::{NamespaceDigest, ObjectName, RecordName};
use kv_memory::HostBuf;

use crate::parts::{Coverage, read_in_turns, record_fits, write_in_turns};
use crate::{
    ByteRange, Capabilities, KvStore, ObjectMeta, Publication, ReadOutcome, ReadPart, ReadSink, Record,
    Result, StoreHealth, Upload, Version, WriteOrder, WriteSource,
};

/// Accepts every write, answers `Published`, holds nothing: every read is a miss.
///
/// Sizes and call order are checked as everywhere, so that a caller's mistake shows here too.
#[derive(Debug, Clone, Copy, Default)]
pub struct NullStore;

#[derive(Debug)]
struct NullUpload {
    coverage: Coverage,
}

impl fmt::Display for NullStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("null")
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl KvStore for NullStore {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            write_order: WriteOrder::Any,
            part_bytes: 1 << 20,
            alignment: 1,
            concurrency: 16,
            atomic_create: false, // two commits of one name both answer `Published`
        }
    }

    fn health(&self) -> StoreHealth {
        StoreHealth::default()
    }

    async fn idle(&self) {}

    async fn begin(&self, name: &ObjectName, len: u64) -> Result<Box<dyn Upload>> {
        Ok(Box::new(NullUpload { coverage: Coverage::new(self.to_string(), name.to_string(), len) }))
    }

    async fn read(&self, _: &ObjectName, parts: Vec<ReadPart>) -> ReadOutcome {
        ReadOutcome { buffers: parts.into_iter().map(|part| part.buffer).collect(), result: Ok(None) }
    }

    fn calls_back_on_own_threads(&self) -> bool {
        false
    }

    async fn read_into(
        &self,
        name: &ObjectName,
        ranges: Vec<ByteRange>,
        buffers: Vec<HostBuf>,
        sink: Arc<dyn ReadSink>,
    ) -> Result<Option<ObjectMeta>> {
        read_in_turns(self, name, ranges, buffers, sink).await
    }

    async fn head(&self, _: &ObjectName) -> Result<Option<ObjectMeta>> {
        Ok(None)
    }

    async fn list(&self, _: &NamespaceDigest, _: Option<&ObjectName>, _: usize) -> Result<Vec<ObjectMeta>> {
        Ok(Vec::new())
    }

    async fn delete(&self, _: &ObjectName) -> Result<bool> {
        Ok(false)
    }

    async fn quarantine(&self, _: &ObjectName, _: &Version) -> Result<bool> {
        Ok(false)
    }

    async fn create_record(&self, name: &RecordName, body: &[u8]) -> Result<Option<Version>> {
        record_fits(self, name, body)?;
        Ok(Some(Version("null".to_owned())))
    }

    async fn replace_record(&self, name: &RecordName, _: &Version, body: &[u8]) -> Result<Option<Version>> {
        record_fits(self, name, body)?;
        Ok(None)
    }

    async fn read_record(&self, _: &RecordName) -> Result<Option<Record>> {
        Ok(None)
    }

    async fn delete_record(&self, _: &RecordName) -> Result<bool> {
        Ok(false)
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl Upload for NullUpload {
    async fn write(&self, offset: u64, part: HostBuf) -> (HostBuf, Result<()>) {
        let result = self.coverage.writing(offset, part.len()).map(|writing| writing.done());
        (part, result)
    }

    async fn write_from(
        &self,
        ranges: Vec<ByteRange>,
        buffer: HostBuf,
        source: Arc<dyn WriteSource>,
    ) -> (HostBuf, Result<()>) {
        write_in_turns(self, ranges, buffer, source).await
    }

    async fn commit(self: Box<Self>) -> Result<Publication> {
        self.coverage.complete()?;
        Ok(Publication::Published)
    }

    async fn abort(self: Box<Self>) -> Result<()> {
        Ok(())
    }
}
