//! Calls that need no thread while they wait: an engine with a queue of its own takes the buffer and answers the caller.

use std::sync::Arc;

use kv_memory::HostBuf;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use super::{Engine, Moved, Transfer};
use crate::parts::{Admission, Caller};
use crate::{Error, ErrorKind, Result};

/// What has come of a transfer, and the buffer.
type Outcome = (HostBuf, Moved);

/// The callers of one engine. As many transfers as the engine likes are under way; more wait before they start, and stranded ones
/// do not count, so that hung transfers never keep others out before the store is down.
#[derive(Debug)]
pub(in crate::posix) struct Calls {
    store: String,
    admission: Admission,
    places: Arc<Semaphore>,
}

impl Calls {
    /// For `places` transfers at a time.
    pub(in crate::posix) fn new(store: String, admission: Admission, places: usize) -> Self {
        let places = Arc::new(Semaphore::new(places.clamp(1, Semaphore::MAX_PERMITS)));
        Self { store, admission, places }
    }

    /// Lets `engine`, whose [`start`](Engine::start) must not block, move a buffer.
    ///
    /// # Errors
    /// `Unavailable` while too many calls are stranded. What the engine answers comes beside the buffer.
    ///
    /// # Cancel safety
    /// Dropped before it started, the buffer is free at once; later, the engine keeps it until it answers, and the call is counted
    /// stranded.
    pub(in crate::posix) async fn run(
        &self,
        engine: &dyn Engine,
        transfer: Transfer,
    ) -> (HostBuf, Result<Moved>) {
        let (ticket, caller) = match self.admission.admit(&self.store) {
            Ok(admitted) => admitted,
            Err(error) => return (transfer.buffer, Err(error)),
        };
        let Ok(place) = Arc::clone(&self.places).acquire_owned().await else {
            let message = "its I/O engine has ended";
            return (transfer.buffer, Err(Error::new(ErrorKind::Unavailable, &self.store, message)));
        };
        let (sender, receiver) = oneshot::channel();
        let mut waiting = Waiting { places: Arc::clone(&self.places), receiver, caller: Some(caller) };
        let answer = move |buffer, moved| {
            settle(sender.send((buffer, moved)), place);
            drop(ticket); // after the buffer, which is back in its pool if the caller has gone
        };
        engine.start(transfer, Box::new(answer));
        match (&mut waiting.receiver).await {
            Ok((buffer, moved)) => {
                waiting.received();
                (buffer, Ok(moved))
            }
            // An engine that cannot answer keeps the buffer and the answer for good.
            Err(_) => unreachable!("an engine answers every transfer"),
        }
    }
}

/// The place is free again if the caller took the answer; a caller that left has already made another.
fn settle(sent: Result<(), Outcome>, place: OwnedSemaphorePermit) {
    if let Err(outcome) = sent {
        drop(outcome);
        place.forget();
    }
}

/// The caller of a transfer that has started.
struct Waiting {
    places: Arc<Semaphore>,
    receiver: oneshot::Receiver<Outcome>,
    caller: Option<Caller>,
}

impl Waiting {
    fn received(mut self) {
        if let Some(caller) = self.caller.take() {
            caller.received();
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let Some(caller) = self.caller.take() else { return };
        self.receiver.close();
        // An answer that was sent and not taken gives its buffer back here, before the call is counted as ended.
        let answered = self.receiver.try_recv();
        if answered.is_err() {
            self.places.add_permits(1);
        }
        drop(answered);
        drop(caller);
    }
}
