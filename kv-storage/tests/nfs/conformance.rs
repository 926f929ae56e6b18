//! The suite of every store, with its writer on one host and its reader on the other.

use std::sync::Arc;

use kv_storage::{KvStore, conformance};

use crate::lab::{Mounted, TwoHosts};

async fn check(writer: Arc<dyn KvStore>, reader: Arc<dyn KvStore>) {
    if let Err(failure) = conformance::run(Arc::clone(&writer), Arc::clone(&reader)).await {
        panic!("{writer} and {reader}: {failure}");
    }
    writer.idle().await;
    reader.idle().await;
}

//= SEMANTICS.md#nfs-contract
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs two hosts: cargo xtask nfs-lab"]
async fn writer_here_and_reader_there() {
    let hosts = TwoHosts::on(Mounted::Recommended).await;
    check(Arc::new(hosts.here), Arc::new(hosts.there)).await;
}

//= SEMANTICS.md#nfs-contract
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs two hosts: cargo xtask nfs-lab"]
async fn writer_there_and_reader_here() {
    let hosts = TwoHosts::on(Mounted::Recommended).await;
    check(Arc::new(hosts.there), Arc::new(hosts.here)).await;
}
