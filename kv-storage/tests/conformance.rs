//! Every store, and every wrapper over it, keeps the contract.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "the functions that tests share are test code too"
)]

mod engines;

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
    let root = tempfile::tempdir().unwrap();
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
//= SEMANTICS.md#engine-same
#[tokio::test(flavor = "multi_thread")]
async fn posix_with_two_independent_handles() {
    for engine in engines::engines(&std::env::temp_dir()).await {
        let (_root, writer, reader) = posix_pair(PosixOptions::default().io(engine)).await;
        assert_eq!(writer.io_engine().engine(), engine);
        check(Arc::new(writer.clone()), Arc::new(reader.clone())).await;
        writer.idle().await;
        reader.idle().await;
    }
}

//= SEMANTICS.md#engine-page-cache
#[tokio::test(flavor = "multi_thread")]
async fn posix_with_a_writer_past_the_page_cache_and_a_reader_through_it() {
    let engines = engines::engines(&std::env::temp_dir()).await;
    for (write, read) in engines.iter().flat_map(|write| engines.iter().map(move |read| (*write, *read))) {
        let root = tempfile::tempdir().unwrap();
        let writer = PosixStore::open(root.path(), PosixOptions::default().io(write)).await.unwrap();
        let reader = PosixStore::open(root.path(), PosixOptions::default().io(read)).await.unwrap();
        check(Arc::new(writer), Arc::new(reader)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn posix_without_flushing_on_one_thread() {
    for engine in engines::engines(&std::env::temp_dir()).await {
        let options = PosixOptions::default().io(engine).fsync(FsyncPolicy::None).threads(1).queue(2);
        let (_root, writer, reader) = posix_pair(options).await;
        check(Arc::new(writer), Arc::new(reader)).await;
    }
}

#[tokio::test]
async fn posix_on_a_current_thread_runtime() {
    for engine in engines::engines(&std::env::temp_dir()).await {
        let options = PosixOptions::default().io(engine).fsync(FsyncPolicy::CloseToOpen);
        let (_root, writer, reader) = posix_pair(options).await;
        check(Arc::new(writer), Arc::new(reader)).await;
    }
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
    for engine in engines::engines(&std::env::temp_dir()).await {
        let (_root, writer, reader) =
            posix_pair(PosixOptions::default().io(engine).fsync(FsyncPolicy::None)).await;
        let writer: Arc<dyn KvStore> = Arc::new(writer);
        let reader: Arc<dyn KvStore> = Arc::new(reader);
        check(Arc::new(Metered::new(Arc::clone(&writer))), Arc::new(Metered::new(Arc::clone(&reader)))).await;
        check(Arc::new(Fault::new(writer)), Arc::new(Fault::new(reader))).await;
    }
}
