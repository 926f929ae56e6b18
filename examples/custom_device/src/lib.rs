//! A device of somebody else: an inference engine on CPUs keeps its KV in ordinary memory of this process, and registers it as it is.
//!
//! It is written against the published traits alone and passes `kv_device::conformance`. The README walks through it.
//!
//! ```
//! use std::sync::atomic::{AtomicU8, Ordering};
//! use std::{sync::Arc, time::Duration};
//!
//! use custom_device::RamDevice;
//! use kv_device::{Device, DeviceRegion, TransferRequest};
//! use kv_format::*;
//! use kv_memory::StagingPool;
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! // The engine: K and V of one layer with 2 heads of 64 elements, in 4 blocks of 16 tokens.
//! let bytes = 4 * 16 * 2 * 64 * 2;
//! let memory: Vec<AtomicU8> = (0..2 * bytes).map(|i| AtomicU8::new(if i < bytes { 1 } else { 2 })).collect();
//! let paging = PagingLayout::token_major(16, 2, 64);
//! let geometry = Geometry::new(AttentionParts {
//!     dtype: Dtype::Bf16,
//!     rope: RopePairing::RotateHalf,
//!     layers: 0..1,
//!     heads: 0..2,
//!     replica: Replica::ONLY,
//!     key_dim: 64,
//!     value_dim: 64,
//!     block_tokens: 16,
//!     blocks: 4,
//!     key: paging,
//!     value: paging,
//!     tensors: vec![TensorBase { region: 0, offset: 0 }, TensorBase { region: 0, offset: bytes }],
//!     regions: vec![2 * bytes],
//! })?;
//!
//! let device = RamDevice::open()?;
//! let region = DeviceRegion { address: memory.as_ptr().expose_provenance() as u64, len: 2 * bytes };
//! // SAFETY: `memory` outlives `close` below, and the engine leaves it alone meanwhile.
//! let registered = unsafe { device.register(vec![region]) }?;
//!
//! // V of 20 tokens, which are in blocks 3 and 1.
//! let plan = Arc::new(LayerPlan::new(&geometry, &[3, 1], 0..20, 0..2)?);
//! let sections = vec![SectionPlace { region: 0, device: bytes, staging: 0, kind: TensorKind::Value }];
//! let pool = StagingPool::from_boxed(device.allocate_staging(1 << 20)?, 64 << 10)?;
//! let request = TransferRequest {
//!     transfer: Transfer { plan, sections },
//!     staging: pool.acquire().await,
//!     after: None,
//!     fence_timeout: Duration::ZERO,
//! };
//! let (staging, outcome) = registered.gather(request).await;
//! outcome?;
//! assert!(staging[..20 * 2 * 64 * 2].iter().all(|byte| *byte == 2));
//!
//! registered.close().await?; // the engine may use its memory as it likes again
//! memory[0].store(0, Ordering::Relaxed);
//! # Ok(()) }
//! ```
#![deny(unsafe_code)]

mod device;
mod memory;

pub use device::RamDevice;
