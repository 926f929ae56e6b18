//! An Intel Gaudi accelerator as a kvbridge [`Device`](kv_device::Device): SynapseAI loaded at run time, copies by DMA.
//!
//! The KV cache of an LLM lies in blocks of an accelerator's memory. This crate moves parts of it between a Gaudi and pinned host
//! memory, inside the process of an inference engine or on its own, through the vendor's `libSynapse.so`, which is loaded when a device
//! is opened. Without the library, or without a device, opening fails with an error that says what was tried; everything else builds
//! and runs on any Linux machine.
//!
//! ```no_run
//! # use std::sync::Arc;
//! # use kv_device::{Device, DeviceRegion, Fence, Result};
//! # fn main() -> Result<()> {
//! # let (regions, compute_stream) = (Vec::<DeviceRegion>::new(), std::ptr::null_mut());
//! use kv_device_hpu::synapse::DeviceType;
//! use kv_device_hpu::{HpuDevice, HpuOptions, SynapseFence};
//!
//! // In the engine's process, after it has acquired its Gaudi.
//! let mut options = HpuOptions::default();
//! options.expected_type = Some(DeviceType::Gaudi3);
//! let device = HpuDevice::attach(&options)?;
//! println!("{}", device.identity());
//!
//! // SAFETY: the K and V tensors stay allocated, and pinned by `_data_ptr`, until `close` has returned.
//! let registered = unsafe { device.register(regions) }?;
//! // SAFETY: PyTorch's compute stream lives as long as its device.
//! let fence: Arc<dyn Fence> = unsafe { SynapseFence::record(&device, compute_stream) }?;
//! // Then as with any device: `registered.gather(..)`, or a pipeline over `device`.
//! # Ok(()) }
//! ```
//!
//! # Attach, or own
//!
//! A process can have **one** Gaudi. In a process with an engine it is the engine's: [`HpuDevice::attach`] uses it, and never acquires,
//! releases or ends anything. A tool without an engine takes one with [`HpuDevice::own`] and gives it back at the end.
//!
//! # Three levels
//!
//! * [`sys`]: the C ABI as a table of functions. Nothing is checked.
//! * [`synapse`]: results, text, and handles that are returned when dropped.
//! * [`HpuDevice`]: safe but for the one promise about the engine's memory.
//!
//! # What it does about the vendor's rules
//!
//! Staging is mapped for DMA once, as a whole, and is this crate's own memory. Each direction has a stream and a thread; a transfer is one
//! `synMemCopyAsyncMultiple` with an event behind it, given to the stream while the one before is still copied. A buffer comes back only when
//! no copy can still use it, whatever failed. Addresses that cannot be the device's, such as PyTorch's tensor handles, are refused when they
//! are registered, in words. The README lists each rule with its source, and the test that fails if we forget it.
//!
//! # Rows
//!
//! Gaudi's engines have no kernel that could gather single elements, so the device declares
//! [`Granularity::Rows`](kv_device::Granularity::Rows): the rows of an engine's memory move as they are, with all heads of the rank, and the pipeline
//! interleaves them with the stored slices on the host. Shorter runs are moved too, slowly.
//!
//! # What it is not, and why
//!
//! * **Not an allocator for engines**: [`HpuMemory`] is for tools and tests.
//! * **Not a peer-to-peer transport**: bytes rest in host memory on their way to storage.
//! * **Not tried on hardware yet.** The rules are read from the vendor's public source and enforced by an emulation of the runtime
//!   (`examples/fake_synapse`), against which every test runs through `dlopen`.
//!
//! # Features
//!
//! * `sabotage`: for this crate's tests only.
//!
//! # Unsafe code
//!
//! In `sys` (the table), `synapse` (the calls), and in `device` where registered memory is given to a stream.
#![deny(unsafe_code)]
#![cfg_attr(docsrs, feature(doc_cfg))]

mod device;
mod sabotage;
pub mod synapse;
pub mod sys;

pub use device::{HpuDevice, HpuIdentity, HpuMemory, HpuOptions, SynapseFence};
#[doc(hidden)]
pub use sabotage::{Break, Sabotage};
