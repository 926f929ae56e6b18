//! An object on its way in that is larger than the staging: a few windows of it fill at a time, are sent as parts of the upload, and
//! leave their memory to the next.
//!
//! The windows of one upload are all the memory that it has, so an object is written from front to back; one window may stay open
//! meanwhile, since the header is written last.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use bytes::Bytes;
use kv_format::ObjectName;
use kv_memory::HostBuf;
use object_store::multipart::PartId;
use tokio::sync::Notify;
use tokio::task::{JoinHandle, JoinSet};

use super::core::Core;
use super::failure::Failure;
use super::in_parts::Begun;
use super::publish::Put;
use super::staging::{Lent, Staged};
use crate::parts::{Background, Coverage};
use crate::streaming::fill;
use crate::{ByteRange, Error, ErrorKind, Result, WriteSource};

/// An upload in parts. Dropped, it is aborted.
pub(super) struct Windows {
    core: Arc<Core>,
    name: ObjectName,
    len: u64,
    /// Bytes and buffers of one window.
    bytes: u64,
    buffers: usize,
    /// Windows that there is memory for.
    most: usize,
    memory: Arc<Memory>,
    upload: Begun,
    state: Mutex<State>,
}

/// The buffers of an upload that are in no window.
#[derive(Debug)]
struct Memory {
    free: Mutex<Vec<HostBuf>>,
    returned: Notify,
}

#[derive(Default)]
struct State {
    open: BTreeMap<u64, Window>,
    /// Windows that are full; the number of one that was sent tells its part's.
    sending: JoinSet<(u64, Result<PartId, Failure>)>,
    sent: BTreeMap<u64, Option<PartId>>,
    /// Why the upload cannot be completed.
    failed: bool,
    /// Completed or aborted: nothing is left to clean up.
    ended: bool,
}

/// A part of the object that fills.
struct Window {
    staged: Staged,
    coverage: Coverage,
}

/// Bytes of a part that a connection may still send; their memory is the upload's again when the connection lets go of them, and the
/// pool's if the upload is gone by then. Counted, so that the store knows when it holds nothing more.
struct Sending {
    buffer: Option<HostBuf>,
    memory: Weak<Memory>,
    _counted: Arc<Background>,
}

impl AsRef<[u8]> for Sending {
    fn as_ref(&self) -> &[u8] {
        self.buffer.as_deref().unwrap_or_default()
    }
}

impl Drop for Sending {
    fn drop(&mut self) {
        if let Some(memory) = self.memory.upgrade() {
            memory.free().extend(self.buffer.take());
            memory.returned.notify_waiters();
        }
    }
}

impl Memory {
    fn free(&self) -> MutexGuard<'_, Vec<HostBuf>> {
        // Every critical section is one extension or one split.
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self, count: usize) -> Option<Vec<HostBuf>> {
        let mut free = self.free();
        let left = free.len().checked_sub(count)?;
        Some(free.split_off(left))
    }
}

/// A lent part of a window, given back by its drop: also if the source panics.
struct Lending<'a> {
    windows: &'a Windows,
    window: u64,
    lent: Option<Lent>,
}

impl Drop for Lending<'_> {
    fn drop(&mut self) {
        if let Some(lent) = self.lent.take()
            && let Some(window) = self.windows.state().open.get_mut(&self.window)
        {
            window.staged.take_back(lent, None);
        }
    }
}

impl fmt::Debug for Windows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Windows").field("upload", &self.upload).finish_non_exhaustive()
    }
}

