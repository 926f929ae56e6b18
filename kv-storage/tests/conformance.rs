//! Every store, and every wrapper over it, keeps the contract.
#![expect(clippy::unwrap_used, clippy::panic, reason = "the functions that tests share are test code too")]

use std::sync::Arc;

use kv_storage::posix::FsyncPolicy;
use kv_storage::{Fault, KvStore, MemoryStore, Metered, PosixOptions, PosixStore, conformance};

async fn check(writer: Arc<dyn KvStore>, reader: Arc<dyn KvStore>) {
    if let Err(failure) = conformance::run(Arc::clone(&writer), reader).await {
        panic!("{writer}: {failure}");
    }
}

/// Two handles to one directory with nothing in common but the files.
async fn posix_pair(options: PosixOptions) -> (tempfile::TempDir, PosixStore, PosixStore) {
    // A suite makes dozens of namespaces of 256 directories, which takes a disk a while: it is asked once, with flushing.
    let root = match options.fsync {
        FsyncPolicy::Durable => tempfile::tempdir(),
        _ => tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()),
    };
    let root = root.unwrap();
    let options = options.format_if_empty(true);
    let writer = PosixStore::open(root.path(), options.clone()).await.unwrap();
    let reader = PosixStore::open(root.path(), options).await.unwrap();
    (root, writer, reader)
}

//= SEMANTICS.md#memory-shared
#[tokio::test(flavor = "multi_thread")]
async fn memory() {
    let store = MemoryStore::new();
    check(Arc::new(store.clone()), Arc::new(store)).await;
}

//= SEMANTICS.md#posix-visible
#[tokio::test(flavor = "multi_thread")]
async fn posix_with_two_independent_handles() {
    let (_root, writer, reader) = posix_pair(PosixOptions::default()).await;
    check(Arc::new(writer.clone()), Arc::new(reader.clone())).await;
    writer.idle().await;
    reader.idle().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn posix_without_flushing_on_one_thread() {
    let options = PosixOptions::default().fsync(FsyncPolicy::None).threads(1).queue(2);
    let (_root, writer, reader) = posix_pair(options).await;
    check(Arc::new(writer), Arc::new(reader)).await;
}

#[tokio::test]
async fn posix_on_a_current_thread_runtime() {
    let (_root, writer, reader) = posix_pair(PosixOptions::default().fsync(FsyncPolicy::CloseToOpen)).await;
    check(Arc::new(writer), Arc::new(reader)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn metered_and_fault_over_memory() {
    let store: Arc<dyn KvStore> = Arc::new(MemoryStore::new());
    let metered = Metered::new(Arc::clone(&store));
    check(Arc::new(metered.clone()), Arc::clone(&store)).await;
    assert_eq!(metered.snapshot().in_flight, 0);
    let fault = Fault::new(store);
    check(Arc::new(fault.clone()), Arc::new(fault)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn metered_and_fault_over_posix() {
    let (_root, writer, reader) = posix_pair(PosixOptions::default().fsync(FsyncPolicy::None)).await;
    let writer: Arc<dyn KvStore> = Arc::new(writer);
    let reader: Arc<dyn KvStore> = Arc::new(reader);
    check(Arc::new(Metered::new(Arc::clone(&writer))), Arc::new(Metered::new(Arc::clone(&reader)))).await;
    check(Arc::new(Fault::new(writer)), Arc::new(Fault::new(reader))).await;
}
