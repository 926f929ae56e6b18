//! From a code of the runtime to an error that says what to do.

use kv_device::{Error, ErrorKind};

use crate::sys::Status;

/// A call that failed, as the source of an [`Error`] of this crate.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{call} returned {status}: {description}")]
#[non_exhaustive]
pub struct VendorError {
    /// The function.
    pub call: &'static str,
    /// Its code, with the vendor's name.
    pub status: Status,
    /// The runtime's own words.
    pub description: String,
}

/// The error of `call` on `device`.
pub(super) fn error(device: &str, call: &'static str, status: Status, description: String) -> Error {
    let (kind, advice) = meaning(status);
    let vendor = VendorError { call, status, description };
    Error::new(kind, device, format!("{vendor}: {advice}")).with_source(vendor)
}

/// What a caller does about a code.
fn meaning(status: Status) -> (ErrorKind, &'static str) {
    match status {
        Status::OUT_OF_HOST_MEMORY => {
            (ErrorKind::OutOfMemory, "ask for less staging, or raise the limit of locked memory")
        }
        Status::OUT_OF_DEVICE_MEMORY | Status::FAILED_TO_ALLOCATE_DEVICE_MEMORY => {
            (ErrorKind::OutOfMemory, "leave more device memory to others than the engine's cache")
        }
        Status::NO_DEVICE_FOUND | Status::NOT_ENOUGH_DEVICES => (
            ErrorKind::Unavailable,
            "no such device is free: see who holds it (hl-smi), or name another module",
        ),
        Status::DEVICE_ALREADY_ACQUIRED => (
            ErrorKind::Unavailable,
            "this process has a device, and can have one: attach to it, or use a process for each device",
        ),
        Status::FAIL => (
            ErrorKind::Vendor,
            "see the runtime's log (HABANA_LOGS); so answers a process without a device, too",
        ),
        Status::OBJECT_NOT_INITIALIZED
        | Status::UNINITIALIZED
        | Status::UNAVAILABLE
        | Status::DEVICE_TYPE_MISMATCH => (ErrorKind::Unavailable, "see the runtime's log (HABANA_LOGS)"),
        Status::DEVICE_RESET | Status::SYNAPSE_TERMINATED | Status::ASSERT_ASYNC => {
            (ErrorKind::DeviceLost, "only a new process gets the device back: restart this one")
        }
        Status::UNSUPPORTED => (ErrorKind::Unsupported, "use another release of the runtime"),
        Status::MAPPING_NOT_FOUND => (
            ErrorKind::Invalid,
            "host memory that is not wholly inside one mapping: take buffers from this device's allocate_staging",
        ),
        Status::INVALID_ARGUMENT | Status::INVALID_EVENT_HANDLE | Status::NULL_POINTER => (
            ErrorKind::Invalid,
            "an address or handle that the device does not have: it may belong to a freed object",
        ),
        Status::TIMEOUT => (ErrorKind::Timeout, "the device is slow or hangs: see hl-smi"),
        _ => (ErrorKind::Vendor, "see the runtime's log (HABANA_LOGS)"),
    }
}
