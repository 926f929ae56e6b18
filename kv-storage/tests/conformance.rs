//! Every store, and every wrapper over it, keeps the contract.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "the functions that tests share are test code too"
)]

mod engines;

use std::sync::Arc;
use std::time::Duration;

use kv_storage::posix::FsyncPolicy;
use kv_storage::{
    Fault, GateOptions, HealthGate, KvStore, Limit, MemoryStore, Metered, PosixOptions, PosixStore,
    RetryOptions, Retrying, Striped, Throttle, ThrottleOptions, Tiered, TieredOptions, Vast, VastOptions,
    VastPath, conformance,
};

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
    for store in [MemoryStore::new(), MemoryStore::with_threads(2)] {
        check(Arc::new(store.clone()), Arc::new(store)).await;
    }
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
        let open =
            |engine| PosixStore::open(root.path(), PosixOptions::default().io(engine).format_if_empty(true));
        let writer = open(write).await.unwrap();
        let reader = open(read).await.unwrap();
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
    for engine in engines::engines(&std::env::temp_dir()).await {
        let options = PosixOptions::default().io(engine).fsync(FsyncPolicy::None);
        let (_root, writer, reader) = posix_pair(options).await;
        let (writer, reader): (Arc<dyn KvStore>, Arc<dyn KvStore>) = (Arc::new(writer), Arc::new(reader));
        for (name, wrap) in WRAPPERS {
            println!("{name} over {engine:?}");
            check(wrap(Arc::clone(&writer)), wrap(Arc::clone(&reader))).await;
        }
    }
}

/// A writer's handle and a reader's.
type Pair = (Arc<dyn KvStore>, Arc<dyn KvStore>);

/// What makes one store of several, as pairs of handles to the same things.
fn composed() -> [(&'static str, Pair); 3] {
    let memory = MemoryStore::new();
    let vast = || {
        let paths = (0..2).map(|_| VastPath::new("memory", Arc::new(memory.clone()))).collect();
        Arc::new(Vast::new("lab", paths, VastOptions::default()).unwrap())
    };
    let members: Vec<Arc<dyn KvStore>> = (0..3).map(|_| Arc::new(MemoryStore::new()) as _).collect();
    let striped = || Arc::new(Striped::new(members.clone()).unwrap());
    let behind = MemoryStore::new();
    let tiered = || {
        let front = Arc::new(MemoryStore::new());
        Arc::new(Tiered::new(front, Arc::new(behind.clone()), TieredOptions::new(1 << 20)))
    };
    [
        ("vast over memory", (vast(), vast())),
        ("striped over memory", (striped(), striped())),
        ("tiered over memory", (tiered(), tiered())),
    ]
}

//= SEMANTICS.md#striped-whole
//= SEMANTICS.md#tiered-checked
#[tokio::test(flavor = "multi_thread")]
async fn several_stores_as_one_and_every_wrapper_over_them() {
    for (name, (writer, reader)) in composed() {
        println!("{name}");
        check(Arc::clone(&writer), Arc::clone(&reader)).await;
        for (wrapper, wrap) in WRAPPERS {
            println!("{wrapper} over {name}");
            check(wrap(Arc::clone(&writer)), wrap(Arc::clone(&reader))).await;
        }
    }
}

//= SEMANTICS.md#striped-whole
#[tokio::test(flavor = "multi_thread")]
async fn striped_and_tiered_over_posix() {
    let fast = || PosixOptions::default().fsync(FsyncPolicy::None);
    let (_one, writer_one, reader_one) = posix_pair(fast()).await;
    let (_two, writer_two, reader_two) = posix_pair(fast()).await;
    let striped = |one: &PosixStore, two: &PosixStore| -> Arc<dyn KvStore> {
        Arc::new(Striped::new(vec![Arc::new(one.clone()), Arc::new(two.clone())]).unwrap())
    };
    check(striped(&writer_one, &writer_two), striped(&reader_one, &reader_two)).await;
    // A directory as the tier of the writer, memory as that of the reader.
    let (_tier, nvme, _) = posix_pair(fast()).await;
    let tiered = |front: Arc<dyn KvStore>, back: &PosixStore| -> Arc<dyn KvStore> {
        Arc::new(Tiered::new(front, Arc::new(back.clone()), TieredOptions::new(1 << 20)))
    };
    check(tiered(Arc::new(nvme), &writer_one), tiered(Arc::new(MemoryStore::new()), &reader_one)).await;
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
