//! A wrapper that gives calls a deadline, stops asking a store that fails or hangs, and asks again once it has proved itself.
//!
//! A mount that hangs answers nobody, and every caller would learn that by waiting. [`HealthGate`] learns it once for all: the store
//! is *marked down*, calls fail at once with the reason, and a probe of its own writes, reads back and removes an object until that
//! has worked several times in a row. The intervals between probes grow, and a store that goes down again soon after it came back
//! starts with the interval that it had, so that a flapping server does not flap its users.

mod condition;
mod options;
mod probe;

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use kv_format::ObjectName;
use tokio::task::JoinHandle;

use condition::Condition;
pub use condition::History;
pub use options::GateOptions;
pub use probe::PROBE_NAMESPACE;
pub(crate) use probe::{probe_name, random};

use crate::parts::Admission;
use crate::passage::{Answer, Deadline, Entry, Passage, Rule};
use crate::{Error, ErrorKind, KvStore, Operation, Result, StoreHealth};

/// Watches the store beneath, and keeps callers from it while it is down. Clones share what they know.
///
/// A store counts as failing when calls in a row end with [`Unavailable`](ErrorKind::Unavailable), which includes the gate's own
/// [deadline](GateOptions::deadline), or [`Backend`](ErrorKind::Backend), or when reads are [denied](ErrorKind::PermissionDenied). A full
/// store, a miss or a range behind the end are answers.
///
/// It is for any store: what hangs is dropped at the deadline, and the store beneath counts it as [stranded](StoreHealth::stranded)
/// and bounds that, as every store does. While the store is down, a task of the tokio runtime that found it so probes it.
///
/// ```
/// use std::sync::Arc;
/// use kv_storage::{GateOptions, HealthGate, KvStore, MemoryStore};
/// let store = HealthGate::new(Arc::new(MemoryStore::new()), GateOptions::default());
/// assert!(!store.health().down);
/// ```
pub type HealthGate = Passage<Gating>;

/// The rule of [`HealthGate`]: nobody enters while the store is down.
#[derive(Debug)]
pub struct Gating {
    shared: Arc<Shared>,
}

/// A call that goes on: what it was, and after how many downs it entered.
#[derive(Debug, Clone, Copy)]
pub struct Entered {
    operation: Operation,
    epoch: u64,
}

/// What the gate and its probing task know.
struct Shared {
    inner: Arc<dyn KvStore>,
    options: GateOptions,
    state: Mutex<State>,
    /// Counts the probe that runs.
    probing: Admission,
    /// What its probes write.
    probe: ObjectName,
}

struct State {
    condition: Condition,
    prober: Option<JoinHandle<()>>,
}

impl HealthGate {
    /// Watches `inner`.
    pub fn new(inner: Arc<dyn KvStore>, options: GateOptions) -> Self {
        let condition = Condition::new(&options);
        let shared = Shared {
            inner: Arc::clone(&inner),
            probe: probe_name(&options.environment),
            options,
            state: Mutex::new(State { condition, prober: None }),
            probing: Admission::new(usize::MAX),
        };
        Self::through(inner, Gating { shared: Arc::new(shared) })
    }

    /// How often the store went down and came back, and what its probes said.
    pub fn history(&self) -> History {
        self.rule().shared.state().condition.history()
    }

    /// Whether calls would fail at once. Whoever asks and then stays away sees to it, as a caller would, that the store is probed.
    pub(crate) fn is_down(&self) -> bool {
        let shared = &self.rule().shared;
        let beneath = shared.inner.health();
        let mut state = shared.state();
        if beneath.down {
            state.condition.hangs(beneath.stranded, shared.now());
        }
        shared.attend(&mut state);
        state.condition.is_down()
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        // What runs inside does not panic half-way.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> Duration {
        self.options.environment.clock.now()
    }

    /// Sees to it that a store that is down is probed.
    fn attend(self: &Arc<Self>, state: &mut State) {
        // A task that has ended belonged to a runtime that is gone.
        if state.condition.is_down() && state.prober.as_ref().is_none_or(JoinHandle::is_finished) {
            state.prober = Some(tokio::spawn(probe_until_up(Arc::downgrade(self))));
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        if let Some(prober) = state.prober.take() {
            prober.abort();
        }
    }
}

/// Probes a store that is down, until it is up or its gate is gone.
async fn probe_until_up(gate: Weak<Shared>) {
    loop {
        let Some(pause) = gate.upgrade().map(|shared| {
            let interval = shared.state().condition.interval();
            shared.options.environment.clock.sleep(interval)
        }) else {
            return;
        };
        pause.await;
        let Some(shared) = gate.upgrade() else { return };
        let probing = shared.probing.background();
        let allowed = shared.options.probe_deadline;
        let over = shared.options.environment.clock.sleep(allowed);
        let answer = tokio::select! {
            biased;
            answer = probe::probe(&*shared.inner, &shared.probe, &shared.options.environment) => answer,
            () = over => Err(format!("no answer to a probe within {allowed:?}")),
        };
        drop(probing);
        let mut state = shared.state();
        if state.condition.probed(answer, shared.now()) {
            // Before anybody sees the store up: whoever finds it down again starts a task of its own.
            state.prober = None;
            return;
        }
    }
}

/// Whether an answer says that the store fails, works, or nothing of either.
fn verdict(operation: Operation, error: Option<&Error>) -> Option<Result<(), String>> {
    let Some(error) = error else { return Some(Ok(())) };
    let reads =
        matches!(operation, Operation::Read | Operation::Head | Operation::List | Operation::ReadRecord);
    let fails = match error.kind() {
        ErrorKind::Unavailable | ErrorKind::Backend => true,
        ErrorKind::PermissionDenied => reads,
        _ => false,
    };
    fails.then(|| Err(error.to_string()))
}

impl Rule for Gating {
    type Pass = Entered;

    async fn enter(&self, entry: Entry) -> Result<Entered> {
        let shared = &self.shared;
        let beneath = shared.inner.health();
        let now = shared.now();
        let mut state = shared.state();
        if beneath.down {
            state.condition.hangs(beneath.stranded, now);
        }
        let admitted = state.condition.admit(now);
        shared.attend(&mut state);
        drop(state);
        match admitted {
            Ok(epoch) => Ok(Entered { operation: entry.operation, epoch }),
            Err(why) => Err(Error::new(ErrorKind::Unavailable, &shared.inner, why)),
        }
    }

    fn leave(&self, entered: Entered, answer: Answer<'_>) {
        let Some(verdict) = verdict(entered.operation, answer.error) else { return };
        let shared = &self.shared;
        let mut state = shared.state();
        state.condition.answered(verdict, entered.epoch, shared.now());
        shared.attend(&mut state);
    }

    fn deadline(&self) -> Option<Deadline> {
        let options = &self.shared.options;
        options.deadline.map(|allowed| Deadline::after(allowed, &*options.environment.clock))
    }

    fn health(&self, beneath: StoreHealth) -> StoreHealth {
        let reason = self.shared.state().condition.reason().or(beneath.reason);
        StoreHealth { down: beneath.down || reason.is_some(), reason, ..beneath }
    }

    async fn idle(&self) {
        self.shared.probing.idle().await;
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared")
            .field("condition", &self.state().condition)
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}
