//! One store over several paths: the contract, fail-over, coming back, and the speed of all paths together, in virtual time.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "the functions that tests share are test code too"
)]

mod contract;
mod failing;
mod kinds;
#[cfg(feature = "s3")]
#[path = "../remote_store/midway.rs"]
mod midway;
#[cfg(feature = "vast")]
mod opening;
mod other_kind;
#[cfg(feature = "s3")]
#[path = "../remote_store/process.rs"]
mod process;
#[cfg(feature = "s3")]
#[path = "../s3_server/mod.rs"]
#[expect(dead_code, reason = "the suite of the S3 store uses the rest")]
mod s3_server;
mod slowing;
mod speed;
#[cfg(feature = "s3")]
mod stopped;
#[cfg(feature = "s3")]
#[path = "../remote_store/stopping.rs"]
mod stopping;
mod streams;
mod uploads;

use std::sync::Arc;
use std::time::Duration;

use kv_format::{ChunkKey, NamespaceDigest, ObjectName};
use kv_memory::HostBuf;
use kv_storage::{Fault, KvStore, MemoryStore, Publication, ReadPart, Result, Vast, VastOptions, VastPath};

const SECOND: Duration = Duration::from_secs(1);

fn name(n: u16) -> ObjectName {
    let mut key = [7; 32];
    key[..2].copy_from_slice(&n.to_le_bytes());
    ObjectName { namespace: NamespaceDigest([1; 32]), key: ChunkKey(key), chunk_index: 0, slice: 0 }
}

/// What the object of a name holds.
fn bytes(name: &ObjectName, len: usize) -> Vec<u8> {
    (0..len).map(|at| u8::try_from(at % 251).unwrap() ^ name.key.0[0]).collect()
}

async fn publish(store: &dyn KvStore, name: &ObjectName, bytes: &[u8]) -> Result<Publication> {
    let upload = store.begin(name, bytes.len() as u64).await?;
    upload.write(0, HostBuf::copy_of(bytes).unwrap()).await.1?;
    upload.commit().await
}

fn blank(len: usize) -> HostBuf {
    HostBuf::copy_of(&vec![0xee; len]).unwrap()
}

/// The first `len` bytes of an object, in two parts.
async fn read(store: &dyn KvStore, name: &ObjectName, len: usize) -> Result<Option<Vec<u8>>> {
    let half = len / 2;
    let parts = [(0, half), (half, len - half)];
    let parts = parts.map(|(offset, len)| ReadPart { offset: offset as u64, buffer: blank(len) });
    let outcome = store.read(name, parts.into()).await;
    Ok(outcome.result?.map(|_| outcome.buffers.iter().flat_map(|buffer| buffer.to_vec()).collect()))
}

/// Two faulty paths to one memory.
struct Scene {
    memory: MemoryStore,
    paths: [Fault; 2],
    store: Vast,
}

impl Scene {
    fn new() -> Self {
        let memory = MemoryStore::new();
        let paths = [(); 2].map(|()| Fault::new(Arc::new(memory.clone())));
        let ways = paths.iter().map(|path| VastPath::new("nfs", Arc::new(path.clone()))).collect();
        let store = Vast::new("lab", ways, VastOptions::default()).unwrap();
        Self { memory, paths, store }
    }

    /// An object that is in the store, goes by path `path` first, and has `len` bytes.
    async fn object_by(&self, path: usize, len: usize) -> (ObjectName, Vec<u8>) {
        for n in 0..64 {
            let name = name(n);
            let before = self.paths[path].total_calls();
            self.store.head(&name).await.unwrap();
            if self.paths[path].total_calls() > before && self.memory.head(&name).await.unwrap().is_none() {
                let bytes = bytes(&name, len);
                publish(&self.memory, &name, &bytes).await.unwrap();
                return (name, bytes);
            }
        }
        panic!("no name prefers path {path}");
    }
}
