//! The error of this crate.

/// Shorthand for results of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What is wrong with bytes or with a description, by what the caller does about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The bytes are not an object of this format at all.
    NotKvObject,
    /// The bytes end before what they announce, or go on after it: treat as a miss and quarantine.
    Truncated,
    /// A checksum or an internal rule does not hold: treat as a miss and quarantine.
    Corrupt,
    /// A valid object of another version, model, dtype, slice or token range: a miss with this reason; never converted by guess.
    Incompatible,
    /// A conversion would change values and the caller has not permitted that by name: permit it, or treat it as a miss.
    Lossy,
    /// A description that the caller gave (geometry, namespace, slice table, block ids) contradicts itself: a mistake to mend.
    Invalid,
}

/// An error with its kind and a message that names the field, what was expected and what was found.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    kind: ErrorKind,
    message: String,
}

impl Error {
    /// An error of `kind`; the message names the field, what was expected and what was found.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }

    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Invalid, message)
    }

    pub(crate) fn corrupt(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Corrupt, message)
    }

    pub(crate) fn incompatible(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Incompatible, message)
    }

    pub(crate) fn truncated(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Truncated, message)
    }

    /// What the caller does about it.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }
}
