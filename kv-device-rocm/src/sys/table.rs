//! The functions of a runtime, found once when the library is loaded.
#![expect(unsafe_code, reason = "names the types of foreign functions")]

use std::ffi::{c_char, c_int, c_uint, c_void};

use kv_device::Result;
use kv_device::dynamic::Library;

use super::{Code, CopyAttributes, Handle, PointerAttributes};

/// Declares a table and how it is found: `required` functions must be there, `optional` ones need not.
macro_rules! table {
    (
        $(#[$doc:meta])* $name:ident, $prefix:ty;
        required { $($field:ident = $symbol:literal ($($argument:ty),*) -> $result:ty;)* }
        optional { $($maybe:ident = $maybe_symbol:literal ($($maybe_argument:ty),*) -> $maybe_result:ty;)* }
    ) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy)]
        pub(crate) struct $name {
            $(pub(crate) $field: unsafe extern "C" fn($($argument),*) -> $result,)*
            $(pub(crate) $maybe: Option<unsafe extern "C" fn($($maybe_argument),*) -> $maybe_result>,)*
        }

        impl $name {
            /// Finds the functions, whose names begin with `prefix`.
            pub(crate) fn load(library: &Library, prefix: $prefix) -> Result<Self> {
                Ok(Self {
                    // SAFETY: the types of the table are those of the vendor's header, for every version that is supported.
                    $($field: unsafe { library.symbol(&format!("{prefix}{}", $symbol)) }?,)*
                    // SAFETY: as above.
                    $($maybe: unsafe { library.optional(&format!("{prefix}{}", $maybe_symbol)) },)*
                })
            }
        }
    };
}

table! {
    /// What HIP's and CUDA's runtimes have in common, under their prefixes `hip` and `cuda`.
    Common, &str;
    required {
        runtime_version = "RuntimeGetVersion"(*mut c_int) -> Code;
        driver_version = "DriverGetVersion"(*mut c_int) -> Code;
        device_count = "GetDeviceCount"(*mut c_int) -> Code;
        error_name = "GetErrorName"(Code) -> *const c_char;
        error_string = "GetErrorString"(Code) -> *const c_char;
    }
    optional {}
}

table! {
    /// What a device needs of HIP.
    Hip, &str;
    required {
        init = "Init"(c_uint) -> Code;
        set_device = "SetDevice"(c_int) -> Code;
        get_device = "GetDevice"(*mut c_int) -> Code;
        device_name = "DeviceGetName"(*mut c_char, c_int, c_int) -> Code;
        device_total = "DeviceTotalMem"(*mut usize, c_int) -> Code;
        device_attribute = "DeviceGetAttribute"(*mut c_int, c_int, c_int) -> Code;
        device_bus_id = "DeviceGetPCIBusId"(*mut c_char, c_int, c_int) -> Code;
        memory_info = "MemGetInfo"(*mut usize, *mut usize) -> Code;
        malloc = "Malloc"(*mut *mut c_void, usize) -> Code;
        free = "Free"(*mut c_void) -> Code;
        host_malloc = "HostMalloc"(*mut *mut c_void, usize, c_uint) -> Code;
        host_free = "HostFree"(*mut c_void) -> Code;
        host_device_pointer = "HostGetDevicePointer"(*mut *mut c_void, *mut c_void, c_uint) -> Code;
        memcpy_async = "MemcpyAsync"(*mut c_void, *const c_void, usize, c_int, Handle) -> Code;
        memcpy_2d_async =
            "Memcpy2DAsync"(*mut c_void, usize, *const c_void, usize, usize, usize, c_int, Handle) -> Code;
        stream_create = "StreamCreateWithFlags"(*mut Handle, c_uint) -> Code;
        stream_destroy = "StreamDestroy"(Handle) -> Code;
        stream_synchronize = "StreamSynchronize"(Handle) -> Code;
        event_create = "EventCreateWithFlags"(*mut Handle, c_uint) -> Code;
        event_record = "EventRecord"(Handle, Handle) -> Code;
        event_query = "EventQuery"(Handle) -> Code;
        event_synchronize = "EventSynchronize"(Handle) -> Code;
        event_destroy = "EventDestroy"(Handle) -> Code;
        pointer_attributes = "PointerGetAttributes"(*mut PointerAttributes, *const c_void) -> Code;
        address_range = "MemGetAddressRange"(*mut *mut c_void, *mut usize, *mut c_void) -> Code;
        module_load = "ModuleLoadData"(*mut Handle, *const c_void) -> Code;
        module_unload = "ModuleUnload"(Handle) -> Code;
        module_function = "ModuleGetFunction"(*mut Handle, Handle, *const c_char) -> Code;
        launch = "ModuleLaunchKernel"(
            Handle, c_uint, c_uint, c_uint, c_uint, c_uint, c_uint, c_uint, Handle, *mut *mut c_void,
            *mut *mut c_void
        ) -> Code;
    }
    optional {
        // Since 6.0; the other name fills the structure of 5.x in every version.
        properties_r0600 = "GetDevicePropertiesR0600"(*mut c_void, c_int) -> Code;
        properties_r0000 = "GetDeviceProperties"(*mut c_void, c_int) -> Code;
        // Since ROCm 7.1.
        memcpy_batch = "MemcpyBatchAsync"(
            *mut *mut c_void, *mut *mut c_void, *mut usize, usize, *mut CopyAttributes, *mut usize, usize, *mut usize,
            Handle
        ) -> Code;
    }
}

table! {
    /// What the compiler behind hiprtc says about itself.
    Comgr, &str;
    required {
        isa_count = "get_isa_count"(*mut usize) -> Code;
        isa_name = "get_isa_name"(usize, *mut *const c_char) -> Code;
    }
    optional {}
}

table! {
    /// The run-time compiler: in a library of its own, and in HIP's own in 5.x.
    Rtc, &str;
    required {
        create = "CreateProgram"(
            *mut Handle, *const c_char, *const c_char, c_int, *const *const c_char, *const *const c_char
        ) -> Code;
        compile = "CompileProgram"(Handle, c_int, *const *const c_char) -> Code;
        log_size = "GetProgramLogSize"(Handle, *mut usize) -> Code;
        log = "GetProgramLog"(Handle, *mut c_char) -> Code;
        code_size = "GetCodeSize"(Handle, *mut usize) -> Code;
        code = "GetCode"(Handle, *mut c_char) -> Code;
        destroy = "DestroyProgram"(*mut Handle) -> Code;
    }
    optional {}
}
