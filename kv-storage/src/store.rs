//! The contract between this project and a store.

use std::fmt::{Debug, Display};
use std::sync::Arc;

use async_trait::async_trait;
use kv_format::{NamespaceDigest, ObjectName, RecordName};
use kv_memory::HostBuf;

use crate::Result;
use crate::streaming::{ByteRange, ReadSink, WriteSource, read_in_turns, write_in_turns};

/// Most bytes of a record's body.
pub const MAX_RECORD_BYTES: usize = 64 << 10;

/// A place where KV objects and small records rest, shared by processes and hosts.
///
/// # Contract
///
/// * **Objects are immutable and appear whole.** An upload is invisible until [`Upload::commit`], which publishes only if the name
///   is free. Readers see all of an object or nothing, whatever dies when.
/// * **Buffers are owned by the operation.** They go in by value and come back with the result. If the caller drops the future,
///   the operation keeps its buffers until the backend has let go of them, and only then gives their memory back. If the store has
///   a deadline of its own ([`HealthGate`](crate::HealthGate)), the same holds for a call that it leaves there.
/// * **Calls never block an executor thread.** Blocking I/O has threads of its own; a lock that is held for a few steps is fine.
/// * **A missing object is not an error**: `None`. An answer that may be wrong is an error, never `None`.
/// * An operation that goes on after its caller dropped it is counted [`stranded`](StoreHealth::stranded); their number is bounded,
///   and at the bound calls fail at once with [`Unavailable`](crate::ErrorKind::Unavailable) until the backend lets go.
///
/// [`conformance`](crate::conformance) checks all of it; run it for every implementation and for every wrapper.
#[async_trait]
pub trait KvStore: Debug + Display + Send + Sync + 'static {
    /// What this store can do; constant for its life.
    fn capabilities(&self) -> Capabilities;

    /// What is going on now; never blocks.
    fn health(&self) -> StoreHealth;

    /// Waits until nothing that was started through this handle goes on: no call, no stranded one, no clean-up of an upload that was
    /// dropped. A process that is to leave nothing behind calls it, with a deadline of its own, before it ends.
    ///
    /// # Cancel safety
    /// Cancel safe.
    async fn idle(&self);

    /// Starts an upload of exactly `len` bytes under `name`. Nothing is visible until the commit.
    ///
    /// # Errors
    /// `PermissionDenied`, `NoSpace`, `Unavailable`, `Backend`.
    ///
    /// # Cancel safety
    /// Cancel safe: a dropped call leaves nothing visible.
    async fn begin(&self, name: &ObjectName, len: u64) -> Result<Box<dyn Upload>>;

    /// Fills every part of `parts` from the object: each buffer's whole length, from its offset in the object.
    /// All parts are read from one version of the object.
    ///
    /// The buffers come back in the same order with the result. `Ok(None)`: no such object. After an error their contents are
    /// unspecified.
    ///
    /// # Errors
    /// `OutOfRange` if a part ends behind the object's end; `PermissionDenied`, `Unavailable`, `Backend`.
    ///
    /// # Cancel safety
    /// Cancel safe: a dropped call's buffers are given back when the backend has let go of them.
    async fn read(&self, name: &ObjectName, parts: Vec<ReadPart>) -> ReadOutcome;

    /// Whether [`read_into`](Self::read_into) and [`Upload::write_from`] call back on threads of this store that may block. Where
    /// they do not, they call back on the executor's thread: keep what is done there short.
    fn calls_back_on_own_threads(&self) -> bool {
        false
    }

    /// Reads `ranges` of one version of the object, each into one of `buffers`, and hands each to `sink` as soon as it is filled.
    /// The sink gives buffers back to be filled again, so that a few serve many ranges and stay in the cache.
    ///
    /// `Ok(None)`: no such object, and the sink was not called. After an error, or if the sink stopped, some ranges may have been
    /// handed over, and those that were are right.
    ///
    /// # Errors
    /// As [`read`](Self::read); `Invalid` if the sink keeps more buffers than there are ranges left; `Unavailable` if the object was
    /// replaced meanwhile.
    ///
    /// # Cancel safety
    /// As [`read`](Self::read); the sink may be called after the call was dropped, until [`idle`](Self::idle) has returned.
    async fn read_into(
        &self,
        name: &ObjectName,
        ranges: Vec<ByteRange>,
        buffers: Vec<HostBuf>,
        sink: Arc<dyn ReadSink>,
    ) -> Result<Option<ObjectMeta>> {
        read_in_turns(self, name, ranges, buffers, sink).await
    }

    /// Length and version of an object, or `None`.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    ///
    /// # Cancel safety
    /// Cancel safe.
    async fn head(&self, name: &ObjectName) -> Result<Option<ObjectMeta>>;

    /// At most `limit` objects of a namespace in the order of [`ObjectName`] (not of its text, in which `.10.` stands before `.9.`),
    /// behind `after`. Objects that come or go meanwhile may be
    /// missed: correctness never depends on a listing. An empty answer is the end.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    ///
    /// # Cancel safety
    /// Cancel safe.
    async fn list(
        &self,
        namespace: &NamespaceDigest,
        after: Option<&ObjectName>,
        limit: usize,
    ) -> Result<Vec<ObjectMeta>>;

    /// Removes an object; `false` if there was none.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    ///
    /// # Cancel safety
    /// A dropped call may or may not have removed the object.
    async fn delete(&self, name: &ObjectName) -> Result<bool>;

    /// Takes an object that failed verification out of the way if it still is the `version` that was read, so that the next save
    /// heals it; `false` if it is gone or another.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    ///
    /// # Cancel safety
    /// A dropped call may or may not have moved the object.
    async fn quarantine(&self, name: &ObjectName, version: &Version) -> Result<bool>;

    /// Whether a call about `name` that went wrong is worth making again at once, since the store has another way to its objects and
    /// takes that next. An object is quarantined only when the answer is `false`: what one way of several garbles is not damaged.
    /// Each way is offered once, so that asking until the answer is `false` ends. Never blocks.
    fn another_way(&self, _name: &ObjectName, _setback: Setback) -> bool {
        false
    }

    /// Creates a record of at most [`MAX_RECORD_BYTES`]; `None` if one exists.
    ///
    /// # Errors
    /// `Invalid` if the body is too long; otherwise as [`begin`](Self::begin).
    ///
    /// # Cancel safety
    /// A dropped call may or may not have created the record, whole.
    async fn create_record(&self, name: &RecordName, body: &[u8]) -> Result<Option<Version>>;

    /// Replaces a record that still is the `expected` version; readers see the old body or the new one, whole. `None` if it is
    /// gone or another. Records are replaced by one owner; stores may check `expected` without excluding a racing owner.
    ///
    /// # Errors
    /// As [`create_record`](Self::create_record).
    ///
    /// # Cancel safety
    /// A dropped call may or may not have replaced the record, whole.
    async fn replace_record(
        &self,
        name: &RecordName,
        expected: &Version,
        body: &[u8],
    ) -> Result<Option<Version>>;

    /// A record's body and version, or `None`.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    ///
    /// # Cancel safety
    /// Cancel safe.
    async fn read_record(&self, name: &RecordName) -> Result<Option<Record>>;

    /// Removes a record; `false` if there was none.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    ///
    /// # Cancel safety
    /// A dropped call may or may not have removed the record.
    async fn delete_record(&self, name: &RecordName) -> Result<bool>;
}

