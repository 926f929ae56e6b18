//! The error of this crate.

/// Shorthand for results of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, by what the caller can do about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The system has no memory of the wanted size: ask for less, or free some.
    OutOfMemory,
    /// A size or an alignment makes no sense: a mistake of the caller.
    Invalid,
}

/// An error with its kind and a message that names sizes, what was expected and what to do.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    kind: ErrorKind,
    message: String,
    #[source]
    source: Option<std::io::Error>,
}

impl Error {
    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self { kind: ErrorKind::Invalid, message: message.into(), source: None }
    }

    /// An allocation of `bytes` failed; for implementors of [`HostRegion`](crate::HostRegion).
    pub fn out_of_memory(bytes: usize, source: std::io::Error) -> Self {
        let message = format!(
            "cannot allocate {bytes} bytes of host memory ({source}): configure less staging or free memory"
        );
        Self { kind: ErrorKind::OutOfMemory, message, source: Some(source) }
    }

    /// What the caller can do.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }
}
