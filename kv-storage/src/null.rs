//! A store that swallows what it is given: measures everything above a store, and switches saving off without another code path.

use std::fmt;

use async_trait::async_trait;
use kv_format::{NamespaceDigest, ObjectName, RecordName};
use kv_memory::HostBuf;

use crate::parts::{Coverage, record_fits};
use crate::{
    Capabilities, KvStore, ObjectMeta, Publication, ReadOutcome, ReadPart, Record, Result, StoreHealth,
    Upload, Version, WriteOrder,
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

#[async_trait]
impl Upload for NullUpload {
    async fn write(&self, offset: u64, part: HostBuf) -> (HostBuf, Result<()>) {
        let result = self.coverage.writing(offset, part.len()).map(|writing| writing.done());
        (part, result)
    }

    async fn commit(self: Box<Self>) -> Result<Publication> {
        self.coverage.complete()?;
        Ok(Publication::Published)
    }

    async fn abort(self: Box<Self>) -> Result<()> {
        Ok(())
    }
}
