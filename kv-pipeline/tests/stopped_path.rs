//! Saves and loads over two paths to one store, of which one is a process that is stopped (SIGSTOP) in the middle and goes on later.

#![expect(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "a test fails by panicking")]

mod common;
#[path = "../../kv-storage/tests/remote_store/process.rs"]
mod process;
#[path = "../../kv-storage/tests/remote_store/mod.rs"]
mod remote_store;
#[path = "../../kv-storage/tests/remote_store/stopping.rs"]
mod stopping;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use common::*;
use kv_format::*;
use kv_pipeline::*;
use kv_storage::{
    Fault, GateOptions, KvStore, Operation, PosixOptions, PosixStore, RetryOptions, Retrying, Vast,
    VastOptions, VastPath,
};
use process::{Process, announce};
use remote_store::RemoteStore;
use remote_store::agent::{Served, serve};
use stopping::{resume, stop};
use tokio::net::TcpListener;

const COUNT: u32 = 8 * CHUNK;

/// A directory, and another process that serves it.
struct Cluster {
    folder: tempfile::TempDir,
    agent: Process,
    /// By the agent, which is stopped, and directly.
    paths: [Fault; 2],
    /// Calls by the agent that it never began to answer.
    refused: Arc<AtomicU64>,
}

async fn posix(root: &Path) -> PosixStore {
    PosixStore::open(root, PosixOptions::default().format_if_empty(true)).await.unwrap()
}

impl Cluster {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let direct = posix(folder.path()).await;
        let agent = Process::start("serves_another_process");
        let by_agent = RemoteStore::open(&agent.address, folder.path().to_str().unwrap()).await.unwrap();
        let paths: [Arc<dyn KvStore>; 2] = [Arc::new(by_agent), Arc::new(direct)];
        Self { folder, agent, paths: paths.map(Fault::new), refused: Arc::default() }
    }

    /// The first `count` paths as one store, behind a wrapper as in production.
    fn store(&self, count: usize) -> (Vast, Arc<dyn KvStore>) {
        let ways = self.paths[..count].iter().map(|path| VastPath::new("file", Arc::new(path.clone())));
        let millis = Duration::from_millis;
        let gate = GateOptions::default().deadline(Some(millis(500))).failures(3);
        let gate = gate.probe_deadline(millis(500)).intervals(millis(50), millis(200));
        let vast = Vast::new("lab", ways.collect(), VastOptions::default().gate(gate)).unwrap();
        (vast.clone(), Arc::new(Retrying::new(Arc::new(vast), RetryOptions::default())))
    }

    /// From now on the agent stops before the second call of that kind, and every such call is counted.
    fn stops_at_the_second(&self, operation: Operation) {
        let (agent, refused, before) =
            (self.agent.child.id(), Arc::clone(&self.refused), self.paths[0].calls(operation));
        self.paths[0].on_call(move |call| {
            if call.operation == operation
                && call.number >= before + 2
                && refused.fetch_add(1, Ordering::Relaxed) == 0
            {
                stop(agent);
            }
        });
    }

    /// The agent goes on, its path comes back, and what was on its way by it has ended.
    async fn goes_on(&self, vast: &Vast) {
        assert!(self.refused.load(Ordering::Relaxed) > 0, "the agent was not stopped");
        resume(self.agent.child.id());
        self.paths[0].on_call(|_| {});
        let comes_back = async {
            while vast.paths()[0].health.down {
                // Without another path it fails until this one is back.
                let found = vast.head(&name()).await;
                assert!(found.is_ok() || vast.paths().len() == 1, "{found:?}");
                tokio::task::yield_now().await;
            }
            vast.idle().await;
        };
        tokio::time::timeout(PATIENCE, comes_back).await.unwrap();
    }
}

fn name() -> ObjectName {
    ObjectName { namespace: NamespaceDigest([1; 32]), key: ChunkKey([1; 32]), chunk_index: 0, slice: 0 }
}

//= SEMANTICS.md#vast-hang
//= SEMANTICS.md#vast-upload
#[tokio::test(flavor = "multi_thread")]
async fn a_save_and_a_load_whose_path_stops_in_the_middle_end_by_the_other() {
    let expected = contents(&saved(&namespace(), COUNT).await, &namespace()).await;
    for delivery in [Delivery::WholeChunk, Delivery::AsVerified] {
        let cluster = Cluster::start().await;
        let (vast, store) = cluster.store(2);
        let producer = Rank::new(namespace(), Arc::clone(&store), amd_like(0..HEADS, Replica::ONLY));
        producer.prefill(COUNT);
        cluster.stops_at_the_second(Operation::Commit);
        assert_eq!(producer.save(&tokens(COUNT)).await.unwrap().tokens, COUNT);
        cluster.goes_on(&vast).await;
        producer.assert_at_rest();
        // What the agent still had of the first attempts changes nothing.
        assert_eq!(contents(&posix(cluster.folder.path()).await, &namespace()).await, expected);

        cluster.refused.store(0, Ordering::Relaxed);
        let (vast, store) = cluster.store(2);
        let consumer = Rank::new(namespace(), store, gaudi_like(0..HEADS, Replica::ONLY));
        cluster.stops_at_the_second(Operation::Read);
        let tokens = tokens(COUNT);
        let request = LoadRequest::new(&tokens).blocks(&consumer.blocks).delivery(delivery).timeout(PATIENCE);
        let load = consumer.kv.consumer().load(&consumer.registered, request).unwrap();
        let loaded = load.finish().await.unwrap();
        assert_eq!(loaded.tokens, COUNT, "{delivery:?}: {:?}", loaded.failures);
        consumer.assert_holds(COUNT);
        cluster.goes_on(&vast).await;
        consumer.assert_holds(COUNT);
        consumer.assert_at_rest();
        assert_eq!(consumer.kv.stats().objects_quarantined, 0);
    }
}

/// What was loaded before is right and whole, and the rest has a reason.
//= SEMANTICS.md#vast-all-down
#[tokio::test(flavor = "multi_thread")]
async fn a_load_whose_only_path_stops_in_the_middle_is_a_miss_from_there_on() {
    let cluster = Cluster::start().await;
    let (_, both) = cluster.store(2);
    let producer = Rank::new(namespace(), both, amd_like(0..HEADS, Replica::ONLY));
    producer.prefill(COUNT);
    producer.save(&tokens(COUNT)).await.unwrap();

    let (vast, store) = cluster.store(1);
    let consumer = Rank::new(namespace(), store, gaudi_like(0..HEADS, Replica::ONLY));
    cluster.stops_at_the_second(Operation::Read);
    let loaded = consumer.load(&tokens(COUNT)).await.unwrap();
    assert!(loaded.tokens < COUNT);
    assert_eq!(loaded.failures[0].reason, StopReason::Unavailable, "{:?}", loaded.failures);
    consumer.assert_holds(loaded.tokens);
    cluster.goes_on(&vast).await;
    consumer.assert_at_rest();
    assert_eq!(consumer.load(&tokens(COUNT)).await.unwrap().tokens, COUNT);
    consumer.assert_holds(COUNT);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a child process of the tests above"]
async fn serves_another_process() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    announce(listener.local_addr().unwrap());
    let open = |root: String| async move {
        Ok(Served { store: Arc::new(posix(Path::new(&root)).await), warnings: Vec::new() })
    };
    serve(listener, open).await;
}
