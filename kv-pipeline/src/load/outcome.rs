//! What a load delivered, and why it stopped where it did.

use std::fmt;
use std::time::Duration;

use kv_format::ObjectName;

/// Why a chunk could not be delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum StopReason {
    /// An object is not there.
    NotFound,
    /// An object is truncated, over-long, or fails a checksum; it was taken out of the way.
    Corrupt,
    /// An object of another version, model, dtype, slice or token range has the name.
    Incompatible,
    /// The store refused for lack of rights.
    Denied,
    /// The store does not answer or fails.
    Unavailable,
    /// The deadline of the load passed.
    Deadline,
}

/// A chunk that could not be delivered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChunkFailure {
    /// Position of the chunk in its chain.
    pub chunk_index: u32,
    /// The object that was the reason, if it was one object.
    pub object: Option<ObjectName>,
    /// Why.
    pub reason: StopReason,
    /// For people: what was expected and what was found.
    pub message: String,
}

impl fmt::Display for ChunkFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "chunk {}: {:?}: {}", self.chunk_index, self.reason, self.message)
    }
}

/// What a load delivered: the longest verified prefix.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Loaded {
    /// Tokens from the start of the sequence whose KV is in the engine's memory, verified.
    pub tokens: u32,
    /// Tokens that were asked for.
    pub requested: u32,
    /// The chunk that ended the prefix, with its reason; empty if every chunk was delivered. Its blocks hold what they held before,
    /// and so do those of all chunks behind; under [`Delivery::AsVerified`](crate::Delivery::AsVerified), or if the deadline passed while
    /// verified chunks were being delivered, some hold their verified KV.
    pub failures: Vec<ChunkFailure>,
    /// Sections whose checksum was verified.
    pub verified_sections: u64,
    /// Payload bytes delivered.
    pub bytes: u64,
    /// From the call to the last transfer.
    pub elapsed: Duration,
}
