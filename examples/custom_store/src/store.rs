//! The trait: names become keys of the index, and bytes go between the file and the caller's buffers.

use std::fs::File;
use std::os::unix::fs::FileExt as _;

use async_trait::async_trait;
use kv_format::{NamespaceDigest, ObjectName, RecordName};
use kv_storage::parts::{out_of_range, record_fits};
use kv_storage::{
    Capabilities, Error, ErrorKind, KvStore, ObjectMeta, ReadOutcome, ReadPart, Record, Result, StoreHealth,
    Upload, Version, WriteOrder,
};

use crate::log::{Extent, LogStore};
use crate::upload::LogUpload;

impl LogStore {
    /// Bytes of the file for `len` bytes of `name`.
    fn reserve(&self, name: &str, len: u64) -> Result<u64> {
        let full =
            || Error::new(ErrorKind::NoSpace, self, format!("no file holds {len} bytes more for {name}"));
        self.index().reserve(len).ok_or_else(full)
    }

    /// Writes a record's body, then points its name there.
    async fn put(
        &self,
        name: &RecordName,
        body: &[u8],
        expected: impl FnOnce(Option<&Extent>) -> bool + Send,
    ) -> Result<Option<Version>> {
        record_fits(self, name, body)?;
        let (name, len) = (name.to_string(), body.len() as u64);
        let offset = self.reserve(&name, len)?;
        self.call(body.to_vec(), move |file, body| file.write_all_at(body, offset)).await.1?;
        Ok(self.index().change(&name, expected, Some((offset, len))))
    }
}

#[async_trait]
impl KvStore for LogStore {
    fn capabilities(&self) -> Capabilities {
        let (write_order, part_bytes, alignment) = (WriteOrder::Any, 1 << 20, 1);
        Capabilities { write_order, part_bytes, alignment, concurrency: 8, atomic_create: true }
    }

    fn health(&self) -> StoreHealth {
        self.admission.health()
    }

    async fn idle(&self) {
        self.admission.idle().await;
    }

    async fn begin(&self, name: &ObjectName, len: u64) -> Result<Box<dyn Upload>> {
        let offset = self.reserve(&name.to_string(), len)?;
        Ok(Box::new(LogUpload::new(self.clone(), *name, offset, len)))
    }

    async fn read(&self, name: &ObjectName, parts: Vec<ReadPart>) -> ReadOutcome {
        let buffers = |parts: Vec<ReadPart>| parts.into_iter().map(|part| part.buffer).collect();
        let Some(extent) = self.index().entries.get(&name.to_string()).cloned() else {
            return ReadOutcome { buffers: buffers(parts), result: Ok(None) };
        };
        let end = |part: &ReadPart| part.offset.checked_add(part.buffer.len() as u64);
        if let Some(part) = parts.iter().find(|part| end(part).is_none_or(|end| end > extent.len)) {
            let result = Err(out_of_range(self, name, (part.offset, part.buffer.len()), extent.len));
            return ReadOutcome { buffers: buffers(parts), result };
        }
        let (meta, base) = (meta(*name, &extent), extent.offset);
        let fill = move |file: &File, parts: &mut Vec<ReadPart>| {
            parts.iter_mut().try_for_each(|part| file.read_exact_at(&mut part.buffer, base + part.offset))
        };
        let (parts, result) = self.call(parts, fill).await;
        ReadOutcome { buffers: buffers(parts), result: result.map(|()| Some(meta)) }
    }

    async fn head(&self, name: &ObjectName) -> Result<Option<ObjectMeta>> {
        Ok(self.index().entries.get(&name.to_string()).map(|extent| meta(*name, extent)))
    }

    async fn list(
        &self,
        namespace: &NamespaceDigest,
        after: Option<&ObjectName>,
        limit: usize,
    ) -> Result<Vec<ObjectMeta>> {
        let prefix = format!("v1/{namespace}/");
        let index = self.index();
        let named = index.entries.range(prefix.clone()..).take_while(|(name, _)| name.starts_with(&prefix));
        let mut found: Vec<ObjectMeta> =
            named.filter_map(|(name, extent)| Some(meta(name.parse().ok()?, extent))).collect();
        found.retain(|meta| Some(&meta.name) > after);
        found.sort_unstable_by_key(|meta| meta.name); // chunk 10 stands behind chunk 9, not behind chunk 1
        found.truncate(limit);
        Ok(found)
    }

    async fn delete(&self, name: &ObjectName) -> Result<bool> {
        Ok(self.index().change(&name.to_string(), |found| found.is_some(), None).is_some())
    }

    async fn quarantine(&self, name: &ObjectName, version: &Version) -> Result<bool> {
        Ok(self.index().change(&name.to_string(), is(version), None).is_some())
    }

    async fn create_record(&self, name: &RecordName, body: &[u8]) -> Result<Option<Version>> {
        self.put(name, body, |found| found.is_none()).await
    }

    async fn replace_record(&self, name: &RecordName, old: &Version, body: &[u8]) -> Result<Option<Version>> {
        self.put(name, body, is(old)).await
    }

    async fn read_record(&self, name: &RecordName) -> Result<Option<Record>> {
        let Some(extent) = self.index().entries.get(&name.to_string()).cloned() else { return Ok(None) };
        let body = vec![0; usize::try_from(extent.len).unwrap_or_default()];
        let (body, result) = self.call(body, move |file, body| file.read_exact_at(body, extent.offset)).await;
        result.map(|()| Some(Record { body, version: extent.version }))
    }

    async fn delete_record(&self, name: &RecordName) -> Result<bool> {
        Ok(self.index().change(&name.to_string(), |found| found.is_some(), None).is_some())
    }
}

fn meta(name: ObjectName, extent: &Extent) -> ObjectMeta {
    ObjectMeta { name, len: extent.len, version: extent.version.clone() }
}

fn is(version: &Version) -> impl FnOnce(Option<&Extent>) -> bool + Send {
    move |found| found.is_some_and(|extent| extent.version == *version)
}
