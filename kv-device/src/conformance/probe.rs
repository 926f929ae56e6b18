//! A fence of a type that no device knows, which does the engine's work at the moment when the device waits for it. So the suite sees
//! without a clock whether a device waits, and what it had moved by then.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::{Fence, Result};

type Act = Box<dyn FnOnce() -> Result<bool> + Send>;

/// Runs an act in the first wait, and remembers what came of it.
pub(super) struct Probe {
    state: Mutex<State>,
}

enum State {
    Armed(Act),
    Waited { reached: bool },
}

impl Probe {
    /// `act` tells whether the point was reached.
    pub(super) fn new(act: impl FnOnce() -> Result<bool> + Send + 'static) -> Arc<Self> {
        Arc::new(Self { state: Mutex::new(State::Armed(Box::new(act))) })
    }

    /// Whether a device waited for it.
    pub(super) fn was_awaited(&self) -> bool {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        matches!(*state, State::Waited { .. })
    }
}

impl Fence for Probe {
    fn wait(&self, _timeout: Duration) -> Result<bool> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let outcome = match std::mem::replace(&mut *state, State::Waited { reached: false }) {
            State::Armed(act) => act(),
            State::Waited { reached } => Ok(reached),
        };
        *state = State::Waited { reached: *outcome.as_ref().unwrap_or(&false) };
        outcome
    }
}

impl fmt::Debug for Probe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Probe").finish_non_exhaustive()
    }
}
