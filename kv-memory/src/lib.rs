//! Owned host memory for KV transfers: huge-page regions, and a bounded pool of aligned buffers cut from one.
//!
//! Bytes on their way between an accelerator and storage rest in *staging buffers*: pinned or huge-page, aligned, reused, and
//! bounded in number. This crate owns that memory and nothing else: it does no I/O and knows no device and no store.
//!
//! * [`HostRegion`] is one contiguous allocation. [`HugePages`] is the region for hosts without an accelerator; a device crate
//!   provides its own (`hipHostMalloc`, `synHostMalloc`) by implementing the trait.
//! * [`HostBuf`] is an owned, initialised, aligned buffer. It moves *into* an operation and comes back with the result, so that a
//!   dropped future can never free memory under a transfer. Dropping it gives its memory back.
//! * [`StagingPool`] cuts a region into equal parts and lends them out as [`HostBuf`]s: a fixed number of bytes, whatever the
//!   context length. When it is empty, callers wait in order: back-pressure, not growth.
//!
//! ```
//! use kv_memory::{HugePages, StagingPool};
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), kv_memory::Error> {
//! let pool = StagingPool::new(HugePages::allocate(8 << 20)?, 1 << 20)?;
//! let mut part = pool.acquire().await;                 // waits while all eight parts are lent out
//! part.set_len(4096)?;
//! part[..5].copy_from_slice(b"hello");
//! assert_eq!(pool.usage().bytes_lent, 1 << 20);
//! drop(part);                                          // the memory is back in the pool
//! assert_eq!(pool.usage().bytes_lent, 0);
//! # Ok(()) }
//! ```
//!
//! Whoever needs several parts takes them in one step, so that two callers can never each hold half of what both need:
//!
//! ```
//! # use kv_memory::{HugePages, StagingPool};
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), kv_memory::Error> {
//! # let pool = StagingPool::new(HugePages::allocate(8 << 20)?, 1 << 20)?;
//! let parts = pool.acquire_many(6).await;
//! assert!(pool.try_acquire().is_some()); // two are left, and this one is back at once
//! let moved = std::thread::spawn(move || parts.len()); // buffers move to whatever thread or device works with them
//! assert_eq!((moved.join().unwrap(), pool.usage().bytes_high_water), (6, 7 << 20));
//! # Ok(()) }
//! ```
//!
//! # What it is not
//!
//! * **Not a general allocator.** Buffers of one pool all have one size, because fresh pages cost more than the copies that this
//!   project exists to make (a fresh `Vec` is filled at 1.2 GB/s where a reused huge page takes 20).
//! * **Not `Bytes`.** A buffer has one owner and is written in place by devices and syscalls; nothing is shared, so nothing is copied
//!   in order to be sure.
//! * **Not device memory.** An engine's KV blocks are an accelerator's; only the host's side of a transfer is here.
//!
//! # Unsafe code
//!
//! It stands in `mapping.rs`, `buffer.rs`, `pool.rs` and `poison.rs`: mapping, handing out slices of what was mapped, and telling
//! AddressSanitizer what nobody may touch. Implementing
//! [`HostRegion`] is unsafe, using it is not.

mod buffer;
mod error;
mod mapping;
mod poison;
mod pool;

pub use buffer::HostBuf;
pub use error::{Error, ErrorKind, Result};
pub use mapping::{HostRegion, HugePages, PageKind};
pub use pool::{PoolUsage, StagingPool};

/// Alignment in bytes of every buffer of a pool: the page size, which `O_DIRECT` and DMA engines ask for.
pub const BUFFER_ALIGNMENT: usize = 4096;
