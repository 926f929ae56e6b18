//! The first level: the C ABI of libSynapse as it is. Types, codes and the table of functions; nothing is checked here.
//!
//! Written from the declarations of release 1.21, which are those of 1.16 to 1.19 for every function here (README, "Releases").

mod status;
mod structs;
mod table;

use std::ffi::c_void;

pub use status::Status;
pub use structs::{DEVICE_INFO_BYTES, DeviceFacts};
pub use table::Symbols;

/// `synStreamHandle` and `synEventHandle`.
pub type Handle = *mut c_void;
/// `synDeviceId`: of the one device that the process has acquired, always 0.
pub type DeviceId = u32;
/// `synModuleId`: which of the host's accelerators.
pub type ModuleId = u32;

/// `synDmaDir`: from mapped host memory to the device.
pub const HOST_TO_DRAM: i32 = 0;
/// `synDmaDir`: from the device to mapped host memory.
pub const DRAM_TO_HOST: i32 = 1;

/// `synDeviceAttribute`: `DEVICE_ATTRIBUTE_DEVICE_TYPE`, which is told without acquiring.
pub const ATTRIBUTE_DEVICE_TYPE: i32 = 7;
/// Entries of the array that `synDeviceGetModuleIDs` fills: no host has more.
pub const MOST_MODULES: u32 = 64;
/// Room for a name, a PCI address, a version or a description; the longest, a description, has 56 bytes.
pub const TEXT_BYTES: usize = 256;