/// An object on its way in. Dropping it aborts: nothing becomes visible, and what was written is removed.
#[async_trait]
pub trait Upload: Debug + Send + Sync {
    /// Writes a buffer's whole length at `offset` and gives the buffer back (an empty one, if a deadline left it with the backend). Parts may be written in any order and concurrently
    /// where the store's [`write_order`](Capabilities::write_order) is [`Any`](WriteOrder::Any).
    ///
    /// # Errors
    /// `Invalid` if the part reaches behind the announced length; otherwise as [`KvStore::begin`].
    ///
    /// # Cancel safety
    /// The upload cannot be committed after a write was dropped; the buffer is given back when the backend has let go of it.
    async fn write(&self, offset: u64, part: HostBuf) -> (HostBuf, Result<()>);

    /// Lets `source` fill the buffer for each of `ranges` and writes it there, as [`write`](Self::write) does; all on one thread if the
    /// store can, so that the buffer stays in one core's cache.
    ///
    /// # Errors
    /// As [`write`](Self::write); `Invalid` if the source gives up, and the upload can then not be committed.
    ///
    /// # Cancel safety
    /// As [`write`](Self::write); the source may be called after the call was dropped, until [`KvStore::idle`] has returned.
    async fn write_from(
        &self,
        ranges: Vec<ByteRange>,
        buffer: HostBuf,
        source: Arc<dyn WriteSource>,
    ) -> (HostBuf, Result<()>) {
        write_in_turns(self, ranges, buffer, source).await
    }

