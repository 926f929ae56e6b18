//! A cluster that is a server of somebody else: SeaweedFS shows one tree through its S3 gateway and through a mount, which is reached by two
//! directories. `KVBRIDGE_VAST` names the clusters; `cargo xtask s3-lab` starts the server, mounts it and runs this.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "the functions that tests share are test code too"
)]

#[path = "../remote_store/midway.rs"]
mod midway;
#[path = "../remote_store/process.rs"]
mod process;
#[path = "../remote_store/mod.rs"]
mod remote_store;
mod stopped;
#[path = "../remote_store/stopping.rs"]
mod stopping;

use std::sync::Arc;
use std::time::Duration;

use kv_storage::vast::{CLUSTERS_VARIABLE, Clusters};
use kv_storage::{ErrorKind, GateOptions, KvStore, Vast, VastOptions, conformance};
use tokio::net::TcpListener;
use tokio::time::timeout;

use process::{Process, announce};
use remote_store::RemoteStore;
use remote_store::agent::{Served, serve};

const URL: &str = "vast://weed/kv";
/// A server is given so long to start.
const PATIENCE: Duration = Duration::from_secs(60);

/// The mount takes 50 ms to list an empty directory for the first time, and a namespace has 256: 14 s, which is no failure.
fn options() -> VastOptions {
    VastOptions::default().gate(GateOptions::default().deadline(Some(PATIENCE)))
}

/// Opens the cluster by every path, as soon as the server is up.
async fn open(url: &str) -> Vast {
    let clusters = Clusters::from_environment().await.unwrap();
    let opened = timeout(PATIENCE, async {
        loop {
            match clusters.open(url, options()).await {
                Ok(opened) if opened.left_out.is_empty() => return opened.store,
                Ok(opened) if opened.left_out.iter().all(|error| error.kind() == ErrorKind::Unavailable) => {}
                Err(error) if error.kind() == ErrorKind::Unavailable => {}
                other => panic!("{other:?}"),
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    });
    opened.await.unwrap_or_else(|_| panic!("{url} does not answer within {PATIENCE:?}"))
}

//= SEMANTICS.md#vast-one-namespace
//= SEMANTICS.md#vast-writes
//= SEMANTICS.md#vast-record-kind
/// The suite with its writer here and its reader in another process, and the other way round, both at once.
#[tokio::test(flavor = "multi_thread")]
async fn conformance_over_two_directories_and_the_gateway() {
    if std::env::var_os(CLUSTERS_VARIABLE).is_none() {
        println!("SKIPPED: {CLUSTERS_VARIABLE} is not set; cargo xtask s3-lab sets it");
        return;
    }
    let agent = Process::start("serves_another_process");
    Clusters::from_environment().await.unwrap().format(URL).await.unwrap();
    let vast = open(URL).await;
    let here: Arc<dyn KvStore> = Arc::new(vast.clone());
    let there: Arc<dyn KvStore> = Arc::new(RemoteStore::open(&agent.address, URL).await.unwrap());
    let (one_way, other_way) = tokio::join!(
        conformance::run(Arc::clone(&here), Arc::clone(&there)),
        conformance::run(Arc::clone(&there), Arc::clone(&here)),
    );
    let states = vast.paths();
    if let Err(failure) = one_way.and(other_way) {
        panic!("{failure}\n{states:#?}");
    }
    for state in states {
        println!("{} moved {} bytes, {} fail-overs", state.store, state.moved_bytes, state.failed_over);
        assert!(state.moved_bytes > 0 && state.history.downs == 0, "{state:?}");
    }
    there.idle().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a child process of `conformance_over_two_directories_and_the_gateway`"]
async fn serves_another_process() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    announce(listener.local_addr().unwrap());
    serve(
        listener,
        |url| async move { Ok(Served { store: Arc::new(open(&url).await), warnings: Vec::new() }) },
    )
    .await;
}
