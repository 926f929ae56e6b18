//! What the wrappers do to calls, and what they count; and the two stores without files.
#![expect(clippy::unwrap_used, reason = "the functions that tests share are test code too")]

mod fault;
mod health;
mod limit;
mod metered;
mod retry;
mod striped;
mod throttle;
mod tiered;
mod without_files;

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::Duration;

use kv_format::{ChunkKey, NamespaceDigest, ObjectName};
use kv_memory::HostBuf;
use kv_storage::{Fault, KvStore, MemoryStore, Publication, ReadOutcome, ReadPart};

const DEADLINE: Duration = Duration::from_secs(60);

fn name(n: u8) -> ObjectName {
    ObjectName { namespace: NamespaceDigest([1; 32]), key: ChunkKey([n; 32]), chunk_index: 0, slice: 0 }
}

fn part(offset: u64, len: usize) -> ReadPart {
    let mut buffer = HostBuf::copy_of(&vec![0xa5; len.max(1)]).unwrap();
    buffer.set_len(len).unwrap();
    ReadPart { offset, buffer }
}

async fn publish(store: &dyn KvStore, name: &ObjectName, bytes: &[u8]) -> kv_storage::Result<Publication> {
    let upload = store.begin(name, bytes.len() as u64).await?;
    upload.write(0, HostBuf::copy_of(bytes).unwrap()).await.1?;
    upload.commit().await
}

async fn read(store: &dyn KvStore, parts: Vec<ReadPart>) -> kv_storage::Result<Option<Vec<Vec<u8>>>> {
    let ReadOutcome { buffers, result } = store.read(&name(1), parts).await;
    Ok(result?.map(|_| buffers.iter().map(|buffer| buffer.to_vec()).collect()))
}

/// A store that holds `0..100` under `name(1)`, and its faulty wrapper.
async fn faulty() -> (MemoryStore, Fault, Vec<u8>) {
    let store = MemoryStore::new();
    let bytes: Vec<u8> = (0..100).collect();
    publish(&store, &name(1), &bytes).await.unwrap();
    let fault = Fault::new(Arc::new(store.clone()));
    (store, fault, bytes)
}

/// A future that was polled once, and waits.
fn waiting<'a, T>(
    future: impl Future<Output = T> + Send + 'a,
) -> Pin<Box<dyn Future<Output = T> + Send + 'a>> {
    let mut future: Pin<Box<dyn Future<Output = T> + Send + 'a>> = Box::pin(future);
    assert!(is_pending(&mut future), "the call did not wait");
    future
}

/// Whether a future waits still.
fn is_pending<T>(future: &mut Pin<Box<dyn Future<Output = T> + Send + '_>>) -> bool {
    future.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending()
}
