//! The conformance suite, on the server and on another `ObjectStore`, under wrappers, and with little of everything.

use std::sync::Arc;

use kv_memory::{HugePages, StagingPool};
use kv_storage::s3::{S3Options, S3Store};
use kv_storage::{Fault, KvStore, MemoryStore, Metered, Striped, Tiered, TieredOptions, conformance};

use crate::s3_server::{Server, options};

/// Fails unless both handles together keep the contract.
pub(crate) async fn check(writer: Arc<dyn KvStore>, reader: Arc<dyn KvStore>) {
    if let Err(failure) = conformance::run(Arc::clone(&writer), Arc::clone(&reader)).await {
        panic!("{writer} and {reader}: {failure}");
    }
    writer.idle().await;
    reader.idle().await;
}

/// Two handles with nothing in common but the bucket.
//= SEMANTICS.md#s3-visible
//= SEMANTICS.md#s3-publish-atomic
#[tokio::test(flavor = "multi_thread")]
async fn two_independent_handles_on_a_server() {
    let server = Server::start();
    let writer = server.open(options()).await.unwrap();
    let reader = server.open(options()).await.unwrap();
    assert!(writer.capabilities().atomic_create);
    check(Arc::new(writer), Arc::new(reader)).await;
    let left: Vec<String> = server.keys().into_iter().filter(|key| !key.starts_with("quarantine/")).collect();
    assert!(left.is_empty(), "the suite left {left:?}");
}

#[tokio::test]
async fn one_lane_few_requests_little_staging_on_a_current_thread_runtime() {
    let server = Server::start();
    // The suite has eight uploads of more than 64 KiB open at one time, and one of 5 MiB.
    let pool = StagingPool::new(HugePages::allocate(6 << 20).unwrap(), 64 << 10).unwrap();
    let few = options().threads(1).concurrency(2).staging(pool.clone());
    let writer = server.open(few.clone()).await.unwrap();
    let reader = server.open(few).await.unwrap();
    check(Arc::new(writer), Arc::new(reader)).await;
    assert_eq!(pool.usage().bytes_lent, 0, "staging is back when the store is idle");
}

//= SEMANTICS.md#s3-any-object-store
#[tokio::test(flavor = "multi_thread")]
async fn another_object_store_through_the_same_adapter() {
    let memory = Arc::new(object_store::memory::InMemory::new());
    let open = || {
        S3Store::over(
            Arc::<object_store::memory::InMemory>::clone(&memory),
            "in-memory",
            "a/b",
            S3Options::default(),
        )
    };
    let (writer, reader) = (open().await.unwrap(), open().await.unwrap());
    check(Arc::new(writer), Arc::new(reader)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn metered_and_fault_over_it() {
    let server = Server::start();
    let store: Arc<dyn KvStore> = Arc::new(server.open(options()).await.unwrap());
    check(Arc::new(Metered::new(Arc::clone(&store))), Arc::clone(&store)).await;
    check(Arc::new(Fault::new(Arc::clone(&store))), Arc::new(Fault::new(store))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn striped_and_tiered_over_servers() {
    let servers = [Server::start(), Server::start()];
    let mut striped: Vec<Arc<Striped>> = Vec::new();
    for _ in 0..2 {
        let mut members: Vec<Arc<dyn KvStore>> = Vec::new();
        for server in &servers {
            members.push(Arc::new(server.open(options()).await.unwrap()));
        }
        striped.push(Arc::new(Striped::new(members).unwrap()));
    }
    let [writer, reader] = [&striped[0], &striped[1]].map(Arc::clone);
    check(writer, reader).await;
    // What dropped commits left.
    striped[0].sweep(std::time::Duration::ZERO).await.unwrap();
    for server in &servers {
        let left: Vec<String> =
            server.keys().into_iter().filter(|key| !key.starts_with("quarantine/")).collect();
        assert!(left.is_empty(), "the suite left {left:?}");
    }
    let back: Arc<dyn KvStore> = Arc::new(servers[0].open(options()).await.unwrap());
    let tiered = || {
        Arc::new(Tiered::new(Arc::new(MemoryStore::new()), Arc::clone(&back), TieredOptions::new(1 << 20)))
    };
    check(tiered(), tiered()).await;
}
