//! How many transfers of one registration are queued or run, and whether new ones are still let in.

use std::sync::Arc;

use tokio::sync::watch;

/// Counts the transfers of one registration: what `quiesce` and `close` wait for.
#[derive(Debug)]
pub struct InFlight {
    state: watch::Sender<State>,
}

#[derive(Debug, Clone, Copy)]
struct State {
    transfers: usize,
    closed: bool,
}

/// One transfer in flight; dropping it counts the transfer as ended.
#[derive(Debug)]
pub struct Ticket {
    in_flight: Arc<InFlight>,
}

impl InFlight {
    /// Open, with nothing in flight.
    pub fn new() -> Arc<Self> {
        let state = State { transfers: 0, closed: false };
        Arc::new(Self { state: watch::Sender::new(state) })
    }

    /// Counts one transfer more; `None` after [`close`](Self::close) was called.
    pub fn begin(self: &Arc<Self>) -> Option<Ticket> {
        let mut open = false;
        self.state.send_if_modified(|state| {
            open = !state.closed;
            state.transfers += usize::from(open);
            false // nobody waits for more of them
        });
        open.then(|| Ticket { in_flight: Arc::clone(self) })
    }

    /// Waits until nothing is in flight.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn quiesce(&self) {
        // The sender cannot be gone: `self` owns it.
        let _ = self.state.subscribe().wait_for(|state| state.transfers == 0).await;
    }

    /// Lets no transfer begin any more.
    pub fn shut(&self) {
        self.state.send_modify(|state| state.closed = true);
    }

    /// Lets no transfer begin any more, and waits until nothing is in flight.
    ///
    /// # Cancel safety
    /// Cancel safe: it stays closed, and may be called again to wait.
    pub async fn close(&self) {
        self.shut();
        self.quiesce().await;
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let transfers = &self.in_flight.state;
        transfers.send_if_modified(|state| {
            state.transfers -= 1;
            // Who waits was counted before it looked at the state, which is locked here: it is seen, or sees what is left.
            state.transfers == 0 && transfers.receiver_count() > 0
        });
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    #[tokio::test]
    async fn close_refuses_new_transfers_at_once_and_waits_for_old_ones() {
        let in_flight = InFlight::new();
        let ticket = in_flight.begin().unwrap();
        assert!(timeout(Duration::ZERO, in_flight.close()).await.is_err());
        assert!(in_flight.begin().is_none());
        let closing = tokio::spawn({
            let in_flight = Arc::clone(&in_flight);
            async move { in_flight.close().await }
        });
        drop(ticket);
        timeout(Duration::from_secs(30), closing).await.unwrap().unwrap();
    }

    /// Tickets tell nobody who does not wait: many times, since it takes one that ends while another thread begins to wait.
    #[test]
    fn a_close_that_begins_while_the_last_transfer_ends_returns() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        for round in 0..2000 {
            let in_flight = InFlight::new();
            let tickets = [in_flight.begin().unwrap(), in_flight.begin().unwrap()];
            std::thread::scope(|scope| {
                for ticket in tickets {
                    scope.spawn(move || drop(ticket));
                }
                let closed =
                    runtime.block_on(async { timeout(Duration::from_secs(30), in_flight.close()).await });
                closed.unwrap_or_else(|_| {
                    panic!("round {round}: nobody told that the last transfer has ended")
                });
            });
        }
    }
}
