//! The end of the process. NIXL's plugins then clean up after themselves (the AWS SDK of OBJ, on whatever thread calls `exit`), and an agent that one of our threads
//! destroys meanwhile, or afterwards, finds them half gone and aborts the process. So what is being destroyed is waited for, and from then on nothing
//! is: the process takes it along.
#![expect(unsafe_code, reason = "asks the C library for a call at the end of the process")]

use std::collections::BTreeSet;
use std::ffi::{CStr, CString};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Longest time that the end of the process waits for agents that are being destroyed.
const PATIENCE: Duration = Duration::from_secs(5);

static STATE: Mutex<State> = Mutex::new(State { destroying: 0, ends: false });
static CHANGED: Condvar = Condvar::new();

struct State {
    /// Agents that are being destroyed.
    destroying: usize,
    /// The process ends.
    ends: bool,
}

/// While it lives the process does not end, for [`PATIENCE`].
pub(super) struct Destroying(());

/// Asks to be called before a plugin's own cleaners, of which the last to come is the first to be called: whenever another plugin is loaded.
pub(super) fn watch(plugin: &CStr) {
    static PLUGINS: Mutex<BTreeSet<CString>> = Mutex::new(BTreeSet::new());
    if PLUGINS.lock().unwrap_or_else(PoisonError::into_inner).insert(plugin.to_owned()) {
        // SAFETY: the function is of this program, which is not unloaded, takes nothing, and does not unwind: it waits. Without room for it the
        // C library says so, and the end of the process is as it would be without.
        let _ = unsafe { libc::atexit(process_ends) };
    }
}

/// Leave to destroy an agent; `None` if the process ends.
pub(super) fn destroying() -> Option<Destroying> {
    let mut state = state();
    state.destroying += usize::from(!state.ends);
    (!state.ends).then_some(Destroying(()))
}

impl Drop for Destroying {
    fn drop(&mut self) {
        state().destroying -= 1;
        CHANGED.notify_all();
    }
}

extern "C" fn process_ends() {
    let mut state = state();
    state.ends = true;
    drop(CHANGED.wait_timeout_while(state, PATIENCE, |state| state.destroying > 0));
}

fn state() -> MutexGuard<'static, State> {
    // Every change is whole.
    STATE.lock().unwrap_or_else(PoisonError::into_inner)
}
