//! Where KV lives in an engine: the [`Device`] trait between this project and an accelerator, and what an implementation needs.
//!
//! An inference engine keeps the KV cache in memory of an accelerator, in blocks, in a layout of its own. A [`Device`] takes charge
//! of that memory and moves parts of it: a *gather* copies the strided runs of a [`Transfer`](kv_format::Transfer) into a staging
//! buffer, in the order in which they are stored; a *scatter* copies a staging buffer back into blocks. Both wait for the engine's
//! [`Fence`] first, own their buffer until the last byte was moved, and never block an executor thread.
//!
//! * [`Device`] and [`RegisteredMemory`] are the contract. Vendors' crates implement it; so can you.
//! * [`HostDevice`] is an accelerator made of host memory: for tests, CPU engines and demonstrations. The host faults when it
//!   touches its addresses, as it should on an accelerator.
//! * [`NullDevice`] moves nothing, and counts: for measuring everything but the device.
//! * `conformance` (feature `conformance`) is the suite that every implementation runs.
//! * [`parts`] holds what implementations share: the queue with a thread per direction, the count of transfers in flight, the check
//!   of bounds.
//!
//! # Cookbook
//!
//! ```
//! use std::time::Duration;
//!
//! use kv_device::{Device, HostDevice, HostDeviceOptions, TransferRequest};
//! use kv_format::{
//!     Dtype, Geometry, AttentionParts, LayerPlan, PagingLayout, Replica, RopePairing, SectionPlace, TensorBase, TensorKind,
//!     Transfer,
//! };
//! use kv_memory::StagingPool;
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! // The engine: one layer of 2 KV heads, K and V in 8 blocks of 16 tokens, in memory of its device.
//! let device = HostDevice::new(HostDeviceOptions::default())?;
//! let paging = PagingLayout::token_major(16, 2, 64);
//! let bytes = 8 * 16 * 2 * 64 * 2;
//! let geometry = Geometry::new(AttentionParts {
//!     dtype: Dtype::Bf16,
//!     rope: RopePairing::RotateHalf,
//!     layers: 0..1,
//!     heads: 0..2,
//!     replica: Replica::ONLY,
//!     key_dim: 64,
//!     value_dim: 64,
//!     block_tokens: 16,
//!     blocks: 8,
//!     key: paging,
//!     value: paging,
//!     tensors: vec![TensorBase { region: 0, offset: 0 }, TensorBase { region: 1, offset: 0 }],
//!     regions: vec![bytes; 2],
//! })?;
//! let keys = device.allocate(usize::try_from(bytes)?)?;
//! let values = device.allocate(usize::try_from(bytes)?)?;
//! keys.with(|bytes| bytes.fill(1)); // a kernel of the engine
//! values.with(|bytes| bytes.fill(2));
//!
//! // SAFETY: both allocations live until `close` has returned, and the engine leaves the blocks of a transfer alone while it runs.
//! let registered = unsafe { device.register(vec![keys.region(), values.region()]) }?;
//!
//! // 40 tokens, which the engine keeps in blocks 5, 0 and 3: K and V, one behind the other in staging.
//! let plan = |blocks: &[u32]| LayerPlan::new(&geometry, blocks, 0..40, 0..2);
//! let section = |plan: &LayerPlan, kind, region| SectionPlace {
//!     region,
//!     device: 0,
//!     staging: u64::from(region) * plan.section_bytes(kind),
//!     kind,
//! };
//! let transfer = |plan: LayerPlan| Transfer {
//!     sections: vec![section(&plan, TensorKind::Key, 0), section(&plan, TensorKind::Value, 1)],
//!     plan: plan.into(),
//! };
//! let pool = StagingPool::from_boxed(device.allocate_staging(1 << 20)?, 64 << 10)?;
//! let fence = device.fence();
//! let gather = registered.gather(TransferRequest {
//!     transfer: transfer(plan(&[5, 0, 3])?),
//!     staging: pool.acquire().await,
//!     after: Some(fence.clone()), // not before the engine has computed them
//!     fence_timeout: Duration::from_secs(10),
//! });
//! fence.signal();
//! let (staging, outcome) = gather.await; // the buffer comes back, whatever the outcome
//! outcome?;
//! assert_eq!((staging[0], staging[40 * 2 * 64 * 2]), (1, 2));
//!
//! // Back into other blocks, as another engine would.
//! let (staging, outcome) = registered
//!     .scatter(TransferRequest {
//!         transfer: transfer(plan(&[1, 2, 7])?),
//!         staging,
//!         after: None,
//!         fence_timeout: Duration::ZERO,
//!     })
//!     .await;
//! outcome?;
//! drop(staging); // to the pool
//!
//! registered.close().await?; // now the engine may free its memory
//! # Ok(()) }
//! ```
//!
//! # What it is not, and why
//!
//! * **Not an allocator of KV blocks, and not a tensor library.** Blocks are the engine's; a device gets addresses and a promise.
//! * **Not a planner.** Which bytes move follows from a geometry (`kv_format::LayerPlan`); a device moves runs and changes no value.
//! * **Not a peer-to-peer transport** as NIXL or GPUDirect are: bytes rest in host staging on their way, because the other side is a
//!   store and is on a different kind of machine. A device that can write staging by DMA does so behind the same trait.
//!
//! # A device of your own
//!
//! [`parts`] has the queue, the count and the bounds; what is left is one function that moves the runs of a checked transfer. The
//! repository's `examples/custom_device` is one in 150 lines, with a walk-through. The suite then says whether it keeps the contract:
//!
//! ```
//! # #[cfg(feature = "conformance")]
//! # async fn check(engine: &dyn kv_device::conformance::Engine) {
//! kv_device::conformance::run(engine).await.assert(); // `engine`: how an engine allocates, reads and writes on your device
//! # }
//! ```
//!
//! # Features
//!
//! * `conformance`: the suite, without further dependencies.
//! * `dynamic`: loading a vendor's library at run time, with errors that name what was tried.
//! * `emulation`: what an emulated vendor runtime is made of, and its control from tests. Not for production.
//!
//! # Unsafe code
//!
//! Registering memory is the one `unsafe` step of a user, with the contract at [`Device::register`]. In this crate unsafe code maps
//! the memory of the host device (`src/twice.rs`, `src/host/memory.rs`), loads libraries (`src/dynamic`) and emulates a device's memory
//! (`src/emulation`); all else is safe, copies included.
#![deny(unsafe_code)]
#![cfg_attr(docsrs, feature(doc_cfg))]

#[cfg(feature = "conformance")]
#[cfg_attr(docsrs, doc(cfg(feature = "conformance")))]
pub mod conformance;
mod device;
#[cfg(feature = "dynamic")]
#[cfg_attr(docsrs, doc(cfg(feature = "dynamic")))]
pub mod dynamic;
#[cfg(feature = "emulation")]
#[cfg_attr(docsrs, doc(cfg(feature = "emulation")))]
pub mod emulation;
mod error;
mod host;
mod null;
pub mod parts;
mod twice;

pub use device::{
    Device, DeviceCapabilities, DeviceInfo, DeviceRegion, Fence, RegisteredMemory, TransferCounts,
    TransferRequest,
};
pub use error::{Error, ErrorKind, Result};
pub use host::{HostAllocation, HostDevice, HostDeviceOptions, HostFence};
pub use kv_format::Granularity;
pub use null::NullDevice;
