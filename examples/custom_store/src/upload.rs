//! An object on its way in: bytes go straight to their place in the file, and the index makes them visible at once.

use std::os::unix::fs::FileExt as _;

use async_trait::async_trait;
use kv_format::ObjectName;
use kv_memory::HostBuf;
use kv_storage::parts::Coverage;
use kv_storage::{Publication, Result, Upload};

use crate::log::LogStore;

#[derive(Debug)]
pub(crate) struct LogUpload {
    store: LogStore,
    name: String,
    /// Offset and length in the file.
    place: (u64, u64),
    /// Which bytes were written, and whether a write was dropped.
    coverage: Coverage,
}

impl LogUpload {
    pub(crate) fn new(store: LogStore, name: ObjectName, offset: u64, len: u64) -> Self {
        let name = name.to_string();
        let coverage = Coverage::new(store.to_string(), name.clone(), len);
        Self { store, name, place: (offset, len), coverage }
    }
}

#[async_trait]
impl Upload for LogUpload {
    async fn write(&self, offset: u64, part: HostBuf) -> (HostBuf, Result<()>) {
        let writing = match self.coverage.writing(offset, part.len()) {
            Ok(writing) => writing,
            Err(error) => return (part, Err(error)),
        };
        let at = self.place.0 + offset;
        let (part, result) = self.store.call(part, move |file, part| file.write_all_at(part, at)).await;
        match result {
            Ok(()) => writing.done(),
            Err(_) => writing.failed(),
        }
        (part, result)
    }

    async fn commit(self: Box<Self>) -> Result<Publication> {
        self.coverage.complete()?;
        Ok(match self.store.index().change(&self.name, |found| found.is_none(), Some(self.place)) {
            Some(_) => Publication::Published,
            None => Publication::AlreadyExists,
        })
    }

    async fn abort(self: Box<Self>) -> Result<()> {
        Ok(()) // nothing names the bytes
    }
}
