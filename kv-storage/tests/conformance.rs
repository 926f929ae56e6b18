//! Every store, and every wrapper over it, keeps the contract.
#![expect(clippy::unwrap_used, clippy::panic, reason = "the functions that tests share are test code too")]

use std::sync::Arc;
use std::time::Duration;

use kv_storage::posix::FsyncPolicy;
use kv_storage::{
    Fault, GateOptions, HealthGate, KvStore, Limit, MemoryStore, Metered, PosixOptions, PosixStore,
    RetryOptions, Retrying, Throttle, ThrottleOptions, conformance,
};

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

/// Every wrapper, with settings that come into play.
type Wrap = fn(Arc<dyn KvStore>) -> Arc<dyn KvStore>;
const WRAPPERS: [(&str, Wrap); 6] = [
    ("metered", |store| Arc::new(Metered::new(store))),
    ("fault", |store| Arc::new(Fault::new(store))),
    ("retrying", |store| Arc::new(Retrying::new(store, RetryOptions::default()))),
    ("throttle", |store| Arc::new(Throttle::new(store, throttled()))),
    ("limit", |store| Arc::new(Limit::new(store, 3, 100_000))),
    ("health gate", |store| Arc::new(HealthGate::new(store, GateOptions::default()))),
];

fn throttled() -> ThrottleOptions {
    let rate = 200 << 20;
    let latency = Duration::from_micros(100);
    ThrottleOptions::default().read_bytes_per_second(rate).write_bytes_per_second(rate).latency(latency)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_wrapper_over_memory() {
    for (name, wrap) in WRAPPERS {
        println!("{name}");
        let store: Arc<dyn KvStore> = Arc::new(MemoryStore::new());
        check(wrap(Arc::clone(&store)), wrap(store)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_wrapper_over_posix() {
    let (_root, writer, reader) = posix_pair(PosixOptions::default().fsync(FsyncPolicy::None)).await;
    let (writer, reader): (Arc<dyn KvStore>, Arc<dyn KvStore>) = (Arc::new(writer), Arc::new(reader));
    for (name, wrap) in WRAPPERS {
        println!("{name}");
        check(wrap(Arc::clone(&writer)), wrap(Arc::clone(&reader))).await;
    }
}

/// As they stand in a rank: the retries outside, so that they see what the gate answers.
#[tokio::test(flavor = "multi_thread")]
async fn all_wrappers_at_once() {
    let (_root, writer, reader) = posix_pair(PosixOptions::default().fsync(FsyncPolicy::None)).await;
    let wrap = |store: PosixStore| {
        let store: Arc<dyn KvStore> = Arc::new(store);
        WRAPPERS.into_iter().rev().fold(store, |store, (_, wrap)| wrap(store))
    };
    check(wrap(writer), wrap(reader)).await;
}
