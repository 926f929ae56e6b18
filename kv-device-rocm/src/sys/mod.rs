//! The C side: types, constants and the table of functions, as HIP's public headers declare them. Nothing here calls anything.
//!
//! The numbers were compared between the headers of HIP 5.2, 6.2 to 6.4, 7.0, 7.2 and 7.14; what differs is said where it stands.

pub(crate) mod codes;
pub(crate) mod table;

use std::ffi::{c_int, c_uint, c_void};

/// `hipError_t` and `cudaError_t`: an enum in C.
pub(crate) type Code = c_int;
/// `hipStream_t`, `hipEvent_t`, `hipModule_t`, `hipFunction_t`: pointers to what only the runtime knows.
pub(crate) type Handle = *mut c_void;

/// `hipMemcpyKind`.
pub(crate) const HOST_TO_DEVICE: c_int = 1;
/// As above.
pub(crate) const DEVICE_TO_HOST: c_int = 2;

/// `hipStreamNonBlocking`: the stream does not wait for the null stream.
pub(crate) const STREAM_NON_BLOCKING: c_uint = 1;
/// `hipEventBlockingSync`: a wait sleeps instead of spinning.
pub(crate) const EVENT_BLOCKING_SYNC: c_uint = 1;
/// `hipEventDisableTiming`.
pub(crate) const EVENT_DISABLE_TIMING: c_uint = 2;
/// `hipHostMallocPortable`: pinned for all devices.
pub(crate) const HOST_PORTABLE: c_uint = 1;
/// `hipHostMallocMapped`: kernels may read it.
pub(crate) const HOST_MAPPED: c_uint = 2;

/// `hipMemoryTypeDevice` since 6.0.
pub(crate) const MEMORY_DEVICE: c_int = 2;
/// `hipMemoryTypeDevice` in 5.x, where 2 is an array.
pub(crate) const MEMORY_DEVICE_5: c_int = 1;

/// `hipDeviceAttributeComputeCapabilityMajor` and `Minor`.
pub(crate) const ATTRIBUTE_CAPABILITY: [c_int; 2] = [23, 61];
/// `hipDeviceAttributeHostNumaId`, since 7.2.
pub(crate) const ATTRIBUTE_NUMA: c_int = 92;

/// `HIP_VERSION` of the first runtime that accepts attributes in `hipMemcpyBatchAsync`.
pub(crate) const BATCH_ATTRIBUTES: c_int = 71_300_000;
/// Most descriptors of one `hipMemcpyBatchAsync`; beyond, the device faults (seen with MI350X).
pub(crate) const BATCH_LIMIT: usize = 8192;

/// Where `gcnArchName` stands in `hipDeviceProp_tR0600`, which `hipGetDevicePropertiesR0600` fills (since 6.0), in bytes.
pub(crate) const ARCH_OFFSET_R0600: usize = 1160;
/// Where it stands in what the function without the suffix fills: the structure of 5.x, in every version.
pub(crate) const ARCH_OFFSET_R0000: usize = 396;
/// Length of `gcnArchName` in bytes.
pub(crate) const ARCH_LEN: usize = 256;
/// Room for any version of the properties; the largest known has 1472 bytes.
pub(crate) const PROPERTIES_ROOM: usize = 8192;

/// `hipPointerAttribute_t`: 32 bytes in all versions of HIP; CUDA 13 has 88 bytes. The room is for any.
#[repr(C)]
#[derive(Debug)]
pub(crate) struct PointerAttributes {
    pub(crate) kind: c_int,
    pub(crate) device: c_int,
    pub(crate) room: [u64; 31],
}

/// `hipMemcpyAttributes`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(crate) struct CopyAttributes {
    /// 1: the source is read in the order of the stream.
    pub(crate) source_order: u32,
    pub(crate) hints: [u32; 4],
    pub(crate) flags: u32,
}
