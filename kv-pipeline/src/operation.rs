//! A save or a load as a task of its own, so that a dropped handle starts nothing more, and yet every transfer is seen to its end.

use std::future::Future;
use std::sync::Arc;

use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::{Error, ErrorKind, Result};

/// Asks a save or a load to stop, from anywhere; its `finish` then returns when no transfer touches the engine's blocks.
#[derive(Debug, Clone)]
pub struct Canceller {
    cancel: Arc<watch::Sender<bool>>,
}

impl Canceller {
    /// Asks. Does nothing if the operation has ended.
    pub fn cancel(&self) {
        self.cancel.send_replace(true);
    }
}

/// Handle of a running task. Dropping it asks the task to stop.
#[derive(Debug)]
pub(crate) struct Operation<T> {
    task: JoinHandle<Result<T>>,
    canceller: Canceller,
}

impl<T: Send + 'static> Operation<T> {
    /// Starts `work`, which gets the receiver of its cancellation.
    pub(crate) fn start<F>(
        runtime: &tokio::runtime::Handle,
        work: impl FnOnce(watch::Receiver<bool>) -> F,
    ) -> Self
    where
        F: Future<Output = Result<T>> + Send + 'static,
    {
        let (cancel, cancelled) = watch::channel(false);
        Self { task: runtime.spawn(work(cancelled)), canceller: Canceller { cancel: Arc::new(cancel) } }
    }

    /// Waits for the task's end.
    pub(crate) async fn finish(mut self) -> Result<T> {
        (&mut self.task).await.unwrap_or_else(|error| {
            let message =
                format!("the task of the operation ended early ({error}): is its runtime shutting down?");
            Err(Error::new(ErrorKind::Cancelled, message))
        })
    }

    /// Asks the task to stop, and waits for its end. An error means that the device still holds the engine's blocks.
    pub(crate) async fn cancel(self) -> Result<()> {
        self.canceller.cancel();
        match self.finish().await {
            Err(error) if error.kind() == ErrorKind::Device => Err(error),
            _ => Ok(()),
        }
    }

    /// For others who may ask it to stop.
    pub(crate) fn canceller(&self) -> Canceller {
        self.canceller.clone()
    }
}

impl<T> Drop for Operation<T> {
    fn drop(&mut self) {
        self.canceller.cancel();
    }
}
