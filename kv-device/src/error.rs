//! The error of this crate.

use std::fmt;

/// Shorthand for results of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, by what the caller does about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The vendor's library, a symbol, the driver or a device is missing: install it, or use another device.
    Unavailable,
    /// The device cannot do that.
    Unsupported,
    /// Device or pinned host memory is exhausted.
    OutOfMemory,
    /// A region, a transfer or a buffer does not fit what was registered: a mistake of the caller.
    Invalid,
    /// The memory was closed; no transfer was started.
    Closed,
    /// An engine's fence or a transfer did not complete in the given time; the transfer may still run.
    Timeout,
    /// The device is gone or in an error state that only a reset ends.
    DeviceLost,
    /// The vendor's runtime failed with a code that has no better kind.
    Vendor,
}

/// An error with its kind, the device it is about, and what to do.
#[derive(Debug, thiserror::Error)]
pub struct Error {
    kind: ErrorKind,
    device: String,
    message: String,
    #[source]
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl Error {
    /// An error of `kind` from `device` (its `Display`); the message names what was expected, what was found and what to do.
    pub fn new(kind: ErrorKind, device: impl fmt::Display, message: impl Into<String>) -> Self {
        Self { kind, device: device.to_string(), message: message.into(), source: None }
    }

    /// The error of a device that does not copy on the caller's thread.
    pub(crate) fn not_now() -> Self {
        let message =
            "it does not copy on the thread that asks: ask copies_now first, and use gather and scatter";
        Self::new(ErrorKind::Unsupported, "device", message)
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
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.device, self.message)
    }
}
