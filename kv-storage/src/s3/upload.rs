//! An object on its way in: staged whole, sent at the commit in one request that creates or is refused.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use kv_format::ObjectName;
use kv_memory::HostBuf;

use super::core::Core;
use super::publish::{Only, Put};
use super::staging::Staged;
use crate::parts::Coverage;
use crate::streaming::fill;
use crate::{ByteRange, Error, ErrorKind, Publication, Result, Upload, WriteSource};

/// One upload. What it has staged is shared with the lane on which a source fills it.
pub(super) struct S3Upload {
    core: Arc<Core>,
    name: ObjectName,
    len: u64,
    written: Arc<Written>,
}

struct Written {
    coverage: Coverage,
    staged: Mutex<Staged>,
}

type Slot = Arc<Mutex<Option<HostBuf>>>;

/// A buffer out of a slot, put back when this is dropped: also by a panic, and when the task is ended.
struct Taken {
    buffer: Option<HostBuf>,
    slot: Slot,
}

impl From<Slot> for Taken {
    fn from(slot: Slot) -> Self {
        let buffer = slot.lock().unwrap_or_else(PoisonError::into_inner).take();
        Self { buffer, slot }
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        *self.slot.lock().unwrap_or_else(PoisonError::into_inner) = self.buffer.take();
    }
}

impl fmt::Debug for S3Upload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("S3Upload")
            .field("store", &self.core.label)
            .field("name", &self.name)
            .field("len", &self.len)
            .finish_non_exhaustive()
    }
}

impl Written {
    fn staged(&self) -> MutexGuard<'_, Staged> {
        // A panic while bytes are copied leaves bytes that are not covered.
        self.staged.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self, store: &str, offset: u64, bytes: &[u8]) -> Result<()> {
        let writing = self.coverage.writing(offset, bytes.len())?;
        if self.staged().write(offset, bytes) {
            writing.done();
            return Ok(());
        }
        writing.failed();
        let message = "parts were written concurrently: this store takes them one after the other (write_order is Whole)";
        Err(Error::new(ErrorKind::Invalid, store, message))
    }

    /// Lets the source fill a part in its place where one is free, and through `buffer` where not.
    fn fill(
        &self,
        store: &str,
        source: &dyn WriteSource,
        index: usize,
        range: ByteRange,
        buffer: &mut HostBuf,
    ) -> Result<()> {
        let writing = self.coverage.writing(range.offset, range.len)?;
        let lent = self.staged().lend(range.offset, range.len);
        let Some(mut lent) = lent else {
            writing.failed();
            fill(source, index, range, buffer)?;
            return self.write(store, range.offset, buffer);
        };
        let filled = fill(source, index, range, &mut lent.buffer);
        self.staged().take_back(lent, filled.is_ok().then_some(range.offset));
        match &filled {
            Ok(()) => writing.done(),
            Err(_) => writing.failed(),
        }
        filled
    }
}

impl S3Upload {
    /// Reserves staging for the whole object.
    pub(super) async fn begin(core: Arc<Core>, name: ObjectName, len: u64) -> Result<Self> {
        let buffers = core.staging.reserve(&core.label, len).await?;
        let coverage = Coverage::new(core.label.clone(), name.to_string(), len);
        let written = Written { coverage, staged: Mutex::new(Staged::new(buffers)) };
        Ok(Self { core, name, len, written: Arc::new(written) })
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl Upload for S3Upload {
    async fn write(&self, offset: u64, part: HostBuf) -> (HostBuf, Result<()>) {
        let result = self.written.write(&self.core.label, offset, &part);
        (part, result)
    }

    async fn write_from(
        &self,
        ranges: Vec<ByteRange>,
        buffer: HostBuf,
        source: Arc<dyn WriteSource>,
    ) -> (HostBuf, Result<()>) {
        // Dropped, this future leaves a write without an answer, and the upload cannot be committed.
        let answered = match self.written.coverage.writing(0, 0) {
            Ok(answered) => answered,
            Err(error) => return (buffer, Err(error)),
        };
        // The buffer waits outside the task: it comes back whatever becomes of that.
        let slot: Slot = Arc::new(Mutex::new(Some(buffer)));
        let (written, shared) = (Arc::clone(&self.written), Arc::clone(&slot));
        let filled = self.core.run(move |core, _| async move {
            let mut taken = Taken::from(shared);
            for (index, range) in ranges.into_iter().enumerate() {
                if let Some(buffer) = &mut taken.buffer {
                    written.fill(&core.label, &*source, index, range, buffer)?;
                }
                tokio::task::yield_now().await; // the lane has bodies to move, too
            }
            Ok(())
        });
        let result = filled.await;
        answered.failed(); // it had no bytes of its own: the ranges have answered for themselves
        match slot.lock().unwrap_or_else(PoisonError::into_inner).take() {
            Some(buffer) => (buffer, result),
            None => unreachable!("the task puts the buffer back when it ends in any way"),
        }
    }

    async fn commit(self: Box<Self>) -> Result<Publication> {
        self.written.coverage.complete()?;
        let Self { core, name, len, written } = *self;
        let staged = std::mem::replace(&mut *written.staged(), Staged::new(Vec::new()));
        let payload = staged.into_payload(core.admission.background(), core.credentials.is_none());
        if payload.content_length() as u64 != len {
            let message =
                format!("{name} was written concurrently: {} bytes for {len}", payload.content_length());
            return Err(Error::new(ErrorKind::Invalid, &core.label, message));
        }
        core.run(move |core, lane| async move {
            let path = core.path(&name.to_string());
            let asked = || format!("publish {name} ({len} bytes)");
            let only = if core.conditions().create {
                Only::IfFree
            } else {
                // The server would replace: whoever was first is left alone as well as it can be.
                match core.head(&lane, &path).await {
                    Ok(Some(_)) => return Ok(Publication::AlreadyExists),
                    Ok(None) => Only::Always,
                    Err(failure) => return Err(core.error(failure, &asked())),
                }
            };
            match core.put(&lane, &path, payload, only).await {
                Ok(Put::Stored(_)) => Ok(Publication::Published),
                Ok(Put::Refused) => Ok(Publication::AlreadyExists),
                Err(failure) => Err(core.error(failure, &asked())),
            }
        })
        .await
    }

    async fn abort(self: Box<Self>) -> Result<()> {
        Ok(()) // nothing was sent
    }
}
