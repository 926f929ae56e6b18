//! How many requests may be in flight: one more after each round of successes, half as many when the server says that it has too many.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// A limit of requests in flight that adapts (additive increase, multiplicative decrease).
#[derive(Debug)]
pub(super) struct Adaptive {
    state: Mutex<State>,
    free: Notify,
}

#[derive(Debug)]
struct State {
    most: usize,
    limit: usize,
    in_flight: usize,
    /// Successes since the limit last changed.
    successes: usize,
    /// Counts the decreases: many requests of one round are refused together, and are one reason to slow down, not many.
    round: u64,
}

/// A request's place. Dropped, it is free for another.
#[derive(Debug)]
pub(super) struct Place {
    limits: Arc<Adaptive>,
    round: u64,
}

impl Adaptive {
    /// At most `most` requests, and so many at first.
    pub(super) fn new(most: usize) -> Arc<Self> {
        let most = most.max(1);
        let state = State { most, limit: most, in_flight: 0, successes: 0, round: 0 };
        Arc::new(Self { state: Mutex::new(state), free: Notify::new() })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every critical section is a few additions.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a place.
    pub(super) async fn enter(self: &Arc<Self>) -> Place {
        loop {
            {
                let mut state = self.state();
                if state.in_flight < state.limit {
                    state.in_flight += 1;
                    return Place { limits: Arc::clone(self), round: state.round };
                }
            }
            // A place that is freed in between leaves its notice behind.
            self.free.notified().await;
        }
    }

    /// Requests that may be in flight now.
    pub(super) fn limit(&self) -> usize {
        self.state().limit
    }
}

impl Place {
    /// The server answered.
    pub(super) fn succeeded(&self) {
        let mut state = self.limits.state();
        state.successes += 1;
        if state.successes >= state.limit && state.limit < state.most {
            state.limit += 1;
            state.successes = 0;
            drop(state);
            self.limits.free.notify_one();
        }
    }

    /// The server has too many requests.
    pub(super) fn throttled(&self) {
        let mut state = self.limits.state();
        if state.round == self.round {
            state.round += 1;
            state.limit = (state.limit / 2).max(1);
            state.successes = 0;
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut state = self.limits.state();
        state.in_flight -= 1;
        let free = state.in_flight < state.limit;
        drop(state);
        if free {
            self.limits.free.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_round_of_refusals_halves_once_and_rounds_of_successes_add_one() {
        let limits = Adaptive::new(8);
        let mut round = Vec::new();
        for _ in 0..8 {
            round.push(limits.enter().await);
        }
        round.iter().for_each(Place::throttled);
        assert_eq!(limits.limit(), 4, "eight refusals of one round are one decrease");
        drop(round);
        for _ in 0..4 {
            limits.enter().await.succeeded();
        }
        assert_eq!(limits.limit(), 5);
        for _ in 0..20 {
            limits.enter().await.throttled();
        }
        assert_eq!(limits.limit(), 1, "never none");
    }

    #[tokio::test]
    async fn a_full_limit_lets_the_next_in_when_one_leaves() {
        let limits = Adaptive::new(1);
        let first = limits.enter().await;
        let waiting = tokio::spawn({
            let limits = Arc::clone(&limits);
            async move { drop(limits.enter().await) }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        drop(first);
        waiting.await.unwrap();
    }
}
