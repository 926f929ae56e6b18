//! What a plugin does at the end of the process, as the AWS SDK of OBJ does: it cleans up, and dies if an agent is destroyed meanwhile or later.

use std::sync::{Condvar, Mutex, MutexGuard, Once, PoisonError};
use std::time::Duration;

use crate::machine::die;

static STATE: Mutex<State> = Mutex::new(State { destroying: 0, process_ends: false, cleaned: false });
static CHANGED: Condvar = Condvar::new();

struct State {
    destroying: usize,
    process_ends: bool,
    cleaned: bool,
}

/// Longest wait for the end of the process, and for a cleaner that nobody keeps from coming then.
const PATIENCE: Duration = Duration::from_secs(10);
const LONGER: Duration = Duration::from_millis(200);

extern "C" fn clean() {
    let destroying = change(|state| state.cleaned = true).destroying;
    if destroying > 0 {
        die("the plugin cleans up while an agent is destroyed");
    }
}

extern "C" fn process_ends() {
    drop(change(|state| state.process_ends = true));
}

/// A plugin is used: from the first time on its cleaner is called at the end of the process.
pub(crate) fn loaded() {
    static LOADED: Once = Once::new();
    LOADED.call_once(|| {
        // SAFETY: the function takes nothing, and the library stays loaded.
        unsafe { libc::atexit(clean) };
    });
}

/// Destroys an agent, which takes until the process ends if `sign` is given: the file is made once it has begun.
pub(crate) fn destroy(sign: Option<&str>, destroy: impl FnOnce() -> i32) -> i32 {
    if change(|state| state.destroying += 1).cleaned {
        die("an agent is destroyed after its plugin has cleaned up");
    }
    if let Some(sign) = sign {
        // SAFETY: as in `loaded`. The last to come is the first to be called.
        unsafe { libc::atexit(process_ends) };
        drop(std::fs::write(sign, ""));
        wait(PATIENCE, |state| state.process_ends);
        wait(LONGER, |state| state.cleaned);
    }
    let status = destroy();
    drop(change(|state| state.destroying -= 1));
    status
}

fn change(change: impl FnOnce(&mut State)) -> MutexGuard<'static, State> {
    let mut state = STATE.lock().unwrap_or_else(PoisonError::into_inner);
    change(&mut state);
    CHANGED.notify_all();
    state
}

fn wait(patience: Duration, until: impl Fn(&State) -> bool) {
    let state = STATE.lock().unwrap_or_else(PoisonError::into_inner);
    drop(CHANGED.wait_timeout_while(state, patience, |state| !until(state)));
}
