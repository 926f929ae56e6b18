//! An object's way in: temporary file, parts, flush, link.

use std::sync::Arc;

use async_trait::async_trait;
use kv_format::ObjectName;
use kv_memory::HostBuf;

use super::crash;
use super::io::{Calls, DataFile, Direction, Engine, Flight, Moved, Transfer};
use super::temporary::Temporary;
use super::tree::Tree;
use crate::parts::{Coverage, Workers};
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
    mover: Mover,
    path: String,
    coverage: Coverage,
    /// The temporary file, as the engine writes it.
    data: Arc<DataFile>,
    temporary: Temporary,
}

/// A store's engine and the callers that wait for it without a thread.
#[derive(Debug, Clone)]
pub(super) struct Mover {
    pub(super) engine: Arc<dyn Engine>,
    pub(super) calls: Arc<Calls>,
}

impl PosixUpload {
    /// Creates the temporary file and reserves its length; blocks.
    pub(super) fn begin(
        tree: &Arc<Tree>,
        workers: &Arc<Workers>,
        mover: Mover,
        name: &ObjectName,
        len: u64,
    ) -> Result<Self> {
        let path = name.to_string();
        let mut temporary = Temporary::create(tree, workers, &path)?;
        tree.reach(crash::OBJECT_TEMP_CREATED);
        let ready = temporary.reserve(len).and_then(|()| {
            let opened = mover.engine.open(temporary.file(), Direction::Write);
            opened.map_err(|errno| tree.error("open for writing", &path, errno))
        });
        let data = match ready {
            Ok(data) => Arc::new(data),
            Err(error) => {
                // What the failed reservation took is free again when the caller learns of it.
                let _ = temporary.remove();
                return Err(error);
            }
        };
        tree.reach(crash::OBJECT_RESERVED);
        Ok(Self {
            tree: Arc::clone(tree),
            workers: Arc::clone(workers),
            mover,
            coverage: Coverage::new(tree.to_string(), path.clone(), len),
            path,
            data,
            temporary,
        })
    }
}

/// What has come of a write of `len` bytes.
fn written(tree: &Tree, path: &str, len: usize, moved: Moved) -> Result<()> {
    moved.map_err(|errno| tree.error(&format!("write {len} bytes to"), path, errno))?;
    tree.reach(crash::OBJECT_WRITTEN);
    Ok(())
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
        let Mover { engine, calls } = &self.mover;
        let len = part.len();
        if engine.depth() == 1 {
            return self.write_from(vec![ByteRange { offset, len }], part, Arc::new(Filled)).await;
        }
        let writing = match self.coverage.writing(offset, len) {
            Ok(writing) => writing,
            Err(error) => return (part, Err(error)),
        };
        let file = Arc::clone(&self.data);
        let transfer = Transfer { file, direction: Direction::Write, offset, buffer: part };
        let (part, moved) = calls.run(&**engine, transfer).await;
        let result = moved.and_then(|moved| written(&self.tree, &self.path, len, moved));
        match result {
            Ok(()) => writing.done(),
            Err(_) => writing.failed(),
        }
        (part, result)
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
        let (tree, data, path) = (Arc::clone(&self.tree), Arc::clone(&self.data), self.path.clone());
        let engine = Arc::clone(&self.mover.engine);
        let work = move |held: &mut Option<HostBuf>| {
            let mut flight = Flight::new(&*engine, &data, Direction::Write);
            for (index, range) in ranges.into_iter().enumerate() {
                if let Some(buffer) = held {
                    fill(&*source, index, range, buffer)?;
                }
                if let Some(buffer) = held.take() {
                    flight.start(index, range.offset, buffer);
                }
                if let Some((_, buffer, moved)) = flight.next() {
                    *held = Some(buffer);
                    written(&tree, &path, range.len, moved)?;
                }
            }
            Ok(())
        };
        let (held, result) = self.workers.run(Some(buffer), work).await;
        for writing in writing {
            match result {
                Ok(()) => writing.done(),
                Err(_) => writing.failed(),
            }
        }
        match held {
            Some(buffer) => (buffer, result),
            None => unreachable!("an engine gives every buffer back"),
        }
    }

    async fn commit(self: Box<Self>) -> Result<Publication> {
        self.coverage.complete()?;
        let Self { tree, workers, temporary, data, .. } = *self;
        // Closed on the thread, too: to close a file on a network file system may wait for its server.
        let work = move |held: &mut Option<(Arc<DataFile>, Temporary)>| match held.take() {
            Some((data, mut temporary)) => {
                drop(data);
                publish(&tree, &mut temporary)
            }
            None => unreachable!("a job runs once"),
        };
        workers.run(Some((data, temporary)), work).await.1
    }

    async fn abort(self: Box<Self>) -> Result<()> {
        let Self { workers, temporary, data, .. } = *self;
        // Closed on the thread, as by a commit.
        let work = move |held: &mut Option<(Arc<DataFile>, Temporary)>| match held.take() {
            Some((data, mut temporary)) => {
                drop(data);
                temporary.remove()
            }
            None => unreachable!("a job runs once"),
        };
        workers.run(Some((data, temporary)), work).await.1
    }
}
