//! The table of functions, resolved once. Signatures are those of `synapse_api.h` 1.21; in C, `size_t` is `uint64_t` there.
#![expect(unsafe_code, reason = "declares and resolves foreign functions")]

use std::ffi::{c_char, c_void};

use kv_device::Result;
use kv_device::dynamic::Library;

use super::{DeviceId, Handle, ModuleId, Status};

macro_rules! symbols {
    ($($(#[$doc:meta])* $field:ident: $symbol:literal($($argument:ty),*);)+) => {
        /// The functions that this crate calls. The library is never unloaded, so the pointers are good for the life of the process.
        #[derive(Debug, Clone, Copy)]
        pub struct Symbols {
            $($(#[$doc])* pub $field: unsafe extern "C" fn($($argument),*) -> Status,)+
        }

        impl Symbols {
            /// Resolves every function.
            ///
            /// # Errors
            /// [`Unavailable`](kv_device::ErrorKind::Unavailable) naming the first that is missing, and the library.
            pub fn resolve(library: &Library) -> Result<Self> {
                Ok(Self {
                    $(
                        // SAFETY: the type is the declaration of this function in `synapse_api.h`, the same from 1.16 to 1.21.
                        $field: unsafe { library.symbol::<unsafe extern "C" fn($($argument),*) -> Status>($symbol) }?,
                    )+
                })
            }
        }
    };
}

symbols! {
    /// Starts the runtime; a second call does nothing.
    initialize: "synInitialize"();
    /// Ends the runtime for everybody in the process; hangs where no device was acquired.
    destroy: "synDestroy"();
    /// Version of the driver (out, bytes); allowed before [`initialize`](Self::initialize).
    driver_get_version: "synDriverGetVersion"(*mut c_char, i32);
    /// Accelerators of the host (out).
    device_get_count: "synDeviceGetCount"(*mut u32);
    /// Their module ids (out), and how many (in, out).
    device_get_module_ids: "synDeviceGetModuleIDs"(*mut ModuleId, *mut u32);
    /// Attributes (out) of a module that need not be acquired (attributes, how many, module).
    device_get_attribute_by_module_id: "synDeviceGetAttributeByModuleId"(*mut u64, *const i32, u32, ModuleId);
    /// Acquires a device of a type.
    device_acquire_by_type: "synDeviceAcquireByDeviceType"(*mut DeviceId, i32);
    /// Acquires a module.
    device_acquire_by_module_id: "synDeviceAcquireByModuleId"(*mut DeviceId, ModuleId);
    /// Gives the acquired device back.
    device_release: "synDeviceRelease"(DeviceId);
    /// Name (out, bytes) of the acquired device.
    device_get_name: "synDeviceGetName"(*mut c_char, i32, DeviceId);
    /// PCI address (out, bytes) of the acquired device.
    device_get_pci_bus_id: "synDeviceGetPCIBusId"(*mut c_char, i32, DeviceId);
    /// Facts of the acquired device: a `synDeviceInfoV2` (out).
    device_get_info: "synDeviceGetInfoV2"(DeviceId, *mut c_void);
    /// Free and total bytes of device memory (both out).
    device_get_memory_info: "synDeviceGetMemoryInfo"(DeviceId, *mut u64, *mut u64);
    /// Allocates device memory (bytes, wanted address or 0, flags 0, address out).
    device_malloc: "synDeviceMalloc"(DeviceId, u64, u64, u32, *mut u64);
    /// Frees device memory (address, flags 0).
    device_free: "synDeviceFree"(DeviceId, u64, u32);
    /// Maps host memory for DMA (bytes, base).
    host_map: "synHostMap"(DeviceId, u64, *const c_void);
    /// Ends a mapping, named by its exact base.
    host_unmap: "synHostUnmap"(DeviceId, *const c_void);
    /// Creates a stream (flags 0).
    stream_create: "synStreamCreateGeneric"(*mut Handle, DeviceId, u32);
    /// Destroys a stream, after waiting for its work.
    stream_destroy: "synStreamDestroy"(Handle);
    /// Waits for a stream's work.
    stream_synchronize: "synStreamSynchronize"(Handle);
    /// Lets later work of a stream wait for an event (flags 0); applied with the stream's next work.
    stream_wait_event: "synStreamWaitEvent"(Handle, Handle, u32);
    /// Copies (stream, sources, sizes, destinations, direction, how many). The size comes second.
    memcpy_async_multiple: "synMemCopyAsyncMultiple"(Handle, *const u64, *const u64, *const u64, i32, u64);
    /// Copies (stream, source, size, destination, direction).
    memcpy_async: "synMemCopyAsync"(Handle, u64, u64, u64, i32);
    /// Creates an event (flags 0).
    event_create: "synEventCreate"(*mut Handle, DeviceId, u32);
    /// Destroys an event.
    event_destroy: "synEventDestroy"(Handle);
    /// Records an event behind a stream's work so far.
    event_record: "synEventRecord"(Handle, Handle);
    /// Whether an event was reached: success or busy. One that was never recorded counts as reached.
    event_query: "synEventQuery"(Handle);
    /// Waits until an event was reached.
    event_synchronize: "synEventSynchronize"(Handle);
    /// Describes a code (code, out, bytes).
    status_get_brief_description: "synStatusGetBriefDescription"(Status, *mut c_char, u64);
}
