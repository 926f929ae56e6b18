//! One store over several independent ones: each object's bytes lie in all of them, and it appears and goes as one.
//!
//! An object is cut into spans, one for each member. Each span is published first, under a name that no other upload has; then the
//! *index*, a small object under the object's own name in the member that the name chooses, says which spans belong together. The member
//! publishes that by its own create-only commit, so that one small publication decides: before it nothing is visible, after it
//! everything. A deletion takes the index away first. Spans without an index are invisible, and [swept](Striped::sweep).

mod index;
mod pieces;
mod read;
mod store;
mod sweep;
mod together;
mod upload;

use std::fmt;
use std::sync::Arc;

use kv_format::{ObjectName, RecordName};

pub use index::STRIPES_NAMESPACE;
use kv_memory::{HugePages, StagingPool};

use crate::env::Environment;
use crate::{Error, ErrorKind, KvStore, Result};

/// Bytes and number of the buffers for indices and ends of spans.
const PAGE: usize = 4096;
const PAGES: usize = 64;

/// Most members of one store.
pub const MAX_MEMBERS: usize = 64;

/// Independent stores as one, whose objects lie in all of them. Clones are handles to the same members.
///
/// The members belong to it: their order and number are part of what is stored, and an object that is read from one of them alone is an
/// index, not the object. For several paths to *one* store see [`Vast`](crate::Vast).
///
/// ```
/// use std::sync::Arc;
/// use kv_storage::{KvStore, MemoryStore, Striped};
/// # fn main() -> kv_storage::Result<()> {
/// let members: Vec<Arc<dyn KvStore>> = (0..3).map(|_| Arc::new(MemoryStore::new()) as _).collect();
/// let store = Striped::new(members)?;
/// assert_eq!(store.to_string(), "striped(memory, memory, memory)");
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Striped {
    members: Arc<[Arc<dyn KvStore>]>,
    /// For indices and ends of spans.
    pages: StagingPool,
    environment: Environment,
}

impl Striped {
    /// A store over `members`, in this order.
    ///
    /// # Errors
    /// `Invalid` without members or with more than [`MAX_MEMBERS`]; `NoSpace` if there is no memory for its own buffers.
    pub fn new(members: Vec<Arc<dyn KvStore>>) -> Result<Self> {
        Self::with_environment(members, Environment::default())
    }

    /// As [`new`](Self::new), with time and randomness of the caller's.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn with_environment(members: Vec<Arc<dyn KvStore>>, environment: Environment) -> Result<Self> {
        if members.is_empty() || members.len() > MAX_MEMBERS {
            let message = format!("{} members: expected 1 to {MAX_MEMBERS}", members.len());
            return Err(Error::new(ErrorKind::Invalid, "striped", message));
        }
        let none = |error: kv_memory::Error| Error::new(ErrorKind::NoSpace, "striped", error.to_string());
        let pages = HugePages::allocate(PAGES * PAGE).and_then(|region| StagingPool::new(region, PAGE));
        Ok(Self { members: members.into(), pages: pages.map_err(none)?, environment })
    }

    /// Which member a digest chooses, and a number of the reader's beside it.
    fn member_of(&self, digest: &[u8; 32], salt: u32) -> usize {
        let word = digest
            .iter()
            .skip(8)
            .take(8)
            .fold(u64::from(salt), |word, byte| word.rotate_left(8) ^ u64::from(*byte));
        usize::try_from(word % self.members.len() as u64).unwrap_or_default()
    }

    /// The member that has an object's index, and the first of its spans.
    fn home(&self, name: &ObjectName) -> usize {
        self.member_of(&name.key.0, name.chunk_index.rotate_left(16) ^ name.slice)
    }

    fn home_of_record(&self, name: &RecordName) -> &Arc<dyn KvStore> {
        &self.members[self.member_of(&name.digest.0, name.part)]
    }
}

impl fmt::Display for Striped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("striped(")?;
        for (number, member) in self.members.iter().enumerate() {
            write!(f, "{}{member}", if number == 0 { "" } else { ", " })?;
        }
        f.write_str(")")
    }
}

impl fmt::Debug for Striped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Striped").field("members", &self.members).finish_non_exhaustive()
    }
}
