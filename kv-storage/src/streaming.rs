//! Reads and writes whose bytes are used on the store's own threads, while they are still in the cache of the core that moved them.
//!
//! A part that is read on one thread, checked on a second and copied away on a third crosses the cache of each. A store with I/O
//! threads calls back on them instead: what the sink and the source do there finds the bytes where they just were.

use std::fmt;
use std::sync::Arc;

use kv_format::ObjectName;
use kv_memory::HostBuf;

use crate::{Error, ErrorKind, KvStore, ObjectMeta, ReadPart, Result, Upload};

/// A range of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ReadRange {
    /// First byte in the object.
    pub offset: u64,
    /// Bytes.
    pub len: usize,
}

/// What a sink did with a buffer.
#[derive(Debug)]
#[must_use]
pub enum Next {
    /// Go on; the buffer may be filled again.
    Reuse(HostBuf),
    /// Go on; the sink has kept the buffer.
    Kept,
    /// Read no more.
    Stop,
}

/// Takes the ranges of a [streamed read](KvStore::read_into) as they are filled.
pub trait ReadSink: Send + Sync {
    /// Takes one range, `index` of those that were asked for; `buffer` has its length and its bytes.
    ///
    /// Called once for a range: the first range first, the others in any order and perhaps concurrently. What the buffer holds is
    /// what the reader gets: nothing changes it afterwards. A call that panics fails the read.
    fn filled(&self, meta: &ObjectMeta, index: usize, buffer: HostBuf) -> Next;
}

/// Fills a buffer that is about to be written; `false` gives the write up.
pub type WriteSource = Box<dyn FnOnce(&mut HostBuf) -> bool + Send>;

/// Buffers that wait to be filled, and what becomes of the ranges: one streamed read, for stores that implement it.
pub struct Stream<'a> {
    buffers: Vec<HostBuf>,
    sink: &'a dyn ReadSink,
    stopped: bool,
}

impl<'a> Stream<'a> {
    /// Begins with the buffers that the reader gave.
    pub fn new(buffers: Vec<HostBuf>, sink: &'a dyn ReadSink) -> Self {
        Self { buffers, sink, stopped: false }
    }

    /// Whether the sink wants no more.
    pub fn stopped(&self) -> bool {
        self.stopped
    }

    /// The buffer that was used last, with the length of `range`.
    ///
    /// # Errors
    /// `Invalid` if the sink has kept all buffers, or if the range is longer than a buffer.
    pub fn buffer(&mut self, store: &impl fmt::Display, range: ReadRange) -> Result<HostBuf> {
        let invalid = |message| Error::new(ErrorKind::Invalid, store, message);
        let mut buffer = self.buffers.pop().ok_or_else(|| {
            invalid(
                "a streamed read has no buffer left: give it more, or let the sink return them".to_owned(),
            )
        })?;
        buffer.set_len(range.len).map_err(|error| invalid(error.to_string()))?;
        Ok(buffer)
    }

    /// Takes back a buffer that was not handed over.
    pub fn give_back(&mut self, buffer: HostBuf) {
        self.buffers.push(buffer);
    }

    /// Hands a filled range over.
    pub fn filled(&mut self, meta: &ObjectMeta, index: usize, buffer: HostBuf) {
        match self.sink.filled(meta, index, buffer) {
            Next::Reuse(buffer) => self.buffers.push(buffer),
            Next::Kept => {}
            Next::Stop => self.stopped = true,
        }
    }
}

impl fmt::Debug for Stream<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stream")
            .field("buffers", &self.buffers)
            .field("stopped", &self.stopped)
            .finish_non_exhaustive()
    }
}

/// A streamed read made of plain ones, as many ranges at a time as there are buffers: what [`KvStore::read_into`] does unless a store
/// knows better. Wrappers whose `read` changes what is read must not stream otherwise.
///
/// # Errors
/// As [`KvStore::read`]; `Unavailable` if the object was replaced between two of them.
///
/// # Cancel safety
/// As [`KvStore::read`].
pub async fn read_in_turns<S: KvStore + ?Sized>(
    store: &S,
    name: &ObjectName,
    ranges: Vec<ReadRange>,
    buffers: Vec<HostBuf>,
    sink: Arc<dyn ReadSink>,
) -> Result<Option<ObjectMeta>> {
    let mut stream = Stream::new(buffers, &*sink);
    let mut seen: Option<ObjectMeta> = None;
    let mut first = 0;
    loop {
        let mut parts = Vec::new();
        for range in &ranges[first..] {
            if stream.buffers.is_empty() && !parts.is_empty() {
                break;
            }
            parts.push(ReadPart { offset: range.offset, buffer: stream.buffer(&store, *range)? });
        }
        let asked = parts.len();
        let outcome = store.read(name, parts).await;
        let Some(meta) = outcome.result? else {
            if seen.is_some() {
                let message = format!("{name} was removed while it was read");
                return Err(Error::new(ErrorKind::Unavailable, store, message));
            }
            return Ok(None);
        };
        if seen.get_or_insert_with(|| meta.clone()).version != meta.version {
            let message = format!("{name} was replaced while it was read");
            return Err(Error::new(ErrorKind::Unavailable, store, message));
        }
        if outcome.buffers.len() != asked {
            let message = format!(
                "{} of {asked} buffers came back from a read: run its conformance suite",
                outcome.buffers.len()
            );
            return Err(Error::new(ErrorKind::Backend, store, message));
        }
        for (index, buffer) in (first..).zip(outcome.buffers) {
            if !stream.stopped {
                stream.filled(&meta, index, buffer);
            }
        }
        first += asked;
        if stream.stopped || first >= ranges.len() {
            return Ok(Some(meta));
        }
    }
}

/// A write whose source is called first: what [`Upload::write_from`] does unless a store knows better.
///
/// # Errors
/// As [`Upload::write`]; `Invalid` if the source gives up or changes the buffer's length.
///
/// # Cancel safety
/// As [`Upload::write`].
pub async fn fill_then_write<U: Upload + ?Sized>(
    upload: &U,
    offset: u64,
    mut part: HostBuf,
    source: WriteSource,
) -> (HostBuf, Result<()>) {
    let announced = part.len();
    if !source(&mut part) || part.len() != announced {
        return (part, Err(Error::source_gave_up(offset)));
    }
    upload.write(offset, part).await
}
