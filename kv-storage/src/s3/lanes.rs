//! The threads on which requests run, each with a runtime and connections of its own.
//!
//! HTTP needs a tokio runtime that does I/O; the caller's may not, may end before the connections that the pool keeps, and its threads
//! are for other things than copying bodies. So requests run here, and a bare `current_thread` runtime per thread is enough: what a
//! connection reads stays with the thread that read it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use object_store::ObjectStore;
use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;

use super::client::PartsClient;
use crate::{Error, ErrorKind, Result};

/// What requests are made with.
#[derive(Debug, Clone)]
pub(super) struct Client {
    pub(super) store: Arc<dyn ObjectStore>,
    /// For uploads in parts, where the server may know them.
    pub(super) parts: Option<PartsClient>,
}

/// One thread: where tasks are spawned, and the client whose connections live there.
#[derive(Debug, Clone)]
pub(super) struct Lane {
    pub(super) runtime: Handle,
    pub(super) store: Arc<dyn ObjectStore>,
    pub(super) parts: Option<PartsClient>,
    /// Every operation holds a clone of its lane: their number is how busy it is.
    operations: Arc<()>,
}

/// All threads of a store. Dropped, they end; tasks that hold their store keep it from being dropped.
#[derive(Debug)]
pub(super) struct Lanes {
    lanes: Vec<Lane>,
    next: AtomicUsize,
    /// Dropping a sender ends its thread.
    _ends: Vec<oneshot::Sender<()>>,
}

impl Lanes {
    /// Starts `threads` threads; `connect` makes each one's client.
    ///
    /// # Errors
    /// Those of `connect`; `Backend` if a thread or its runtime cannot be started.
    pub(super) fn start(
        label: &str,
        threads: usize,
        mut connect: impl FnMut() -> Result<Client>,
    ) -> Result<Self> {
        let fail = |error: std::io::Error| {
            let message = format!("cannot start a thread for requests: {error}; raise the process's limits");
            Error::new(ErrorKind::Backend, label, message).with_source(error)
        };
        let (mut lanes, mut ends) = (Vec::new(), Vec::new());
        for number in 0..threads.max(1) {
            let Client { store, parts } = connect()?;
            let runtime = Builder::new_current_thread().enable_all().build().map_err(fail)?;
            lanes.push(Lane { runtime: runtime.handle().clone(), store, parts, operations: Arc::new(()) });
            let (sender, end) = oneshot::channel::<()>();
            ends.push(sender);
            // The runtime is dropped on this thread, where blocking is allowed.
            let live = move || drop(runtime.block_on(end));
            std::thread::Builder::new().name(format!("kv-s3-{number}")).spawn(live).map_err(fail)?;
        }
        Ok(Self { lanes, next: AtomicUsize::new(0), _ends: ends })
    }

    /// The lane with the fewest operations; of equals, in turns.
    pub(super) fn pick(&self) -> &Lane {
        let turn = self.next.fetch_add(1, Ordering::Relaxed) % self.lanes.len();
        let (behind, first) = self.lanes.split_at(turn);
        let busy = |lane: &&Lane| Arc::strong_count(&lane.operations);
        // There is at least one.
        first.iter().chain(behind).min_by_key(busy).unwrap_or(&self.lanes[0])
    }
}
