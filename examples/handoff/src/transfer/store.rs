//! Formatting and opening the store by its URL, in the time that the job gives it.

use std::sync::Arc;
use std::time::Duration;

use super::Storage;
use anyhow::{Context, Result, anyhow, ensure};
use kv_storage::vast::Clusters;
use kv_storage::{KvStore, VastOptions};
use tokio::runtime::{Builder, Runtime};
use tokio::time::timeout;

/// Opens a store; the errors say what was expected.
pub(super) async fn open(storage: &Storage, deadline: Duration) -> Result<Arc<dyn KvStore>> {
    let opened = timeout(deadline, kv_storage::open(&storage.url)).await;
    let opened = opened.map_err(|_| too_slow(&storage.url, deadline))?;
    // The message is the whole sentence; its sources only repeat parts of it.
    let store = opened.map_err(|error| anyhow!("{error}"))?;
    Ok(storage.capped(store))
}

/// Makes the place that the URL names a store; `false` if it was one already.
///
/// # Errors
/// There can be no store, it cannot be written, or two processes cannot meet in it.
pub fn format(url: &str, deadline: Duration) -> Result<bool> {
    shared(url)?;
    let formatted = async {
        let formatted = timeout(deadline, kv_storage::format(url)).await;
        let formatted = formatted.map_err(|_| too_slow(url, deadline))?;
        formatted.map_err(|error| anyhow!("{error}"))
    };
    runtime()?.block_on(formatted).context("the store cannot be formatted")
}

/// Opens the store once and lets go of it, so that a wrong URL or an unwritable directory is told before any process
/// has started and any token was computed. What those paths of a cluster said that did not open: the job goes on by the others.
///
/// # Errors
/// There is no such store, it cannot be written, or two processes cannot meet in it.
pub fn check(storage: &Storage, deadline: Duration) -> Result<Vec<String>> {
    shared(&storage.url)?;
    let opened = async {
        if storage.url.starts_with("vast://") {
            cluster(&storage.url, deadline).await
        } else {
            open(storage, deadline).await.map(|_| Vec::new())
        }
    };
    runtime()?.block_on(opened).context("the store cannot be used")
}

async fn cluster(url: &str, deadline: Duration) -> Result<Vec<String>> {
    let opened = async { Clusters::from_environment().await?.open(url, VastOptions::default()).await };
    let opened = timeout(deadline, opened).await.map_err(|_| too_slow(url, deadline))?;
    let opened = opened.map_err(|error| anyhow!("{error}"))?;
    Ok(opened.left_out.iter().map(ToString::to_string).collect())
}

fn shared(url: &str) -> Result<()> {
    ensure!(
        !url.starts_with("memory:") && !url.starts_with("null:"),
        "two clusters cannot meet in {url}: name a store that processes share, such as file:///mnt/kv"
    );
    Ok(())
}

fn runtime() -> Result<Runtime> {
    Builder::new_current_thread().enable_time().build().context("cannot start the runtime")
}

fn too_slow(url: &str, deadline: Duration) -> anyhow::Error {
    anyhow!("{url} does not answer within {} s", deadline.as_secs())
}
