//! The two ways to take ranges: each into a buffer of its own, and through a few buffers into a sink.

use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use kv_memory::HostBuf;
use tokio::sync::{Mutex as AsyncMutex, Notify, watch};

use super::read::Target;
use crate::{ByteRange, Error, ErrorKind, Next, ObjectMeta, ReadPart, ReadSink, Result};

/// Each range into the buffer that its reader gave for it. The reader keeps a handle, and so has the buffers back whatever happens.
#[derive(Debug)]
pub(super) struct Slots {
    buffers: Vec<Mutex<Option<HostBuf>>>,
}

impl Slots {
    /// The buffers of `parts`, and the ranges that they stand for.
    pub(super) fn new(parts: Vec<ReadPart>) -> (Arc<Self>, Vec<ByteRange>) {
        let ranges =
            parts.iter().map(|part| ByteRange { offset: part.offset, len: part.buffer.len() }).collect();
        let buffers = parts.into_iter().map(|part| Mutex::new(Some(part.buffer))).collect();
        (Arc::new(Self { buffers }), ranges)
    }

    /// All buffers in their order.
    pub(super) fn take_all(&self) -> Vec<HostBuf> {
        (0..self.buffers.len()).filter_map(|index| self.slot(index).take()).collect()
    }

    fn slot(&self, index: usize) -> std::sync::MutexGuard<'_, Option<HostBuf>> {
        self.buffers[index].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Target for Slots {
    async fn buffer(&self, index: usize, _: usize) -> Result<HostBuf> {
        self.slot(index).take().ok_or_else(|| {
            Error::new(ErrorKind::Backend, "s3", "a buffer was taken twice: this is a defect of the store")
        })
    }

    fn give_back(&self, index: usize, buffer: HostBuf) {
        *self.slot(index) = Some(buffer);
    }

    async fn filled(&self, _: &ObjectMeta, index: usize, buffer: HostBuf) -> bool {
        self.give_back(index, buffer);
        true
    }
}

/// Ranges through a few buffers into a sink, which is called by one lane at a time and not again after it stopped.
pub(super) struct Sink {
    store: String,
    sink: Arc<dyn ReadSink>,
    buffers: Mutex<Buffers>,
    returned: Notify,
    /// The first range comes first: the others get no buffer before.
    first: watch::Sender<bool>,
    /// Whether the sink has stopped; held while it is called.
    stopped: AsyncMutex<bool>,
}

#[derive(Debug)]
struct Buffers {
    free: Vec<HostBuf>,
    lent: usize,
}

impl Sink {
    pub(super) fn new(store: &str, buffers: Vec<HostBuf>, sink: Arc<dyn ReadSink>) -> Arc<Self> {
        Arc::new(Self {
            store: store.to_owned(),
            sink,
            buffers: Mutex::new(Buffers { free: buffers, lent: 0 }),
            returned: Notify::new(),
            first: watch::Sender::new(false),
            stopped: AsyncMutex::new(false),
        })
    }

    fn buffers(&self) -> std::sync::MutexGuard<'_, Buffers> {
        self.buffers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A lent buffer is back, or gone for good; one waiter is told, and then the next as long as there are free ones.
    fn settle(&self, buffer: Option<HostBuf>) {
        let mut buffers = self.buffers();
        buffers.lent -= 1;
        buffers.free.extend(buffer);
        drop(buffers);
        self.returned.notify_waiters();
    }

    fn invalid(&self, message: String) -> Error {
        Error::new(ErrorKind::Invalid, &self.store, message)
    }
}

#[async_trait]
impl Target for Sink {
    async fn buffer(&self, index: usize, len: usize) -> Result<HostBuf> {
        if index > 0 {
            // The sender lives as long as `self`.
            let _ = self.first.subscribe().wait_for(|first| *first).await;
        }
        loop {
            let returned = self.returned.notified();
            {
                let mut buffers = self.buffers();
                if let Some(mut buffer) = buffers.free.pop() {
                    if let Err(error) = buffer.set_len(len) {
                        return Err(self.invalid(error.to_string()));
                    }
                    buffers.lent += 1;
                    return Ok(buffer);
                }
                if buffers.lent == 0 {
                    let message =
                        "a streamed read has no buffer left: give it more, or let the sink return them";
                    return Err(self.invalid(message.to_owned()));
                }
            }
            returned.await;
        }
    }

    fn give_back(&self, _: usize, buffer: HostBuf) {
        self.settle(Some(buffer));
    }

    async fn filled(&self, meta: &ObjectMeta, index: usize, buffer: HostBuf) -> bool {
        let mut stopped = self.stopped.lock().await;
        if *stopped {
            self.settle(Some(buffer));
            return false;
        }
        let next = self.sink.filled(meta, index, buffer);
        self.first.send_replace(true);
        match next {
            Next::Reuse(buffer) => self.settle(Some(buffer)),
            Next::Kept => self.settle(None),
            Next::Stop => {
                *stopped = true;
                self.settle(None);
            }
        }
        !*stopped
    }
}
