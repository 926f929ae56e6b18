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

static END: End = End::new();

/// What has to do with the end of a process.
struct End {
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    /// Agents that are being destroyed.
    destroying: usize,
    /// The process ends.
    ends: bool,
}

/// While it lives the process does not end, for [`PATIENCE`].
pub(super) struct Destroying<'a>(&'a End);

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
pub(super) fn destroying() -> Option<Destroying<'static>> {
    END.destroying()
}

extern "C" fn process_ends() {
    END.wait(PATIENCE);
}

impl End {
    const fn new() -> Self {
        Self { state: Mutex::new(State { destroying: 0, ends: false }), changed: Condvar::new() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every change is whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn destroying(&self) -> Option<Destroying<'_>> {
        let mut state = self.state();
        if state.ends {
            return None;
        }
        state.destroying += 1;
        Some(Destroying(self))
    }

    fn wait(&self, patience: Duration) {
        let mut state = self.state();
        state.ends = true;
        drop(self.changed.wait_timeout_while(state, patience, |state| state.destroying > 0));
    }
}

impl Drop for Destroying<'_> {
    fn drop(&mut self) {
        self.0.state().destroying -= 1;
        self.0.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, mpsc};

    use super::*;

    const DEADLINE: Duration = Duration::from_secs(60);

    //= SEMANTICS.md#nixl-exit
    #[test]
    fn what_is_being_destroyed_is_waited_for_and_nothing_is_destroyed_after_it() {
        let end: Arc<End> = Arc::new(End::new());
        let leave = end.destroying().unwrap();
        let (ended, waits) = (Arc::clone(&end), Arc::clone(&end));
        let waiting = std::thread::spawn(move || waits.wait(DEADLINE));
        let (sender, asked) = mpsc::channel();
        // A thread of its own, since a leave that is refused must not wait for the one that refuses it.
        std::thread::spawn(move || {
            while ended.destroying().is_some() {
                std::thread::yield_now();
            }
            let _ = sender.send(());
        });
        asked.recv_timeout(DEADLINE).expect("who asks while the process ends waits for ever");
        assert!(!waiting.is_finished(), "an agent is being destroyed");
        drop(leave);
        waiting.join().unwrap();
        assert_eq!(end.state().destroying, 0);
    }

    #[test]
    fn the_end_does_not_wait_for_ever() {
        let end = End::new();
        let _leave = end.destroying().unwrap();
        end.wait(Duration::ZERO);
        assert!(end.destroying().is_none());
    }
}
