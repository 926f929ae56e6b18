//! Save, look up, load and hand off the KV cache of a language model between engines, through a shared store, verified.
//!
//! One [`Pipeline`] per rank joins a [`Device`](kv_device::Device) with a [`KvStore`](kv_storage::KvStore). Ranks and clusters share
//! only the store. A [`Producer`] saves what its engine prefilled; a [`Consumer`] on a different kind of accelerator, with another
//! block size, layout and parallelism, loads it.
//!
//! ```no_run
//! # use std::{sync::Arc, time::Duration};
//! # use kv_device::{Device, DeviceRegion};
//! # use kv_format::{Geometry, Namespace};
//! # use kv_pipeline::*;
//! # async fn example(namespace: Namespace, prefill: (Arc<dyn Device>, Geometry, Vec<DeviceRegion>),
//! #     decode: (Arc<dyn Device>, Geometry, Vec<DeviceRegion>), tokens: Vec<u32>, block_ids: Vec<u32>)
//! #     -> Result<(), Box<dyn std::error::Error>> {
//! let store = kv_storage::open("file:///mnt/kv-cache").await?; // once before: kv_storage::format
//! # let (device, geometry, regions) = prefill;
//! // One prefill rank.
//! let kv = Pipeline::builder(namespace.clone()).device(device).store(store.clone()).staging_bytes(64 << 20).build()?;
//! // SAFETY: the engine keeps these regions allocated until `close` has returned, and keeps its hands off running transfers.
//! let registered = unsafe { kv.register(geometry, regions)? };
//! let request = kv.producer().open_request("request-1", 0, 1, Duration::from_secs(5)).await?;
//! let save = SaveRequest::new(&tokens).blocks(&block_ids).with_tail();
//! let saved = kv.producer().save(&registered, save)?.finish().await?;
//! request.complete(&saved, Duration::from_secs(5)).await?;
//!
//! # let (device, geometry, regions) = decode;
//! // One decode rank of another cluster.
//! let kv = Pipeline::builder(namespace).device(device).store(store).build()?;
//! // SAFETY: as above.
//! let registered = unsafe { kv.register(geometry, regions)? };
//! let handoff = kv.consumer().wait_request("request-1", Duration::from_secs(60)).await?;
//! let load = LoadRequest::new(&tokens).blocks(&block_ids).handoff(&handoff);
//! let loaded = kv.consumer().load(&registered, load)?.finish().await?;
//! println!("{} of {} tokens loaded, {:?}", loaded.tokens, loaded.requested, loaded.failures);
//! registered.close().await?;
//! # Ok(()) }
//! ```
//!
//! # What holds
//!
//! * **No unverified byte reaches an engine.** Every section is checked before any byte of it is written; with
//!   [`Delivery::WholeChunk`], the default, before any byte of its chunk, so that a chunk that fails leaves the engine's blocks as they
//!   were. [`Delivery::AsVerified`] gives that up for about twice the speed where the processor copies.
//! * **Memory is bounded**: a fixed pool of staging parts, whatever the context length. When it is empty, work waits.
//! * **Every wait has a deadline.** What a dead store still holds is counted as stranded, and given back when it lets go.
//! * **Blocks are safe**: after `finish().await` or `cancel().await` no transfer touches them.
//! * **A miss is a result**, with a reason, never an error.
//!
//! # Cookbook
//!
//! Everything below runs on `HostDevice` and a store in memory; on an accelerator and a shared mount only these two lines differ.
//!
//! ```
//! use kv_device::{HostDevice, HostDeviceOptions};
//! use kv_format::{
//!     Dtype, Geometry, AttentionParts, InputDigest, KvGroup, ModelIdentity, Namespace, PagingLayout, Replica, RopePairing, TensorBase,
//! };
//! use kv_pipeline::{LoadRequest, LookupRequest, Pipeline, SaveRequest, StopReason};
//!
//! # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let model = ModelIdentity {
//! #     name: "two-layers".into(), weights: InputDigest([7; 32]), adapters: vec![], weight_quantisation: "none".into(),
//! #     rope_pairing: RopePairing::RotateHalf, rope_theta: 1e4, rope_scaling: "none".into(),
//! #     groups: vec![KvGroup::full_attention(2, 2, 64)],
//! # };
//! // One rank with 2 layers of 2 KV heads: K and V of each layer in a region of its own, 64 blocks of 16 tokens.
//! let paging = PagingLayout::token_major(16, 2, 64);
//! let bytes = 64 * 16 * 2 * 64 * 2;
//! let geometry = Geometry::new(AttentionParts {
//!     dtype: Dtype::Bf16,
//!     rope: RopePairing::RotateHalf,
//!     layers: 0..2,
//!     heads: 0..2,
//!     replica: Replica::ONLY,
//!     key_dim: 64,
//!     value_dim: 64,
//!     block_tokens: 16,
//!     blocks: 64,
//!     key: paging,
//!     value: paging,
//!     tensors: (0..4).map(|region| TensorBase { region, offset: 0 }).collect(),
//!     regions: vec![bytes; 4],
//! })?;
//! let device = HostDevice::new(HostDeviceOptions::default())?;
//! let len = usize::try_from(bytes)?;
//! let memory = (0..4).map(|_| device.allocate(len)).collect::<Result<Vec<_>, _>>()?;
//! memory[0].with(|kv| kv.fill(42)); // the engine prefills
//!
//! let namespace = Namespace::builder(model).build()?;
//! let store = kv_storage::open("memory://").await?;
//! let kv = Pipeline::builder(namespace).device(device).store(store).staging_bytes(8 << 20).build()?;
//! // SAFETY: `memory` outlives `close` below, and nobody touches the blocks of a running transfer.
//! let registered = unsafe { kv.register(geometry, memory.iter().map(|part| part.region()).collect())? };
//!
//! // Save 512 tokens, two chunks, from blocks 0 to 31. Saving them again finds them there.
//! let tokens: Vec<u32> = (0..512).collect();
//! let blocks: Vec<u32> = (0..32).collect();
//! let saved = kv.producer().save(&registered, SaveRequest::new(&tokens).blocks(&blocks))?.finish().await?;
//! assert_eq!(saved.tokens, 512);
//! let again = kv.producer().save(&registered, SaveRequest::new(&tokens).blocks(&blocks))?.finish().await?;
//! assert_eq!(again.deduplicated, saved.objects);
//!
//! // Look up: a hint, before the engine has blocks to spare.
//! let mut longer = tokens.clone();
//! longer.extend(0..256);
//! let hit = kv.consumer().lookup(LookupRequest::new(&longer)).await?;
//! assert_eq!((hit.tokens, hit.stopped), (512, Some(StopReason::NotFound)));
//!
//! // Load into blocks 32 to 63, layer by layer. What comes back is verified; what does not has its reason.
//! let blocks: Vec<u32> = (32..64).collect();
//! let mut load = kv.consumer().load(&registered, LoadRequest::new(&tokens).blocks(&blocks))?;
//! while let Some(layer) = load.next_layer().await? {
//!     println!("layer {layer} may be used");
//! }
//! let loaded = load.finish().await?;
//! assert_eq!((loaded.tokens, loaded.failures.len()), (512, 0));
//! assert!(memory[0].with_shared(|kv| kv[len / 2..].iter().all(|byte| *byte == 42)));
//!
//! // Before the engine frees its memory. What was done stands in `stats`.
//! registered.close().await?;
//! assert_eq!(kv.stats().verify_failures, 0);
//! # Ok(()) }
//! ```
//!
//! # What it is not, and why
//!
//! * **Not a router, a scheduler or an engine.** Whoever routes asks [`Consumer::lookup`]; the blocks are the engine's.
//! * **Not a service.** No process, no port, no coordinator: ranks and clusters meet in the store, so there is nothing more to fail.
//! * **Not a connector of one engine.** It takes block ids, regions and a fence, and no tensor types.
//! * **Not a choice of backends.** It names no concrete device and no concrete store; composition is the caller's.

#![deny(unsafe_code)]

mod blocks;
mod crash;
mod error;
mod existing;
mod handoff;
mod in_order;
mod limits;
mod load;
mod lookup;
mod operation;
mod parts;
mod pipeline;
#[expect(unsafe_code, reason = "registration is the one unsafe step of the API")]
mod register;
mod request;
mod rows;
mod save;
mod stats;

pub use crash::CRASH_POINTS;
pub use error::{Error, ErrorKind, Result};
pub use handoff::{Handoff, Request};
pub use load::{ChunkFailure, Consumer, Load, Loaded, StopReason};
pub use lookup::Lookup;
pub use operation::Canceller;
pub use pipeline::{DEFAULT_PART_BYTES, DEFAULT_STAGING_BYTES, Pipeline, PipelineBuilder};
pub use register::{Geometries, Registered};
pub use request::{DEFAULT_TIMEOUT, Delivery, LoadPolicy, LoadRequest, LookupRequest, SaveRequest};
pub use save::{Producer, Save, Saved};
pub use stats::Stats;
