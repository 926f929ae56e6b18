//! A store of somebody else: one append-only file on a local disk, and an index in memory.
//!
//! It is written against the published traits alone and passes `kv_storage::conformance`. The README walks through it. It is a
//! scratch tier of one process: what it holds is gone when the last handle is, and space comes back only then.
//!
//! ```
//! use custom_store::LogStore;
//! use kv_format::RecordName;
//! use kv_storage::KvStore;
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let folder = tempfile::tempdir()?;
//! let store = LogStore::create(&folder.path().join("scratch"))?;
//! let name = RecordName::request("request-1", 0);
//! store.create_record(&name, b"complete").await?.expect("the name is free");
//! assert_eq!(store.read_record(&name).await?.unwrap().body, b"complete");
//! # Ok(()) }
//! ```
#![forbid(unsafe_code)]

mod log;
mod store;
mod upload;

pub use log::LogStore;
