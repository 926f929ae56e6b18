//! An object on its way in: staged whole, sent at the commit in one request that creates or is refused; or, if it is larger than the
//! staging, sent in parts meanwhile ([`windows`](super::windows)).

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use kv_format::ObjectName;
use kv_memory::HostBuf;

use super::core::Core;
use super::publish::{Only, Put};
use super::staging::Staged;
use super::staging_pool::Reserved;
use super::windows::Windows;
use crate::parts::{Background, Coverage, Writing};
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
    bytes: Place,
}

/// Where an upload's bytes wait.
enum Place {
    /// All of them, until the commit.
    Whole(Mutex<Staged>),
    /// Some of them, until they are sent.
    Windows(Arc<Windows>),
}

/// Bytes that the connection still sends; counted, so that the store knows when it holds nothing more.
struct Sent {
    buffer: HostBuf,
    _counted: Arc<Background>,
}

impl AsRef<[u8]> for Sent {
    fn as_ref(&self) -> &[u8] {
        &self.buffer
    }
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

/// The bytes of a whole object. A panic while they are copied leaves bytes that are not covered.
fn locked(staged: &Mutex<Staged>) -> MutexGuard<'_, Staged> {
    staged.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Written {
    async fn write(&self, store: &str, offset: u64, bytes: &[u8]) -> Result<()> {
        let writing = self.coverage.writing(offset, bytes.len())?;
        let written = match &self.bytes {
            Place::Windows(windows) => windows.write(offset, bytes).await,
            Place::Whole(staged) if locked(staged).write(offset, bytes) => Ok(()),
            Place::Whole(_) => {
                let message = "parts were written concurrently: this store takes them one after the other (write_order is Whole)";
                Err(Error::new(ErrorKind::Invalid, store, message))
            }
        };
        settled(writing, written)
    }

    /// Lets the source fill a part in its place where one is free, and through `buffer` where not.
    async fn fill(
        &self,
        store: &str,
        source: &dyn WriteSource,
        index: usize,
        range: ByteRange,
        buffer: &mut HostBuf,
    ) -> Result<()> {
        let staged = match &self.bytes {
            Place::Windows(windows) => {
                let writing = self.coverage.writing(range.offset, range.len)?;
                return settled(writing, windows.fill(source, index, range, buffer).await);
            }
            Place::Whole(staged) => staged,
        };
        let writing = self.coverage.writing(range.offset, range.len)?;
        let lent = locked(staged).lend(range.offset, range.len);
        let Some(mut lent) = lent else {
            writing.failed();
            fill(source, index, range, buffer)?;
            return self.write(store, range.offset, buffer).await;
        };
        let filled = fill(source, index, range, &mut lent.buffer);
        locked(staged).take_back(lent, filled.is_ok().then_some(range.offset));
        settled(writing, filled)
    }
}

/// Notes how a write ended.
fn settled(writing: Writing<'_>, result: Result<()>) -> Result<()> {
    match &result {
        Ok(()) => writing.done(),
        Err(_) => writing.failed(),
    }
    result
}

impl S3Upload {
    /// Reserves staging for the whole object, or for windows of it, in which case the upload begins.
    pub(super) async fn begin(core: Arc<Core>, name: ObjectName, len: u64) -> Result<Self> {
        let bytes = match core.staging.reserve(&core.label, len, core.parts()).await? {
            Reserved::Whole(buffers) => Place::Whole(Mutex::new(Staged::new(buffers))),
            Reserved::Windows { buffers, each, bytes } => {
                Place::Windows(Arc::new(Windows::begin(&core, name, len, buffers, each, bytes).await?))
            }
        };
        let coverage = Coverage::new(core.label.clone(), name.to_string(), len);
        Ok(Self { core, name, len, written: Arc::new(Written { coverage, bytes }) })
    }

    /// Sends a staged object by one request.
    async fn commit_whole(
        core: Arc<Core>,
        name: ObjectName,
        len: u64,
        staged: Staged,
    ) -> Result<Publication> {
        let counted = Arc::new(core.admission.background());
        let may_be_kept = core.keeps_bytes;
        let payload = staged.into_payload(|buffer, used| {
            if may_be_kept {
                return Bytes::copy_from_slice(&buffer[..used]);
            }
            Bytes::from_owner(Sent { buffer, _counted: Arc::clone(&counted) })
        });
        drop(counted);
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
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl Upload for S3Upload {
    async fn write(&self, offset: u64, part: HostBuf) -> (HostBuf, Result<()>) {
        let result = self.written.write(&self.core.label, offset, &part).await;
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
                    written.fill(&core.label, &*source, index, range, buffer).await?;
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
        let windows = match &written.bytes {
            Place::Windows(windows) => windows,
            Place::Whole(staged) => {
                let staged = std::mem::replace(&mut *locked(staged), Staged::new(Vec::new()));
                return Self::commit_whole(core, name, len, staged).await;
            }
        };
        match windows.complete().await? {
            Put::Stored(_) => Ok(Publication::Published),
            Put::Refused => {
                if let Some(ended) = windows.end() {
                    let _ = ended.await; // what it leaves is invisible, and swept
                }
                Ok(Publication::AlreadyExists)
            }
        }
    }

    async fn abort(self: Box<Self>) -> Result<()> {
        let Place::Windows(windows) = &self.written.bytes else { return Ok(()) }; // nothing was sent
        match windows.end() {
            None => Ok(()),
            Some(ended) => ended.await.unwrap_or_else(|error| {
                Err(Error::new(ErrorKind::Backend, &self.core.label, format!("the clean-up ended: {error}")))
            }),
        }
    }
}