impl Windows {
    /// Begins the upload, with `each` of `buffers` for each window.
    ///
    /// # Cancel safety
    /// Dropped, it may leave an upload to be swept.
    pub(super) async fn begin(
        core: &Arc<Core>,
        name: ObjectName,
        len: u64,
        buffers: Vec<HostBuf>,
        each: usize,
        bytes: usize,
    ) -> Result<Self> {
        let begun = core.run(move |core, lane| async move {
            let begun = core.begin_parts(&lane, core.path(&name.to_string())).await;
            begun.map_err(|failure| core.error(failure, &format!("begin an upload of {name} in parts")))
        });
        let upload = begun.await?;
        let most = buffers.len() / each.max(1);
        let memory = Arc::new(Memory { free: Mutex::new(buffers), returned: Notify::new() });
        let (core, state) = (Arc::clone(core), Mutex::default());
        Ok(Self { core, name, len, bytes: bytes as u64, buffers: each, most, memory, upload, state })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A panic while bytes are copied leaves bytes that are not covered.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn invalid(&self, message: impl Into<String>) -> Error {
        Error::new(ErrorKind::Invalid, &self.core.label, message)
    }

    fn len_of(&self, window: u64) -> u64 {
        self.bytes.min(self.len - window * self.bytes)
    }

    /// Copies bytes into the windows that they belong to, and sends those that are full.
    pub(super) async fn write(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        let mut done = 0;
        while done < bytes.len() {
            let at = offset + done as u64;
            let (number, inside) = (at / self.bytes, at % self.bytes);
            let room = usize::try_from(self.len_of(number) - inside).unwrap_or(usize::MAX);
            let piece = &bytes[done..][..room.min(bytes.len() - done)];
            self.open(number).await?;
            let mut state = self.state();
            let Some(window) = state.open.get_mut(&number) else { return Err(self.concurrent()) };
            let writing = window.coverage.writing(inside, piece.len())?;
            if !window.staged.write(inside, piece) {
                writing.failed();
                return Err(self.concurrent());
            }
            writing.done();
            self.send_if_full(&mut state, number);
            done += piece.len();
        }
        Ok(())
    }

    /// Lets the source fill a range in its place where one is free, and through `buffer` where not.
    pub(super) async fn fill(
        &self,
        source: &dyn WriteSource,
        index: usize,
        range: ByteRange,
        buffer: &mut HostBuf,
    ) -> Result<()> {
        let (number, inside) = (range.offset / self.bytes, range.offset % self.bytes);
        let within = range.len > 0 && inside + range.len as u64 <= self.len_of(number);
        let lent = if within {
            self.open(number).await?;
            self.state().open.get_mut(&number).and_then(|window| window.staged.lend(inside, range.len))
        } else {
            None
        };
        let mut lending = Lending { windows: self, window: number, lent };
        let Some(lent) = &mut lending.lent else {
            fill(source, index, range, buffer)?;
            return self.write(range.offset, buffer).await;
        };
        fill(source, index, range, &mut lent.buffer)?;
        let mut state = self.state();
        if let Some(lent) = lending.lent.take()
            && let Some(window) = state.open.get_mut(&number)
        {
            window.staged.take_back(lent, Some(inside));
            window.coverage.writing(inside, range.len)?.done();
            self.send_if_full(&mut state, number);
        }
        Ok(())
    }

    fn concurrent(&self) -> Error {
        self.invalid("parts were written concurrently: this store takes them one after the other (write_order is Whole)")
    }

    /// Waits until there is memory for a window, unless it is open.
    async fn open(&self, number: u64) -> Result<()> {
        loop {
            let returned = self.memory.returned.notified();
            {
                let mut state = self.state();
                self.collect(&mut state)?;
                if state.open.contains_key(&number) {
                    return Ok(());
                }
                if state.sent.contains_key(&number) {
                    let Self { name, bytes, .. } = self;
                    return Err(self.invalid(format!(
                        "{name}: the {bytes} bytes from {} on were written and sent already: write each byte once",
                        number * bytes
                    )));
                }
                if let Some(buffers) = self.memory.take(self.buffers) {
                    let (store, name) = (self.core.label.clone(), self.name.to_string());
                    let coverage = Coverage::new(store, name, self.len_of(number));
                    state.open.insert(number, Window { staged: Staged::new(buffers), coverage });
                    return Ok(());
                }
                if state.open.len() >= self.most {
                    return Err(self.invalid(format!(
                        "{}: {} windows of {} bytes are begun and none is full: write an object that is larger than the staging from front to back",
                        self.name, self.most, self.bytes
                    )));
                }
            }
            returned.await;
        }
    }

    /// Notes which parts have arrived.
    fn collect(&self, state: &mut State) -> Result<()> {
        while let Some(joined) = state.sending.try_join_next() {
            self.note(state, joined)?;
        }
        match state.failed {
            false => Ok(()),
            true => Err(self.invalid(format!("a part of {} could not be sent: abort the upload", self.name))),
        }
    }

    fn note(
        &self,
        state: &mut State,
        joined: Result<(u64, Result<PartId, Failure>), tokio::task::JoinError>,
    ) -> Result<()> {
        match joined {
            Ok((number, Ok(part))) => {
                state.sent.insert(number, Some(part));
                Ok(())
            }
            Ok((number, Err(failure))) => {
                state.failed = true;
                Err(self.core.error(failure, &format!("send part {number} of {}", self.name)))
            }
            Err(error) => {
                state.failed = true;
                let message = format!("a part of {} was not sent: {error}", self.name);
                Err(Error::new(ErrorKind::Backend, &self.core.label, message))
            }
        }
    }

    fn send_if_full(&self, state: &mut State, number: u64) {
        if state.open.get(&number).is_none_or(|window| window.coverage.complete().is_err()) {
            return;
        }
        let Some(Window { staged, .. }) = state.open.remove(&number) else { return };
        let counted = Arc::new(self.core.admission.background());
        let payload = staged.into_payload(|buffer, _| {
            let (memory, _counted) = (Arc::downgrade(&self.memory), Arc::clone(&counted));
            Bytes::from_owner(Sending { buffer: Some(buffer), memory, _counted })
        });
        state.sent.insert(number, None);
        let (core, upload) = (Arc::clone(&self.core), self.upload.clone());
        let lane = core.lanes.pick().clone();
        let runtime = lane.runtime.clone();
        let sending = async move {
            let _counted = counted;
            let index = usize::try_from(number).unwrap_or(usize::MAX);
            (number, core.put_part(&lane, &upload, index, payload).await)
        };
        state.sending.spawn_on(sending, &runtime);
    }

    /// Waits for all parts and publishes them, if the name is free. All of the object was written.
    pub(super) async fn complete(self: &Arc<Self>) -> Result<Put> {
        let mut sending = std::mem::take(&mut self.state().sending);
        while let Some(joined) = sending.join_next().await {
            self.note(&mut self.state(), joined)?;
        }
        let parts = {
            let mut state = self.state();
            self.collect(&mut state)?;
            let parts: Option<Vec<PartId>> = std::mem::take(&mut state.sent).into_values().collect();
            parts.filter(|parts| parts.len() as u64 == self.len.div_ceil(self.bytes))
        };
        let Some(parts) = parts else { return Err(self.concurrent()) };
        let this = Arc::clone(self);
        let completed = self.core.run(move |core, lane| async move {
            let completed = core.complete_parts(&lane, &this.upload, parts).await;
            if let Ok(Put::Stored(_)) = completed {
                this.state().ended = true;
            }
            completed.map_err(|failure| core.error(failure, &format!("publish {}", this.name)))
        });
        completed.await
    }

    /// Ends what goes on, and aborts the upload unless it is completed. The clean-up goes on if nobody waits for it.
    pub(super) fn end(&self) -> Option<JoinHandle<Result<()>>> {
        let mut state = self.state();
        if std::mem::replace(&mut state.ended, true) {
            return None;
        }
        let mut sending = std::mem::take(&mut state.sending);
        let (core, upload, name) = (Arc::clone(&self.core), self.upload.clone(), self.name);
        let (lane, counted) = (core.lanes.pick().clone(), core.admission.background());
        let runtime = lane.runtime.clone();
        Some(runtime.spawn(async move {
            let _counted = counted;
            // A part that arrives behind the abort would stay.
            sending.shutdown().await;
            let aborted = core.abort(&lane, &upload).await;
            aborted.map_err(|failure| core.error(failure, &format!("abort the upload of {name}")))
        }))
    }
}

impl Drop for Windows {
    fn drop(&mut self) {
        let _ = self.end();
    }
}
