//! KV caches in the memory of AMD accelerators: [`kv_device::Device`] over HIP.
//!
//! The HIP runtime is loaded when a device is opened, so a program with this crate builds and runs on machines without ROCm; there,
//! [`RocmDevice::open`] says what it has tried. A gather is one kernel launch, which packs the runs of a transfer into a dense buffer of
//! the device, and one copy into pinned staging; a scatter is the same backwards. Each direction has one stream and one thread.
//!
//! ```no_run
//! use kv_device::Device;
//! use kv_device_rocm::RocmDevice;
//!
//! # async fn open() -> kv_device::Result<()> {
//! let device = RocmDevice::open(0)?; // the first that the process sees
//! println!("{}", device.identity()); // rocm:0: AMD Instinct MI300X (gfx942), 190 GiB of 191 free, ...
//! let staging = device.allocate_staging(64 << 20)?; // pinned
//! # drop(staging); Ok(()) }
//! ```
//!
//! An engine that has queued work on a stream of its own passes a fence: [`RocmDevice::fence_after`] marks the point behind what is
//! queued, and a transfer that is given the fence reads or writes nothing before that point.
//!
//! # Levels
//!
//! `sys` holds types, constants and the table of functions; `hip` checks every call and frees every object; the device is above both.
//! [`Runtime`] loads and identifies HIP, and CUDA's runtime, which agrees with it there.
//!
//! # What it is not
//!
//! * **Not tested on hardware yet.** It is tested against an emulated runtime that keeps the vendor's rules (`examples/fake_hip`),
//!   against Debian's `libamdhip64-5` where there is no device, and its kernels by compilers; see the README.
//! * **Not a CUDA backend.** The functions agree, but the kernels, the properties and the batched copies do not.
//!
//! # Unsafe code
//!
//! It stands in `src/sys/table.rs`, `src/hip/` and `src/device/`; a comment before each call quotes what the vendor's header says of it.
#![deny(unsafe_code)]
#![cfg_attr(docsrs, feature(doc_cfg))]

mod device;
mod hip;
mod kernel;
mod sabotage;
mod sys;

pub use device::{EngineStream, RocmDevice, RocmFence, RocmOptions};
pub use hip::{CUDA_VARIABLE, HIP_VARIABLE, Identity, Runtime, Vendor, VendorError, Versions};
pub use kernel::SOURCE as KERNEL_SOURCE;
#[doc(hidden)]
pub use sabotage::Sabotage;
