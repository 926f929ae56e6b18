//! What the codes of `hipError_t` mean to a caller. CUDA's runtime uses the same numbers for those that both have.

use kv_device::ErrorKind;

use super::Code;

/// `hipSuccess`.
pub(crate) const SUCCESS: Code = 0;
/// `hipErrorInvalidValue`.
pub(crate) const INVALID_VALUE: Code = 1;
/// `hipErrorNoDevice`.
pub(crate) const NO_DEVICE: Code = 100;
/// `hipErrorInvalidDevice`: what `hipInit` answers where there is no device, in 5.x.
pub(crate) const INVALID_DEVICE: Code = 101;
/// `hipErrorNotReady`: no error.
pub(crate) const NOT_READY: Code = 600;

/// What the caller does about a code.
pub(crate) fn kind(code: Code) -> ErrorKind {
    match code {
        // OutOfMemory.
        2 => ErrorKind::OutOfMemory,
        // NotInitialized, Deinitialized, InsufficientDriver, NoDevice, InvalidDevice.
        3 | 4 | 35 | NO_DEVICE | INVALID_DEVICE => ErrorKind::Unavailable,
        // ECCNotCorrectable, IllegalAddress, Assert, LaunchFailure, Unknown, RuntimeMemory, RuntimeOther: only a reset helps.
        214 | 700 | 710 | 719 | 999 | 1052 | 1053 => ErrorKind::DeviceLost,
        // NoBinaryForGpu, NotSupported.
        209 | 801 => ErrorKind::Unsupported,
        _ => ErrorKind::Vendor,
    }
}
