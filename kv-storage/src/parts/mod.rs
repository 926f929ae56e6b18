//! What a [`KvStore`](crate::KvStore) is built from, so that every implementation keeps the same promises: threads for blocking calls
//! that own their buffers, the count of calls in flight and stranded, the bytes that an upload has, and the errors that all share.

mod admission;
mod coverage;
mod workers;

use std::fmt::Display;

use kv_format::{ObjectName, RecordName};

pub use admission::{Admission, Background, Caller, DEFAULT_STRANDED_BOUND, Ticket};
pub use coverage::{Coverage, Writing};
pub use workers::Workers;

pub use crate::passage::{Answer, Deadline, Entry, Passage, Rule};
pub use crate::streaming::{Stream, read_in_turns, write_in_turns};
use crate::{Error, ErrorKind, MAX_RECORD_BYTES, Result};

/// Part of a read that threads make: with what is done to it, it stays in a core's cache of a MiB or more.
pub(crate) const CACHED_PART: usize = 512 << 10;

/// How many threads a store has whose work is copying: one for each core, up to `most`. More would take turns on a core and push each
/// other's bytes out of its cache.
pub(crate) fn one_thread_per_core(most: usize) -> usize {
    std::thread::available_parallelism().map_or(1, usize::from).min(most)
}

/// Refuses a record body that is too long; every store calls it first.
///
/// # Errors
/// `Invalid` above [`MAX_RECORD_BYTES`].
pub fn record_fits(store: &dyn Display, name: &RecordName, body: &[u8]) -> Result<()> {
    if body.len() <= MAX_RECORD_BYTES {
        return Ok(());
    }
    let message = format!(
        "a body of {} bytes for the record {name}: expected at most {MAX_RECORD_BYTES}; put bulk into objects",
        body.len()
    );
    Err(Error::new(ErrorKind::Invalid, store, message))
}

/// The error of a part of `(offset, length)` that does not lie within an object of `len` bytes.
pub fn out_of_range(
    store: &dyn Display,
    name: &ObjectName,
    (offset, bytes): (u64, usize),
    len: u64,
) -> Error {
    let message =
        format!("{bytes} bytes at offset {offset} of {name}: expected a range within its {len} bytes");
    Error::new(ErrorKind::OutOfRange, store, message)
}
