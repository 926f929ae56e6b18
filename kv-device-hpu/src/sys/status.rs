//! `synStatus`: what every function returns.

use std::fmt;

/// A code of the runtime. Later releases add codes: an unknown one is a failure like any other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(transparent)]
pub struct Status(pub i32);

/// Codes and names, as `synapse_api_types.h` of 1.21 has them; 44 and above came with it.
const NAMES: [&str; 48] = [
    "synSuccess",
    "synInvalidArgument",
    "synCbFull",
    "synOutOfHostMemory",
    "synOutOfDeviceMemory",
    "synObjectAlreadyInitialized",
    "synObjectNotInitialized",
    "synCommandSubmissionFailure",
    "synNoDeviceFound",
    "synDeviceTypeMismatch",
    "synFailedToInitializeCb",
    "synFailedToFreeCb",
    "synFailedToMapCb",
    "synFailedToUnmapCb",
    "synFailedToAllocateDeviceMemory",
    "synFailedToFreeDeviceMemory",
    "synFailedNotEnoughDevicesFound",
    "synDeviceReset",
    "synUnsupported",
    "synWrongParamsFile",
    "synDeviceAlreadyAcquired",
    "synNameIsAlreadyUsed",
    "synBusy",
    "synAllResourcesTaken",
    "synUnavailable",
    "synInvalidTensorDimensions",
    "synFail",
    "synOutOfResources",
    "synUninitialized",
    "synAlreadyInitialized",
    "synFailedSectionValidation",
    "synSynapseTerminated",
    "synAssertAsync",
    "synInvalidEventHandle",
    "synMappingNotFound",
    "synFailedDynamicPatching",
    "synFailedStaticPatching",
    "synFailedToSubmitWorkload",
    "synInvalidSectionsDefinition",
    "synInvalidTensorProperties",
    "synFailHccl",
    "synFailedToCollectTime",
    "synTimeout",
    "synResourceBadUsage",
    "synNullPtr",
    "synFailFuser",
    "synFailComplexGuid",
    "synFailTpcKernels",
];

impl Status {
    /// The call succeeded.
    pub const SUCCESS: Self = Self(0);
    /// An argument is wrong: a handle of nothing, a zero address.
    pub const INVALID_ARGUMENT: Self = Self(1);
    /// Host memory is exhausted.
    pub const OUT_OF_HOST_MEMORY: Self = Self(3);
    /// Device memory is exhausted.
    pub const OUT_OF_DEVICE_MEMORY: Self = Self(4);
    /// `synInitialize` was not called.
    pub const OBJECT_NOT_INITIALIZED: Self = Self(6);
    /// No such device, or another process has it.
    pub const NO_DEVICE_FOUND: Self = Self(8);
    /// The device is of another type than was asked for.
    pub const DEVICE_TYPE_MISMATCH: Self = Self(9);
    /// Device memory cannot be allocated.
    pub const FAILED_TO_ALLOCATE_DEVICE_MEMORY: Self = Self(14);
    /// Not as many devices as were asked for.
    pub const NOT_ENOUGH_DEVICES: Self = Self(16);
    /// The device is being reset.
    pub const DEVICE_RESET: Self = Self(17);
    /// The runtime cannot do that.
    pub const UNSUPPORTED: Self = Self(18);
    /// This process has a device already.
    pub const DEVICE_ALREADY_ACQUIRED: Self = Self(20);
    /// What was asked about is not done yet.
    pub const BUSY: Self = Self(22);
    /// A resource cannot be had now.
    pub const UNAVAILABLE: Self = Self(24);
    /// The generic failure; among others, of a call that needs a device in a process that has none.
    pub const FAIL: Self = Self(26);
    /// `synInitialize` was not called.
    pub const UNINITIALIZED: Self = Self(28);
    /// `synInitialize` was called before, where the operator forbids that.
    pub const ALREADY_INITIALIZED: Self = Self(29);
    /// The device failed; only a new process gets it back.
    pub const SYNAPSE_TERMINATED: Self = Self(31);
    /// A kernel on the device asserted.
    pub const ASSERT_ASYNC: Self = Self(32);
    /// Not an event of the acquired device.
    pub const INVALID_EVENT_HANDLE: Self = Self(33);
    /// Host memory that is not wholly inside one mapping.
    pub const MAPPING_NOT_FOUND: Self = Self(34);
    /// The runtime gave up waiting.
    pub const TIMEOUT: Self = Self(42);
    /// A pointer is null.
    pub const NULL_POINTER: Self = Self(44);

    /// The name in the vendor's header, or `unknown status`.
    pub fn name(self) -> &'static str {
        let known = usize::try_from(self.0).ok().and_then(|code| NAMES.get(code));
        known.copied().unwrap_or("unknown status")
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.name(), self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_have_the_names_of_the_header() {
        for (status, text) in [
            (Status::MAPPING_NOT_FOUND, "synMappingNotFound (34)"),
            (Status::SYNAPSE_TERMINATED, "synSynapseTerminated (31)"),
            (Status::BUSY, "synBusy (22)"),
            (Status::NULL_POINTER, "synNullPtr (44)"),
            (Status(47), "synFailTpcKernels (47)"),
            (Status(48), "unknown status (48)"),
            (Status(-1), "unknown status (-1)"),
        ] {
            assert_eq!(status.to_string(), text);
        }
    }
}
