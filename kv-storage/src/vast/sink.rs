//! What of a streamed read was handed over, by whichever path, and that nothing is handed over twice.
//!
//! A path that hangs is left, and its thread may come back late with a range in its hand. By then the range is another path's to hand
//! over: each attempt has its own sink, which is closed before the next attempt begins.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kv_memory::HostBuf;
use tokio::sync::Notify;

use crate::{ByteRange, Next, ObjectMeta, ReadSink, Version};

/// One streamed read.
pub(super) struct Handing {
    ranges: Vec<ByteRange>,
    /// Of the buffers that the reader gave.
    capacities: Vec<usize>,
    sink: Arc<dyn ReadSink>,
    state: Mutex<State>,
    settled: Notify,
}

struct State {
    /// Whether a range was handed over.
    handed: Vec<bool>,
    /// Calls of the sink that go on.
    in_sink: usize,
    /// The object as it was shown, and its own version by the path that showed it first.
    seen: Option<(ObjectMeta, Version)>,
    stopped: bool,
    /// The attempt that may hand over.
    attempt: u64,
}

/// One path's part of it.
pub(super) struct Attempt(Arc<AttemptSink>);

struct AttemptSink {
    handing: Arc<Handing>,
    number: u64,
    /// Which ranges it was asked for.
    rest: Vec<usize>,
    /// The version that its path has to show, if that is known beforehand.
    expected: Option<Version>,
    shown: Box<dyn Fn(&ObjectMeta) -> ObjectMeta + Send + Sync>,
    moved: AtomicU64,
    replaced: AtomicBool,
}

/// A call of the sink, ended also by a panic.
struct InSink<'a>(&'a Handing);

impl Drop for InSink<'_> {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.in_sink -= 1;
        if state.in_sink == 0 {
            self.0.settled.notify_waiters();
        }
    }
}

impl Handing {
    pub(super) fn new(ranges: Vec<ByteRange>, capacities: Vec<usize>, sink: Arc<dyn ReadSink>) -> Arc<Self> {
        let handed = vec![false; ranges.len()];
        let state = State { handed, in_sink: 0, seen: None, stopped: false, attempt: 0 };
        Arc::new(Self { ranges, capacities, sink, state: Mutex::new(state), settled: Notify::new() })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every critical section is a few assignments that do not panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Capacities of the buffers that the reader gave.
    pub(super) fn capacities(&self) -> &[usize] {
        &self.capacities
    }

    pub(super) fn range(&self, index: usize) -> ByteRange {
        self.ranges[index]
    }

    /// What is not handed over yet, in order.
    pub(super) fn rest(&self) -> Vec<usize> {
        let state = self.state();
        (0..self.ranges.len()).filter(|index| !state.handed[*index]).collect()
    }

    /// The object that was handed over, if any of it was.
    pub(super) fn meta(&self) -> Option<ObjectMeta> {
        self.state().seen.as_ref().map(|(meta, _)| meta.clone())
    }

    pub(super) fn stopped(&self) -> bool {
        self.state().stopped
    }

    /// Begins the next attempt, which is to show the object as `shown` does.
    pub(super) fn attempt(
        self: &Arc<Self>,
        rest: Vec<usize>,
        expected: Option<Version>,
        shown: impl Fn(&ObjectMeta) -> ObjectMeta + Send + Sync + 'static,
    ) -> Attempt {
        let mut state = self.state();
        state.attempt += 1;
        let number = state.attempt;
        drop(state);
        Attempt(Arc::new(AttemptSink {
            handing: Arc::clone(self),
            number,
            rest,
            expected,
            shown: Box::new(shown),
            moved: AtomicU64::new(0),
            replaced: AtomicBool::new(false),
        }))
    }
}

impl Attempt {
    pub(super) fn sink(&self) -> Arc<dyn ReadSink> {
        Arc::clone(&self.0) as Arc<dyn ReadSink>
    }

    /// Nothing more is handed over by this attempt, and what was on its way into the sink is there. The bytes that it moved.
    pub(super) async fn close(&self) -> u64 {
        let handing = &self.0.handing;
        handing.state().attempt += 1;
        loop {
            let settled = handing.settled.notified();
            if handing.state().in_sink == 0 {
                return self.0.moved.load(Ordering::Relaxed);
            }
            settled.await;
        }
    }

    /// Whether the path showed another object than the one that is read.
    pub(super) fn replaced(&self) -> bool {
        self.0.replaced.load(Ordering::Relaxed)
    }
}

impl ReadSink for AttemptSink {
    fn filled(&self, meta: &ObjectMeta, index: usize, buffer: HostBuf) -> Next {
        let handing = &*self.handing;
        let mut state = handing.state();
        let Some(&range) = self.rest.get(index) else { return Next::Stop };
        if state.attempt != self.number || state.handed[range] {
            return Next::Stop;
        }
        let expected = self.expected.as_ref().or(state.seen.as_ref().map(|(_, version)| version));
        if expected.is_some_and(|expected| *expected != meta.version) {
            self.replaced.store(true, Ordering::Relaxed);
            return Next::Stop;
        }
        let seen = state.seen.get_or_insert_with(|| ((self.shown)(meta), meta.version.clone()));
        let shown = seen.0.clone();
        state.handed[range] = true;
        state.in_sink += 1;
        drop(state);
        let calling = InSink(handing);
        self.moved.fetch_add(buffer.len() as u64, Ordering::Relaxed);
        let next = handing.sink.filled(&shown, range, buffer);
        if matches!(next, Next::Stop) {
            handing.state().stopped = true;
        }
        drop(calling);
        next
    }
}
