//! Why a chunk was not delivered.

use kv_format::{ErrorKind as FormatKind, ObjectName};
use kv_storage::{ErrorKind as StorageKind, ObjectMeta};

use super::StopReason;
use crate::limits::Stop;
use crate::{Error, ErrorKind};

/// What ended a chunk: a reason to stop the prefix here, or an error of the whole load.
#[derive(Debug)]
pub(super) enum Failed {
    Reason { reason: StopReason, message: String, object: usize, corrupt: Option<Box<ObjectMeta>> },
    Error(Error),
}

impl From<Stop> for Failed {
    fn from(stop: Stop) -> Self {
        match stop {
            Stop::Deadline => Self::reason(StopReason::Deadline, 0, "the deadline passed".to_owned()),
            Stop::Cancelled => Self::Error(stop.into()),
        }
    }
}

impl From<Error> for Failed {
    fn from(error: Error) -> Self {
        if error.kind() == ErrorKind::Deadline {
            return Self::reason(StopReason::Deadline, 0, error.to_string());
        }
        Self::Error(error)
    }
}

impl Failed {
    /// A reason; `object` counts the objects of the chunk.
    pub(super) fn reason(reason: StopReason, object: usize, message: String) -> Self {
        Self::Reason { reason, message, object, corrupt: None }
    }

    /// A corrupt object, which is to be taken out of the way if it still is the one that was read.
    pub(super) fn corrupt(object: usize, message: String, meta: Option<ObjectMeta>) -> Self {
        Self::Reason { reason: StopReason::Corrupt, message, object, corrupt: meta.map(Box::new) }
    }

    /// The object that failed verification, if that is what ended the chunk.
    pub(super) fn corrupts(&self) -> Option<&ObjectName> {
        match self {
            Self::Reason { corrupt, .. } => corrupt.as_ref().map(|meta| &meta.name),
            Self::Error(_) => None,
        }
    }

    /// A header that does not decode, or is another object's.
    pub(super) fn header(
        object: usize,
        name: &ObjectName,
        error: &kv_format::Error,
        meta: &ObjectMeta,
    ) -> Self {
        let message = format!("{name}: {error}");
        match error.kind() {
            FormatKind::Incompatible => Self::reason(StopReason::Incompatible, object, message),
            _ => Self::corrupt(object, message, Some(meta.clone())),
        }
    }

    /// A store that does not give what it has.
    pub(super) fn store(object: usize, error: &kv_storage::Error) -> Self {
        let reason = match error.kind() {
            StorageKind::PermissionDenied => StopReason::Denied,
            _ => StopReason::Unavailable,
        };
        Self::reason(reason, object, error.to_string())
    }
}
