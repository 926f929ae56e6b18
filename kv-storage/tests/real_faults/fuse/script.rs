//! Which of a file system's calls answer what.

use std::sync::{Arc, Condvar, Mutex};

use fuser::Errno;
use tokio::sync::Notify;

/// A call of the kernel to the file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Call {
    Create,
    Read,
    Write,
    Fsync,
    FsyncDir,
    /// At every close of a descriptor.
    Flush,
    Link,
    Rename,
    Unlink,
}

/// What a call answers in the place of what it would.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Answer {
    /// Nothing is done, and this is the errno.
    Fails(Errno),
    /// It is done, and this is the errno: an answer that was lost.
    DoneBut(Errno),
    /// A read or a write does this many bytes.
    Short(usize),
}

#[derive(Debug)]
struct Rule {
    call: Call,
    /// Calls of this kind that pass before.
    skip: u64,
    /// Calls that get the answer.
    times: u64,
    answer: Answer,
}

/// The rules of a file system, and how often each call came. Clones share them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Script(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    thawed: Condvar,
    hangs: Notify,
}

#[derive(Debug, Default)]
struct State {
    rules: Vec<Rule>,
    calls: Vec<Call>,
    frozen: bool,
    /// Whether a call has come since.
    hanging: bool,
}

impl Script {
    /// From now on the next `times` of these calls get the answer.
    pub(crate) fn next(&self, call: Call, times: u64, answer: Answer) {
        self.after(call, 0, times, answer);
    }

    /// From now on `skip` of these calls pass, and the next `times` get the answer.
    pub(crate) fn after(&self, call: Call, skip: u64, times: u64, answer: Answer) {
        self.0.state.lock().unwrap().rules.push(Rule { call, skip, times, answer });
    }

    /// Every one of these calls gets the answer.
    pub(crate) fn always(&self, call: Call, answer: Answer) {
        self.next(call, u64::MAX, answer);
    }

    /// Forgets the rules.
    pub(crate) fn clear(&self) {
        self.0.state.lock().unwrap().rules.clear();
    }

    /// How often the call came.
    pub(crate) fn count(&self, call: Call) -> usize {
        self.0.state.lock().unwrap().calls.iter().filter(|made| **made == call).count()
    }

    /// From now on nothing is answered.
    pub(crate) fn freeze(&self) {
        let mut state = self.0.state.lock().unwrap();
        (state.frozen, state.hanging) = (true, false);
    }

    /// Answers what has come meanwhile.
    pub(crate) fn thaw(&self) {
        self.0.state.lock().unwrap().frozen = false;
        self.0.thawed.notify_all();
    }

    /// Waits until a call has come that is not answered.
    pub(crate) async fn hangs(&self) {
        loop {
            let told = self.0.hangs.notified();
            if self.0.state.lock().unwrap().hanging {
                return;
            }
            told.await;
        }
    }

    /// Waits while nothing is to be answered.
    pub(super) fn pass(&self) {
        let mut state = self.0.state.lock().unwrap();
        while state.frozen {
            state.hanging = true;
            self.0.hangs.notify_one();
            state = self.0.thawed.wait(state).unwrap();
        }
    }

    /// What a call answers in the place of what it would.
    pub(super) fn answer(&self, call: Call) -> Option<Answer> {
        self.pass();
        let mut state = self.0.state.lock().unwrap();
        state.calls.push(call);
        for rule in state.rules.iter_mut().filter(|rule| rule.call == call) {
            if rule.skip > 0 {
                rule.skip -= 1;
            } else if rule.times > 0 {
                rule.times -= 1;
                return Some(rule.answer);
            }
        }
        None
    }
}
