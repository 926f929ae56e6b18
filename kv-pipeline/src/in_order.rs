//! Work of one operation side by side, whose last step is taken in turns.

use std::future::Future;

use futures_util::StreamExt;
use futures_util::stream::FuturesOrdered;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::JoinError;

use crate::limits::{Limits, Stop};

/// Whose turn it is: pieces of work are numbered from 0.
#[derive(Debug)]
pub(crate) struct Turns(watch::Sender<usize>);

impl Turns {
    pub(crate) fn new() -> Self {
        Self(watch::Sender::new(0))
    }

    /// Waits until every piece before `number` has passed its turn on.
    pub(crate) async fn wait(&self, limits: &Limits, number: usize) -> Result<(), Stop> {
        let mut turn = self.0.subscribe();
        limits.run(async move { turn.wait_for(|turn| *turn >= number).await.map(drop) }).await.map(drop)
    }

    /// Whether every piece before `number` has passed its turn on.
    pub(crate) fn has_come(&self, number: usize) -> bool {
        *self.0.borrow() >= number
    }

    /// Lets the piece behind `number` take its turn, if it has not.
    pub(crate) fn pass(&self, number: usize) {
        self.0.send_if_modified(|turn| {
            let passes = *turn <= number;
            if passes {
                *turn = number + 1;
            }
            passes
        });
    }
}

/// Runs `count` pieces of work as tasks, at most `width` at a time, started in order, and gives each result to `take` in order.
///
/// Tasks, so that one piece's checksums are computed while another piece is driven. Every piece that was started is run to its end,
/// also if the operation fails: a piece may hold an engine's blocks.
pub(crate) async fn side_by_side<F>(
    runtime: &Handle,
    width: usize,
    count: usize,
    mut start: impl FnMut(usize) -> F,
    mut take: impl FnMut(usize, Result<F::Output, JoinError>),
) where
    F: Future<Output: Send> + Send + 'static,
{
    let mut running = FuturesOrdered::new();
    let (mut started, mut taken) = (0, 0);
    while taken < count {
        while started < count && started - taken < width.max(1) {
            running.push_back(runtime.spawn(start(started)));
            started += 1;
        }
        if let Some(output) = running.next().await {
            take(taken, output);
        }
        taken += 1;
    }
}
