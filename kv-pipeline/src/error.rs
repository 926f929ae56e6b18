//! The error of this crate.

/// Shorthand for results of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, by what the caller does about it. A miss is not an error: a load reports it in its result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// A setting or a request contradicts itself: a mistake of the caller.
    Invalid,
    /// What is stored, or what the other side announced, does not fit this engine: recompute, and compare the namespaces.
    Incompatible,
    /// An object of another identity has this object's name: raise an alarm, nothing was replaced.
    Conflict,
    /// The deadline passed: recompute. What the store still holds is counted as stranded.
    Deadline,
    /// The operation was cancelled or its runtime ended.
    Cancelled,
    /// The load stopped early and its policy is to fail.
    Incomplete,
    /// The producer gave the request up: prefill again.
    Aborted,
    /// The store is full, denies access, or fails: the engine goes on without it.
    Storage,
    /// The device fails, or still holds the engine's blocks when the time is up.
    Device,
}

/// An error with its kind and a message that names the object, the store or the device, and what to do.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    kind: ErrorKind,
    message: String,
    #[source]
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl Error {
    pub(crate) fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), source: None }
    }

    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Invalid, message)
    }

    /// Puts what was being done before the message.
    pub(crate) fn during(mut self, what: impl std::fmt::Display) -> Self {
        self.message = format!("{what}: {}", self.message);
        self
    }

    /// What the caller does about it.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }
}

impl From<kv_format::Error> for Error {
    fn from(error: kv_format::Error) -> Self {
        let kind = match error.kind() {
            kv_format::ErrorKind::Invalid => ErrorKind::Invalid,
            _ => ErrorKind::Incompatible,
        };
        Self { kind, message: error.to_string(), source: Some(error.into()) }
    }
}

impl From<kv_storage::Error> for Error {
    fn from(error: kv_storage::Error) -> Self {
        Self { kind: ErrorKind::Storage, message: error.to_string(), source: Some(error.into()) }
    }
}

impl From<kv_device::Error> for Error {
    fn from(error: kv_device::Error) -> Self {
        let kind = match error.kind() {
            kv_device::ErrorKind::Invalid | kv_device::ErrorKind::Closed => ErrorKind::Invalid,
            kv_device::ErrorKind::Timeout => ErrorKind::Deadline,
            _ => ErrorKind::Device,
        };
        Self { kind, message: error.to_string(), source: Some(error.into()) }
    }
}

impl From<kv_memory::Error> for Error {
    fn from(error: kv_memory::Error) -> Self {
        Self { kind: ErrorKind::Invalid, message: error.to_string(), source: Some(error.into()) }
    }
}
