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
//! let store = kv_storage::open("file:///mnt/kv-cache").await?;
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
//! * **No unverified byte reaches an engine.** Every section is checked before any byte of its chunk is written; a chunk that fails
//!   leaves the engine's blocks as they were.
//! * **Memory is bounded**: a fixed pool of staging parts, whatever the context length. When it is empty, work waits.
//! * **Every wait has a deadline.** What a dead store still holds is counted as stranded, and given back when it lets go.
//! * **Blocks are safe**: after `finish().await` or `cancel().await` no transfer touches them.
//! * **A miss is a result**, with a reason, never an error.
//!
//! # What it is not
//!
//! No router, no scheduler, no engine; it names no concrete device and no concrete store. Composition is the caller's.

#![deny(unsafe_code)]

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
mod save;
mod stats;

pub use crash::CRASH_POINTS;
pub use error::{Error, ErrorKind, Result};
pub use handoff::{Handoff, Request};
pub use load::{ChunkFailure, Consumer, Load, Loaded, StopReason};
pub use lookup::Lookup;
pub use operation::Canceller;
pub use pipeline::{DEFAULT_PART_BYTES, DEFAULT_STAGING_BYTES, Pipeline, PipelineBuilder};
pub use register::Registered;
pub use request::{DEFAULT_TIMEOUT, LoadPolicy, LoadRequest, SaveRequest};
pub use save::{Producer, Save, Saved};
pub use stats::Stats;
