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
pub struct ByteRange {
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

/// Gives the ranges of a [streamed write](Upload::write_from) their bytes.
pub trait WriteSource: Send + Sync {
    /// Fills the buffer, whose length is that of range `index`; `false` gives the write up.
    ///
    /// Called once for a range, in order, one at a time, after the range before was written. A call that panics fails the write.
    fn fill(&self, index: usize, buffer: &mut HostBuf) -> bool;
}

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

    /// Whether a buffer waits to be filled.
    pub fn has_buffer(&self) -> bool {
        !self.buffers.is_empty()
    }

    /// The buffer that was used last, with the length of `range`.
    ///
    /// # Errors
    /// `Invalid` if the sink has kept all buffers, or if the range is longer than a buffer.
    pub fn buffer(&mut self, store: &impl fmt::Display, range: ByteRange) -> Result<HostBuf> {
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
    ranges: Vec<ByteRange>,
    buffers: Vec<HostBuf>,
    sink: Arc<dyn ReadSink>,
) -> Result<Option<ObjectMeta>> {
    let mut stream = Stream::new(buffers, &*sink);
    let mut seen: Option<ObjectMeta> = None;
    let mut first = 0;
    loop {
        let mut parts = Vec::new();
        for range in &ranges[first..] {
            if !stream.has_buffer() && !parts.is_empty() {
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

/// A streamed write made of plain ones: what [`Upload::write_from`] does unless a store knows better.
///
/// # Errors
/// As [`Upload::write`]; `Invalid` if the source gives up or changes the buffer's length.
///
/// # Cancel safety
/// As [`Upload::write`].
pub async fn write_in_turns<U: Upload + ?Sized>(
    upload: &U,
    ranges: Vec<ByteRange>,
    mut buffer: HostBuf,
    source: Arc<dyn WriteSource>,
) -> (HostBuf, Result<()>) {
    for (index, range) in ranges.into_iter().enumerate() {
        if let Err(error) = fill(&*source, index, range, &mut buffer) {
            return (buffer, Err(error));
        }
        let (back, result) = upload.write(range.offset, buffer).await;
        buffer = back;
        if result.is_err() {
            return (buffer, result);
        }
    }
    (buffer, Ok(()))
}

/// Lets the source fill a buffer for a range.
///
/// # Errors
/// `Invalid` if the range is longer than the buffer, or if the source gives up or changes the buffer's length.
pub(crate) fn fill(
    source: &dyn WriteSource,
    index: usize,
    range: ByteRange,
    buffer: &mut HostBuf,
) -> Result<()> {
    let invalid = |message| Error::new(ErrorKind::Invalid, "upload", message);
    buffer.set_len(range.len).map_err(|error| invalid(error.to_string()))?;
    if !source.fill(index, buffer) || buffer.len() != range.len {
        let ByteRange { offset, len } = range;
        return Err(invalid(format!(
            "the source of {len} bytes at {offset} gave up, or changed their length: abort the upload"
        )));
    }
    Ok(())
}
