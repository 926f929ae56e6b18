//! A fence that the engine signals from any thread.

use std::fmt::Display;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::{Error, ErrorKind, Fence, Result};

/// A point in an engine's work that is reached when somebody calls [`signal`](Self::signal).
///
/// The first call of [`signal`](Self::signal) or [`fail`](Self::fail) decides; later ones change nothing.
#[derive(Debug)]
pub struct HostFence {
    device: String,
    state: Mutex<State>,
    decided: Condvar,
}

#[derive(Debug)]
enum State {
    Pending,
    Reached,
    Failed(ErrorKind, String),
}

impl HostFence {
    /// A fence that was not reached; `device` stands in its errors.
    pub fn new(device: &impl Display) -> Arc<Self> {
        Arc::new(Self {
            device: device.to_string(),
            state: Mutex::new(State::Pending),
            decided: Condvar::new(),
        })
    }

    /// The engine has reached the point.
    pub fn signal(&self) {
        self.decide(State::Reached);
    }

    /// The engine will never reach the point: waits end with this error.
    pub fn fail(&self, kind: ErrorKind, message: impl Into<String>) {
        self.decide(State::Failed(kind, message.into()));
    }

    fn decide(&self, outcome: State) {
        let mut state = self.state();
        if matches!(*state, State::Pending) {
            *state = outcome;
            self.decided.notify_all();
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // The state is replaced whole, so a panic cannot leave it half-changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Fence for HostFence {
    fn wait(&self, timeout: Duration) -> Result<bool> {
        let pending = |state: &mut State| matches!(*state, State::Pending);
        let (state, _) = self
            .decided
            .wait_timeout_while(self.state(), timeout, pending)
            .unwrap_or_else(PoisonError::into_inner);
        match &*state {
            State::Pending => Ok(false),
            State::Reached => Ok(true),
            State::Failed(kind, message) => Err(Error::new(*kind, &self.device, message)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_outcome_decides() {
        let fence = HostFence::new(&"host:0");
        assert!(!fence.wait(Duration::ZERO).unwrap());
        fence.signal();
        fence.fail(ErrorKind::DeviceLost, "too late");
        assert!(fence.wait(Duration::ZERO).unwrap());

        let fence = HostFence::new(&"host:0");
        fence.fail(ErrorKind::DeviceLost, "the engine stopped");
        fence.signal();
        let error = fence.wait(Duration::MAX).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::DeviceLost);
        assert_eq!(error.to_string(), "host:0: the engine stopped");
    }

    #[test]
    fn a_signal_from_another_thread_ends_the_wait() {
        let fence = HostFence::new(&"host:0");
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| fence.wait(Duration::from_secs(60)));
            fence.signal();
            assert!(waiting.join().unwrap().unwrap());
        });
    }
}