    /// Publishes the object if its name is free, once every byte was written.
    ///
    /// # Errors
    /// `Invalid` if bytes are missing; otherwise as [`KvStore::begin`]. After an error nothing is visible unless the backend
    /// published and lost the answer.
    ///
    /// # Cancel safety
    /// A dropped call may or may not have published the object, whole.
    async fn commit(self: Box<Self>) -> Result<Publication>;

    /// Removes what was written, and waits until it is gone.
    ///
    /// # Errors
    /// As [`KvStore::begin`]; nothing is visible in any case.
    ///
    /// # Cancel safety
    /// Cancel safe: the clean-up goes on.
    async fn abort(self: Box<Self>) -> Result<()>;
}

/// Answer of a commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Publication {
    /// The object is visible under its name.
    Published,
    /// The name was taken; what was uploaded is gone. Compare content digests to learn whether the two are equal.
    AlreadyExists,
}

/// One range of a read: fills the buffer's whole length from `offset` of the object.
#[derive(Debug)]
pub struct ReadPart {
    /// First byte in the object.
    pub offset: u64,
    /// Where the bytes go; its length is the length of the range.
    pub buffer: HostBuf,
}

/// Answer of a read: the buffers in the order of the parts, and whether they hold the object's bytes.
#[derive(Debug)]
#[must_use]
pub struct ReadOutcome {
    /// The buffers that went in; none, if a deadline left them with the backend.
    pub buffers: Vec<HostBuf>,
    /// The object that was read, `None` if there is none.
    pub result: Result<Option<ObjectMeta>>,
}

/// What a store knows of an object without reading it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectMeta {
    /// Its name.
    pub name: ObjectName,
    /// Its length in bytes.
    pub len: u64,
    /// Which object it is, should another take the name.
    pub version: Version,
}

/// An opaque mark that differs between two objects, or two bodies of a record, under one name.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Version(pub String);

/// A record as it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Its bytes.
    pub body: Vec<u8>,
    /// What [`KvStore::replace_record`] takes.
    pub version: Version,
}

/// What went wrong with an object, for [`KvStore::another_way`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Setback {
    /// What was read of it failed verification.
    Corrupt,
    /// An upload of it failed.
    Upload,
}

/// How parts of an upload may be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum WriteOrder {
    /// At any offset, in any order, concurrently.
    Any,
    /// The backend takes an object whole: parts are kept until the commit, and count against the caller's staging.
    Whole,
}

/// What a store can do, and how it likes to be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Capabilities {
    /// How parts may be written.
    pub write_order: WriteOrder,
    /// Good size in bytes for one read or write.
    pub part_bytes: usize,
    /// Alignment in bytes of offsets and buffers at which the store works without extra copies.
    pub alignment: usize,
    /// Good number of operations in flight.
    pub concurrency: usize,
    /// Whether two racing commits of one name can never both answer `Published`.
    pub atomic_create: bool,
}

/// A store's state at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct StoreHealth {
    /// Operations whose callers wait.
    pub in_flight: usize,
    /// Operations whose callers have gone, and which the backend still holds.
    pub stranded: usize,
    /// Whether calls fail at once because the store is marked down.
    pub down: bool,
    /// Why it is marked down, if it is.
    pub reason: Option<DownReason>,
}

/// Why a store is marked down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DownReason {
    /// As many operations are stranded as may be: the backend hangs.
    Stranded,
    /// Calls in a row failed, or had no answer in time.
    Failing,
}
