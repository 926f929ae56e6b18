//! What the runtime answered, as the source of this crate's errors: they are `kv_device::Error`s.

use kv_device::Error;

use crate::sys::{Code, codes};

/// A code of the vendor's runtime, with its own name for it; the source of errors that come from the runtime.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{call} answered {code} ({name}: {text})")]
pub struct VendorError {
    /// The function.
    pub call: &'static str,
    /// The code: `hipError_t` or `cudaError_t`.
    pub code: i32,
    /// The runtime's name of the code.
    pub name: String,
    /// The runtime's words.
    pub text: String,
}

impl VendorError {
    /// As an error of `device`, which says what was attempted and what to do.
    pub(crate) fn about(self, device: &str, message: &str) -> Error {
        let advice = match self.code {
            codes::NO_DEVICE | codes::INVALID_DEVICE => {
                ": no such device is visible; look at /dev/kfd and ROCR_VISIBLE_DEVICES"
            }
            35 => ": the kernel driver is missing or older than the library",
            2 => ": free some, or ask for less",
            code if codes::kind(code) == kv_device::ErrorKind::DeviceLost => {
                ": the device is lost to this process; end it"
            }
            _ => "",
        };
        Error::new(codes::kind(self.code), device, format!("{message}: {self}{advice}")).with_source(self)
    }
}

/// A code that is no success, with its name.
pub(super) fn vendor_error(names: &crate::sys::table::Common, call: &'static str, code: Code) -> VendorError {
    let text = |words: Option<&'static str>| words.unwrap_or("unknown").to_owned();
    VendorError {
        call,
        code,
        name: text(super::runtime::words(names.error_name, code)),
        text: text(super::runtime::words(names.error_string, code)),
    }
}
