//! The error of this crate.

use std::fmt;

/// Shorthand for results of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, by what the caller does about it. A missing object is not an error: calls answer `None`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The store refused for lack of rights: mend the mode, the owner or the credentials.
    PermissionDenied,
    /// The store is full or a quota is reached: drop the save; the engine goes on.
    NoSpace,
    /// The store does not answer, is marked down, or went away under the call: recompute, try again later.
    Unavailable,
    /// The object ends before the range that was asked for.
    OutOfRange,
    /// A URL, a size or a call order makes no sense: a mistake of the caller.
    Invalid,
    /// This store cannot do that.
    Unsupported,
    /// The backend failed in a way that this crate has no better word for; the source tells.
    Backend,
}

/// Whether the same call may succeed later.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Retry {
    /// It will fail again until somebody changes something.
    Never,
    /// It may succeed; wait before trying.
    Later,
}

/// An error with its kind, the store and object it is about, and what to do.
#[derive(Debug, thiserror::Error)]
pub struct Error {
    kind: ErrorKind,
    store: String,
    message: String,
    #[source]
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl Error {
    /// An error of `kind` from `store` (its `Display`); the message names the object, what was expected and what was found.
    pub fn new(kind: ErrorKind, store: impl fmt::Display, message: impl Into<String>) -> Self {
        Self { kind, store: store.to_string(), message: message.into(), source: None }
    }

    /// Adds the error underneath.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// What the caller does about it.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// Whether the same call may succeed later.
    pub fn retry(&self) -> Retry {
        match self.kind {
            ErrorKind::Unavailable | ErrorKind::NoSpace => Retry::Later,
            _ => Retry::Never,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.store, self.message)
    }
}
