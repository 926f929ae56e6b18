//! An object's way in: temporary file, parts, flush, link.

use std::sync::Arc;

use async_trait::async_trait;
use kv_format::ObjectName;
use kv_memory::HostBuf;

use super::crash;
use super::temporary::{Temporary, write_all};
use super::tree::Tree;
use crate::parts::Coverage;
use crate::parts::Workers;
use crate::streaming::fill;
use crate::{ByteRange, Publication, Result, Upload, WriteSource};

/// The source of a buffer that is filled already.
struct Filled;

impl WriteSource for Filled {
    fn fill(&self, _: usize, _: &mut HostBuf) -> bool {
        true
    }
}

/// An upload to a posix store.
#[derive(Debug)]
pub(super) struct PosixUpload {
    tree: Arc<Tree>,
    workers: Arc<Workers>,
    path: String,
    coverage: Coverage,
    temporary: Temporary,
}

impl PosixUpload {
    /// Creates the temporary file and reserves its length; blocks.
    pub(super) fn begin(
        tree: &Arc<Tree>,
        workers: &Arc<Workers>,
        name: &ObjectName,
        len: u64,
    ) -> Result<Self> {
        let path = name.to_string();
        let mut temporary = Temporary::create(tree, workers, &path)?;
        tree.reach(crash::OBJECT_TEMP_CREATED);
        if let Err(error) = temporary.reserve(len) {
            // What the failed reservation took is free again when the caller learns of it.
            let _ = temporary.remove();
            return Err(error);
        }
        tree.reach(crash::OBJECT_RESERVED);
        Ok(Self {
            tree: Arc::clone(tree),
            workers: Arc::clone(workers),
            coverage: Coverage::new(tree.to_string(), path.clone(), len),
            path,
            temporary,
        })
    }
}

/// Makes a complete temporary file visible; blocks.
fn publish(tree: &Tree, temporary: &mut Temporary) -> Result<Publication> {
    temporary.sync()?;
    tree.reach(crash::OBJECT_SYNCED);
    let publication = temporary.link()?;
    if publication == Publication::Published {
        tree.reach(crash::OBJECT_LINKED);
    }
    // The object is visible whether or not its second name goes: a sweep removes what is left.
    let _ = temporary.remove();
    if publication == Publication::Published {
        tree.reach(crash::OBJECT_TEMP_REMOVED);
        temporary.sync_directory()?;
    }
    Ok(publication)
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl Upload for PosixUpload {
    async fn write(&self, offset: u64, part: HostBuf) -> (HostBuf, Result<()>) {
        let ranges = vec![ByteRange { offset, len: part.len() }];
        self.write_from(ranges, part, Arc::new(Filled)).await
    }

    async fn write_from(
        &self,
        ranges: Vec<ByteRange>,
        buffer: HostBuf,
        source: Arc<dyn WriteSource>,
    ) -> (HostBuf, Result<()>) {
        let writing = ranges.iter().map(|range| self.coverage.writing(range.offset, range.len));
        let writing = match writing.collect::<Result<Vec<_>>>() {
            Ok(writing) => writing,
            Err(error) => return (buffer, Err(error)),
        };
        let (tree, file, path) = (Arc::clone(&self.tree), self.temporary.file(), self.path.clone());
        let work = move |buffer: &mut HostBuf| {
            for (index, range) in ranges.into_iter().enumerate() {
                fill(&*source, index, range, buffer)?;
                write_all(&file, buffer, range.offset)
                    .map_err(|errno| tree.error(&format!("write {} bytes to", range.len), &path, errno))?;
                tree.reach(crash::OBJECT_WRITTEN);
            }
            Ok(())
        };
        let (buffer, result) = self.workers.run(buffer, work).await;
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
        let Self { tree, workers, temporary, .. } = *self;
        let (_, answer) = workers.run(temporary, move |temporary| publish(&tree, temporary)).await;
        answer
    }

    async fn abort(self: Box<Self>) -> Result<()> {
        let Self { workers, temporary, .. } = *self;
        workers.run(temporary, Temporary::remove).await.1
    }
}
