//! The calls of the contract as values: what wrappers count and script by.

use std::fmt;

/// One kind of call to a store or an upload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Operation {
    /// [`KvStore::begin`](crate::KvStore::begin)
    Begin,
    /// [`Upload::write`](crate::Upload::write)
    Write,
    /// [`Upload::commit`](crate::Upload::commit)
    Commit,
    /// [`Upload::abort`](crate::Upload::abort); dropping an upload is no call
    Abort,
    /// [`KvStore::read`](crate::KvStore::read)
    Read,
    /// [`KvStore::head`](crate::KvStore::head)
    Head,
    /// [`KvStore::list`](crate::KvStore::list)
    List,
    /// [`KvStore::delete`](crate::KvStore::delete)
    Delete,
    /// [`KvStore::quarantine`](crate::KvStore::quarantine)
    Quarantine,
    /// [`KvStore::create_record`](crate::KvStore::create_record)
    CreateRecord,
    /// [`KvStore::replace_record`](crate::KvStore::replace_record)
    ReplaceRecord,
    /// [`KvStore::read_record`](crate::KvStore::read_record)
    ReadRecord,
    /// [`KvStore::delete_record`](crate::KvStore::delete_record)
    DeleteRecord,
}

impl Operation {
    /// Every kind.
    pub const ALL: [Self; 13] = [
        Self::Begin,
        Self::Write,
        Self::Commit,
        Self::Abort,
        Self::Read,
        Self::Head,
        Self::List,
        Self::Delete,
        Self::Quarantine,
        Self::CreateRecord,
        Self::ReplaceRecord,
        Self::ReadRecord,
        Self::DeleteRecord,
    ];

    /// Name for metrics and messages.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Begin => "begin",
            Self::Write => "write",
            Self::Commit => "commit",
            Self::Abort => "abort",
            Self::Read => "read",
            Self::Head => "head",
            Self::List => "list",
            Self::Delete => "delete",
            Self::Quarantine => "quarantine",
            Self::CreateRecord => "create_record",
            Self::ReplaceRecord => "replace_record",
            Self::ReadRecord => "read_record",
            Self::DeleteRecord => "delete_record",
        }
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
