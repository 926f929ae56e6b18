//! The suite with its writer and its reader in different processes, which have nothing in common but the server.

use std::sync::Arc;

use kv_storage::KvStore;
use kv_storage::s3::S3Store;
use tokio::net::TcpListener;

use crate::contract::check;
use crate::process::{Process, announce};
use crate::remote_store::RemoteStore;
use crate::remote_store::agent::{Served, serve};
use crate::s3_server::{Server, options};

//= SEMANTICS.md#s3-contract
#[tokio::test(flavor = "multi_thread")]
async fn the_writer_in_one_process_and_the_reader_in_another() {
    let (server, agent) = (Server::start(), Process::start("processes::serves_another_process"));
    let here: Arc<dyn KvStore> = Arc::new(server.open(options()).await.unwrap());
    let there: Arc<dyn KvStore> = Arc::new(RemoteStore::open(&agent.address, &server.url()).await.unwrap());
    check(Arc::clone(&here), Arc::clone(&there)).await;
    check(there, here).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a child process of `the_writer_in_one_process_and_the_reader_in_another`"]
async fn serves_another_process() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    announce(listener.local_addr().unwrap());
    serve(listener, |url| async move {
        let store = S3Store::open(&url, options()).await?;
        Ok(Served { store: Arc::new(store), warnings: Vec::new() })
    })
    .await;
}
