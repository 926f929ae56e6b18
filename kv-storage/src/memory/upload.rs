//! An upload to memory.

use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use kv_format::ObjectName;
use kv_memory::HostBuf;

use super::MemoryStore;
use super::contents::{Body, Stored};
use crate::parts::{Coverage, write_in_turns};
use crate::streaming::fill;
use crate::{ByteRange, Error, ErrorKind, Publication, Result, Upload, WriteSource};

#[derive(Debug)]
pub(super) struct MemoryUpload {
    store: MemoryStore,
    name: ObjectName,
    coverage: Coverage,
    /// Held by a thread, too, while it writes.
    bytes: Arc<Mutex<Body>>,
}

impl MemoryUpload {
    pub(super) fn new(store: &MemoryStore, name: &ObjectName, bytes: Body) -> Self {
        let coverage = Coverage::new(store.to_string(), name.to_string(), bytes.len() as u64);
        Self { store: store.clone(), name: *name, coverage, bytes: Arc::new(Mutex::new(bytes)) }
    }
}

/// Copies a part to its place, which the coverage has checked.
fn put(bytes: &Mutex<Body>, offset: u64, part: &[u8]) {
    let mut bytes = bytes.lock().unwrap_or_else(PoisonError::into_inner);
    let place = usize::try_from(offset).ok().and_then(|start| bytes.get_mut(start..start + part.len()));
    if let Some(place) = place {
        place.copy_from_slice(part);
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl Upload for MemoryUpload {
    async fn write(&self, offset: u64, part: HostBuf) -> (HostBuf, Result<()>) {
        let writing = match self.coverage.writing(offset, part.len()) {
            Ok(writing) => writing,
            Err(error) => return (part, Err(error)),
        };
        put(&self.bytes, offset, &part);
        writing.done();
        (part, Ok(()))
    }

    async fn write_from(
        &self,
        ranges: Vec<ByteRange>,
        buffer: HostBuf,
        source: Arc<dyn WriteSource>,
    ) -> (HostBuf, Result<()>) {
        let Some(threads) = &self.store.threads else {
            return write_in_turns(self, ranges, buffer, source).await;
        };
        let writing = ranges.iter().map(|range| self.coverage.writing(range.offset, range.len));
        let writing = match writing.collect::<Result<Vec<_>>>() {
            Ok(writing) => writing,
            Err(error) => return (buffer, Err(error)),
        };
        let bytes = Arc::clone(&self.bytes);
        let work = move |buffer: &mut HostBuf| {
            for (index, range) in ranges.into_iter().enumerate() {
                fill(&*source, index, range, buffer)?;
                put(&bytes, range.offset, buffer);
            }
            Ok(())
        };
        let (buffer, result) = threads.workers.run(buffer, work).await;
        for writing in writing {
            match result {
                Ok(()) => writing.done(),
                Err(_) => writing.failed(),
            }
        }
        (buffer, result)
    }

    async fn commit(self: Box<Self>) -> Result<Publication> {
        self.coverage.complete()?;
        let Self { store, name, bytes, .. } = *self;
        // A thread that holds it still writes for a caller that has gone, and then the object is not complete.
        let Some(bytes) = Arc::into_inner(bytes) else {
            let message = format!("{name} is still being written: begin it again");
            return Err(Error::new(ErrorKind::Invalid, &store, message));
        };
        let bytes = bytes.into_inner().unwrap_or_else(PoisonError::into_inner);
        let mut contents = store.contents();
        if contents.objects.contains_key(&name) {
            return Ok(Publication::AlreadyExists);
        }
        let version = contents.next_version();
        contents.objects.insert(name, Arc::new(Stored { bytes, version }));
        Ok(Publication::Published)
    }

    async fn abort(self: Box<Self>) -> Result<()> {
        Ok(())
    }
}
