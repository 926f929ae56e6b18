//! The other host's side: serves stores on its mounts to the tests on host a.

use std::path::Path;
use std::sync::Arc;

use kv_storage::{PosixOptions, PosixStore};
use tokio::net::TcpListener;

use crate::lab::{control, variable_of_the_lab};
use crate::remote_store::agent::{Served, serve};

#[tokio::test(flavor = "multi_thread")]
#[ignore = "host b's side of `cargo xtask nfs-lab`"]
async fn serves_until_the_lab_ends() {
    let listener = TcpListener::bind(variable_of_the_lab("KV_NFS_AGENT")).await.unwrap();
    control("agent-listens");
    serve(listener, |root| async move {
        let store = PosixStore::open(Path::new(&root), PosixOptions::default().format_if_empty(true)).await?;
        let warnings = store.warnings().iter().map(ToString::to_string).collect();
        Ok(Served { store: Arc::new(store), warnings })
    })
    .await;
}
