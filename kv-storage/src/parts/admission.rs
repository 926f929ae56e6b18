//! Counts operations, and what becomes of them when their callers leave first.
//!
//! A hung mount cannot be interrupted. The caller returns at its deadline; the operation keeps what it holds and is *stranded*
//! until the backend lets go. Their number is bounded, so that a dead server costs a fixed amount of memory and threads: at the
//! bound the store is marked down and new calls fail at once.
//!
//! An operation holds a [`Ticket`], the future of its caller a [`Caller`]; whoever ends last settles the count. A store that
//! drops its buffers before its ticket can therefore promise that after [`Admission::idle`] every buffer is back.

use std::fmt;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::{DownReason, Error, ErrorKind, Result, StoreHealth};

/// Stranded operations at which a store is marked down, unless its options say otherwise.
pub const DEFAULT_STRANDED_BOUND: usize = 64;

/// Both sides are there.
const OPEN: u8 = 0;
/// The operation has ended; its caller has not taken the answer yet.
const ENDED: u8 = 1;
/// The caller has gone; the operation goes on.
const STRANDED: u8 = 2;
/// The caller has its answer.
const SETTLED: u8 = 3;

/// Admits operations to one store and counts them; clones count together.
#[derive(Debug, Clone)]
pub struct Admission {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    bound: usize,
    counts: Mutex<Counts>,
    idle: Notify,
}

#[derive(Debug, Default)]
struct Counts {
    in_flight: usize,
    stranded: usize,
    background: usize,
}

/// One operation as both sides see it. `state` changes only under the lock of the counts.
#[derive(Debug)]
struct Operation {
    shared: Arc<Shared>,
    state: AtomicU8,
}

/// The operation's half: dropped when the backend has let go of everything that the operation held.
#[derive(Debug)]
#[must_use = "an operation ends when its ticket is dropped"]
pub struct Ticket {
    operation: Arc<Operation>,
}

/// The caller's half: lives in the caller's future. Dropped without [`received`](Self::received), it leaves the operation stranded.
#[derive(Debug)]
#[must_use = "a caller that is dropped counts as gone"]
pub struct Caller {
    operation: Arc<Operation>,
}

/// Work that has no caller, such as the clean-up after a dropped upload.
#[derive(Debug)]
#[must_use = "the work counts as done when this is dropped"]
pub struct Background {
    shared: Arc<Shared>,
}

impl Admission {
    /// Admits operations until `bound` of them are stranded.
    pub fn new(bound: usize) -> Self {
        Self {
            shared: Arc::new(Shared { bound: bound.max(1), counts: Mutex::default(), idle: Notify::new() }),
        }
    }

    /// Admits one operation of `store`.
    ///
    /// # Errors
    /// [`Unavailable`](ErrorKind::Unavailable) while the store is down.
    pub fn admit(&self, store: impl fmt::Display) -> Result<(Ticket, Caller)> {
        let mut counts = self.shared.counts();
        if counts.stranded >= self.shared.bound {
            let hung = counts.stranded;
            return Err(Error::new(
                ErrorKind::Unavailable,
                store,
                format!("store marked down: {hung} operations hang; it comes back when the kernel lets go"),
            ));
        }
        counts.in_flight += 1;
        drop(counts);
        let operation = Arc::new(Operation { shared: Arc::clone(&self.shared), state: AtomicU8::new(OPEN) });
        let ticket = Ticket { operation: Arc::clone(&operation) };
        Ok((ticket, Caller { operation }))
    }

    /// Counts work without a caller; only [`idle`](Self::idle) waits for it.
    pub fn background(&self) -> Background {
        self.shared.counts().background += 1;
        Background { shared: Arc::clone(&self.shared) }
    }

    /// The counts now.
    pub fn health(&self) -> StoreHealth {
        let counts = self.shared.counts();
        let down = counts.stranded >= self.shared.bound;
        StoreHealth {
            in_flight: counts.in_flight,
            stranded: counts.stranded,
            down,
            reason: down.then_some(DownReason::Stranded),
        }
    }

    /// Waits until nothing is in flight, stranded, or going on in the background.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn idle(&self) {
        loop {
            let notified = self.shared.idle.notified();
            if self.shared.counts().is_idle() {
                return;
            }
            notified.await;
        }
    }
}

impl Counts {
    fn is_idle(&self) -> bool {
        self.in_flight == 0 && self.stranded == 0 && self.background == 0
    }
}

impl Shared {
    fn counts(&self) -> MutexGuard<'_, Counts> {
        // Every critical section is a few additions; a panic cannot leave it half done.
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn settle(&self, change: impl FnOnce(&mut Counts)) {
        let mut counts = self.counts();
        change(&mut counts);
        let idle = counts.is_idle();
        drop(counts);
        if idle {
            self.idle.notify_waiters();
        }
    }
}

impl Caller {
    /// The answer arrived: whatever the operation still tidies up is none of the caller's business.
    pub fn received(self) {
        self.operation.shared.settle(|counts| {
            self.operation.state.store(SETTLED, Ordering::Relaxed);
            counts.in_flight -= 1;
        });
    }
}

impl Drop for Caller {
    fn drop(&mut self) {
        let state = &self.operation.state;
        self.operation.shared.settle(|counts| match state.load(Ordering::Relaxed) {
            OPEN => {
                state.store(STRANDED, Ordering::Relaxed);
                counts.in_flight -= 1;
                counts.stranded += 1;
            }
            ENDED => {
                state.store(SETTLED, Ordering::Relaxed);
                counts.in_flight -= 1;
            }
            _ => {}
        });
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let state = &self.operation.state;
        self.operation.shared.settle(|counts| match state.load(Ordering::Relaxed) {
            OPEN => state.store(ENDED, Ordering::Relaxed),
            STRANDED => {
                state.store(SETTLED, Ordering::Relaxed);
                counts.stranded -= 1;
            }
            _ => {}
        });
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        self.shared.settle(|counts| counts.background -= 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn health(in_flight: usize, stranded: usize, down: bool) -> StoreHealth {
        StoreHealth { in_flight, stranded, down, reason: down.then_some(DownReason::Stranded) }
    }

    #[test]
    fn whoever_ends_last_settles_the_count() {
        let admission = Admission::new(2);
        let (ticket, caller) = admission.admit("test").unwrap();
        assert_eq!(admission.health(), health(1, 0, false));
        drop(ticket);
        assert_eq!(admission.health(), health(1, 0, false), "the answer is not taken yet");
        caller.received();
        assert_eq!(admission.health(), health(0, 0, false));

        let (ticket, caller) = admission.admit("test").unwrap();
        caller.received();
        drop(ticket);
        assert_eq!(admission.health(), health(0, 0, false));

        let (ticket, caller) = admission.admit("test").unwrap();
        drop(caller);
        assert_eq!(admission.health(), health(0, 1, false));
        drop(ticket);
        assert_eq!(admission.health(), health(0, 0, false));
    }

    #[tokio::test]
    async fn at_the_bound_calls_fail_at_once_until_one_ends() {
        let admission = Admission::new(2);
        let (first, caller) = admission.admit("test").unwrap();
        drop(caller);
        let (second, caller) = admission.admit("test").unwrap();
        drop(caller);
        assert_eq!(admission.health(), health(0, 2, true));
        let error = admission.admit("test").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        assert!(error.to_string().contains("2 operations hang"), "{error}");
        drop(first);
        drop(admission.admit("test").unwrap());
        assert_eq!(admission.health(), health(0, 1, false));
        drop(second);
        admission.idle().await;
    }
}
