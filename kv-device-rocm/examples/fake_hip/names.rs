//! Names of codes.

use std::ffi::{CStr, c_char};

use crate::fake::Code;

fn name(code: Code) -> &'static CStr {
    match code {
        0 => c"hipSuccess",
        1 => c"hipErrorInvalidValue",
        2 => c"hipErrorOutOfMemory",
        3 => c"hipErrorNotInitialized",
        9 => c"hipErrorInvalidConfiguration",
        17 => c"hipErrorInvalidDevicePointer",
        21 => c"hipErrorInvalidMemcpyDirection",
        100 => c"hipErrorNoDevice",
        101 => c"hipErrorInvalidDevice",
        200 => c"hipErrorInvalidImage",
        209 => c"hipErrorNoBinaryForGpu",
        400 => c"hipErrorInvalidHandle",
        500 => c"hipErrorNotFound",
        600 => c"hipErrorNotReady",
        700 => c"hipErrorIllegalAddress",
        702 => c"hipErrorLaunchTimeOut",
        712 => c"hipErrorHostMemoryAlreadyRegistered",
        713 => c"hipErrorHostMemoryNotRegistered",
        719 => c"hipErrorLaunchFailure",
        801 => c"hipErrorNotSupported",
        _ => c"hipErrorUnknown",
    }
}

#[unsafe(no_mangle)]
extern "C" fn hipGetErrorName(code: Code) -> *const c_char {
    name(code).as_ptr()
}

#[unsafe(no_mangle)]
extern "C" fn hipGetErrorString(code: Code) -> *const c_char {
    name(code).as_ptr()
}
