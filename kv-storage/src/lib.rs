//! Where a KV cache rests: immutable objects and small records, in memory, on disk, or behind whatever implements [`KvStore`].
//!
//! | store | URL | what it is for |
//! |---|---|---|
//! | [`MemoryStore`] | `memory://` | tests, simulation, a fast tier in one process |
//! | [`NullStore`] | `null://` | measuring everything above the store; saving switched off |
//! | `PosixStore` (feature `posix`) | `file:///absolute/path` | a local disk or tmpfs shared by the processes of a host, or an NFS mount shared by hosts |
//! | `S3Store` (feature `s3`) | `s3://bucket/prefix` | a bucket shared by hosts, and any `object_store::ObjectStore` |
//! | `PosixStore` with `IoEngine::Nixl` (feature `nixl`) | `nixl+posix:///absolute/path` | a directory whose bytes NIXL moves |
//! | `nixl::NixlObjStore` (features `nixl`, `s3`) | `nixl+obj://bucket/prefix` | a bucket that NIXL reads |
//! | [`Vast`] | `vast://cluster/directory` (feature `vast`), over paths to one namespace | several mounts or endpoints of one cluster: their speed together, and none of them missed |
//! | [`Tiered`] | over two others | a bounded copy in memory or NVMe of what a slower store has |
//! | [`Striped`] | over independent others | each object in all of them |
//! | [`Fault`] | wraps another | scripted faults: errors, hangs, damage, lost answers |
//! | [`Metered`] | wraps another | counts calls, bytes, errors, and what is in flight |
//! | [`HealthGate`] | wraps another | deadlines; fails at once while the store hangs or fails, and probes it until it is well |
//! | [`Retrying`] | wraps another | makes unanswered calls again, within one budget |
//! | [`Throttle`] | wraps another | bytes per second each way, latency |
//! | [`Limit`] | wraps another | calls and bytes in flight, first come, first served |
//!
//! What each store promises stands in `SEMANTICS.md`, sentence by sentence, each with a
//! test; [`conformance`] checks the common part for any store, ours or yours.
//!
//! # What it is not, and why not `object_store`
//!
//! The crate `object_store` is the model for much here: a small trait, `Display` as identity, wrappers that are stores. It moves
//! `Bytes` that it allocates itself; KV caches move through pinned staging buffers that DMA engines write, in parts, at tens of
//! GB/s. So here:
//!
//! * **buffers go in by value and come back** with the result, also after an error; a dropped future leaves its buffers with the
//!   operation, so that memory under a transfer is never freed and nothing is copied to be safe;
//! * **publication is create-only** and says [`Published`](Publication::Published) or
//!   [`AlreadyExists`](Publication::AlreadyExists); names are digests, so that ids never become paths;
//! * **hung backends are bounded**: calls that their callers gave up are counted
//!   [`stranded`](StoreHealth::stranded), and at a bound the store says so instead of queueing more.
//!
//! It is not a file system, a general object client, or a cache with an eviction policy: it stores what it is told under the name
//! it is told. Stores never retry and never set deadlines; callers do, or put [`Retrying`] and [`HealthGate`] before them. [`open`]
//! puts a gate before directories. (The S3 store does both within one call, since only it knows what a lost answer left behind; a
//! caller's deadline still ends the call.)
//!
//! # Wrappers
//!
//! A wrapper is a store, so that they stack: `Retrying(HealthGate(Limit(store)))` waits in the queue within the gate's deadline, and
//! is told at once when the store is down. Those that let calls pass and act at the door are [`parts::Passage`]s with a
//! [`parts::Rule`], and yours can be one.
//!
//! # Cookbook
//!
//! Publish an object, and read a range of it back:
//!
//! ```
//! use kv_format::{ChunkKey, NamespaceDigest, ObjectName};
//! use kv_memory::{HugePages, StagingPool};
//! use kv_storage::{Publication, ReadPart};
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let store = kv_storage::open("memory://").await?;
//! let pool = StagingPool::new(HugePages::allocate(4 << 20)?, 1 << 20)?;
//! let name = ObjectName {
//!     namespace: NamespaceDigest([1; 32]),
//!     key: ChunkKey([2; 32]),
//!     chunk_index: 0,
//!     slice: 0,
//! };
//!
//! let upload = store.begin(&name, 2 << 20).await?;
//! for part in 0..2 {
//!     let mut buffer = pool.acquire().await;
//!     buffer.fill(part);
//!     let (_buffer, written) = upload.write(u64::from(part) << 20, buffer).await;
//!     written?; // the buffer is back either way
//! }
//! assert_eq!(upload.commit().await?, Publication::Published);
//!
//! let mut buffer = pool.acquire().await;
//! buffer.set_len(4096)?;
//! let read = store.read(&name, vec![ReadPart { offset: 1 << 20, buffer }]).await;
//! match read.result? {
//!     Some(meta) => assert_eq!((meta.len, read.buffers[0][0]), (2 << 20, 1)),
//!     None => println!("a miss: recompute"),
//! }
//! # Ok(()) }
//! ```
//!
//! A record that one owner replaces and others read:
//!
//! ```
//! use kv_format::RecordName;
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), kv_storage::Error> {
//! let store = kv_storage::open("memory://").await?;
//! let name = RecordName::request("request-17", 0);
//! let version = store.create_record(&name, b"saving").await?.expect("the id is new");
//! store.replace_record(&name, &version, b"complete").await?.expect("we own it");
//! assert_eq!(store.read_record(&name).await?.unwrap().body, b"complete");
//! # Ok(()) }
//! ```
//!
//! A directory is made a store once, and opened ever after:
//!
//! ```
//! # #[cfg(feature = "posix")]
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let folder = tempfile::tempdir()?;
//! # let url = &format!("file://{}", folder.path().display());
//! let formatted = kv_storage::format(url).await?; // "file:///mnt/kv-cache"
//! assert!(formatted);
//! let store = kv_storage::open(url).await?;
//! # let _ = store;
//! # Ok(()) }
//! # #[cfg(not(feature = "posix"))]
//! # fn main() {}
//! ```
//!
//! What to do about an error is its [`kind`](Error::kind):
//!
//! ```
//! use kv_storage::ErrorKind;
//! # #[tokio::main(flavor = "current_thread")] async fn main() {
//! let error = kv_storage::open("file:///no/such/directory").await.unwrap_err();
//! # #[cfg(feature = "posix")]
//! assert_eq!(error.kind(), ErrorKind::Invalid);
//! println!("{error}"); // posix:/no/such/directory: no such directory: expected the existing root ...
//! # }
//! ```
//!
//! Test what is above a store against its faults:
//!
//! ```
//! use std::sync::Arc;
//! use kv_format::RecordName;
//! use kv_storage::fault::{Injection, When};
//! use kv_storage::{ErrorKind, Fault, KvStore, MemoryStore, Operation, Retry};
//! # #[tokio::main(flavor = "current_thread")] async fn main() {
//! let store = Fault::new(Arc::new(MemoryStore::new()));
//! store.inject(When::nth(Operation::ReadRecord, 1), Injection::Fail(ErrorKind::Unavailable));
//! let error = store.read_record(&RecordName::request("request-17", 0)).await.unwrap_err();
//! assert_eq!(error.retry(), Retry::Later); // never `None`: "I do not know" is not "it is not there"
//! # }
//! ```
//!
//! # A store of your own
//!
//! Implement [`KvStore`] and [`Upload`] on the [`parts`] that ours are made of, and put the result through the suite in a
//! test. The repository's `examples/custom_store` walks through it.
//!
//! ```
//! # #[cfg(feature = "conformance")]
//! # async fn check(store: std::sync::Arc<dyn kv_storage::KvStore>) -> Result<(), kv_storage::conformance::Failure> {
//! kv_storage::conformance::run(store.clone(), store).await // a writer's handle and a reader's, on one host or on two
//! # }
//! ```
//!
//! # Features
//!
//! * `posix` (default): the store on a directory.
//! * `io-uring`: its io_uring engine for disks, chosen by `PosixOptions::io`. It brings an unsafe module, which tells the kernel addresses.
//! * `nixl`: NIXL as what moves the bytes (Linux), loaded when a store asks for it. It brings unsafe modules, which load and call it.
//! * `s3`: the store on S3 and on any `object_store::ObjectStore`.
//! * `gcs`, `azure`: the same on Google's and Azure's servers; not tried on the real ones.
//! * `vast`: clusters by name and the storage section of a configuration file.
//! * `conformance`: the suite for implementors.
#![cfg_attr(not(any(feature = "io-uring", feature = "nixl")), forbid(unsafe_code))]
#![deny(unsafe_code)]
#![cfg_attr(docsrs, feature(doc_cfg))]

#[cfg(feature = "conformance")]
pub mod conformance;
pub mod env;
mod error;
pub mod fault;
pub mod health;
pub mod limit;
mod memory;
pub mod metered;
#[cfg(feature = "nixl")]
pub mod nixl;
mod null;
mod open;
mod operation;
pub mod parts;
mod passage;
#[cfg(feature = "posix")]
pub mod posix;
pub mod probe;
pub mod retry;
#[cfg(feature = "s3")]
pub mod s3;
mod store;
mod streaming;
pub mod striped;

pub mod throttle;
pub mod tiered;

pub mod vast;

pub use error::{Error, ErrorKind, Result, Retry};
pub use fault::Fault;
pub use health::{GateOptions, HealthGate};
pub use limit::Limit;
pub use memory::MemoryStore;
pub use metered::{Metered, OperationMetrics, Snapshot};
#[cfg(feature = "nixl")]
pub use nixl::NixlOptions;
pub use null::NullStore;
pub use open::{format, open};
pub use operation::Operation;
#[cfg(feature = "posix")]
pub use posix::{FormatOptions, PosixOptions, PosixStore};
pub use probe::{ProbeReport, probe};
pub use retry::{RetryOptions, Retrying};
#[cfg(feature = "s3")]
pub use s3::{S3Options, S3Store};
pub use store::{
    Capabilities, DownReason, KvStore, MAX_RECORD_BYTES, ObjectMeta, Publication, ReadOutcome, ReadPart,
    Record, Setback, StoreHealth, Upload, Version, WriteOrder,
};
pub use streaming::{ByteRange, Next, ReadSink, WriteSource};

pub use striped::Striped;
pub use throttle::{Throttle, ThrottleOptions};
pub use tiered::{Tiered, TieredOptions};

pub use vast::{Vast, VastOptions, VastPath};
