//! An emulated machine: memory, streams, faults and time behind one lock, and the threads that run streams.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::calls::Calls;
use super::memory::{Memory, Place};
use super::model::{Clock, Model};
use super::streams::{Entry, HandleError, Schedule, Step, Streams};
use super::work::{Failure, Work};

/// Longest wait for a stream that is held or runs on another thread: a test that hangs fails instead.
const PATIENCE: Duration = Duration::from_secs(60);
/// Handles are numbers that are no addresses of anything.
const FIRST_HANDLE: u64 = 0x5_7000_0000_0000;

/// One machine with its devices. A fake has one for the life of the process.
pub struct Machine {
    pub(super) state: Mutex<State>,
    changed: Condvar,
    memory: Memory,
    started: Instant,
}

pub(super) struct State {
    pub(super) streams: Streams,
    pub(super) calls: Calls,
    pub(super) clock: Clock,
    pub(super) model: Model,
    pub(super) schedule: Schedule,
    /// Queries of an unreached event before a lazy device makes progress.
    pub(super) queries: u32,
    pub(super) failed: BTreeMap<u32, Failure>,
    pub(super) settings: BTreeMap<String, String>,
    pub(super) objects: BTreeMap<&'static str, i64>,
    next_handle: u64,
}

impl Machine {
    /// A machine at rest: lazy, free of cost, without faults.
    pub fn new() -> Arc<Self> {
        let state = State {
            streams: Streams::default(),
            calls: Calls::default(),
            clock: Clock::default(),
            model: Model::default(),
            schedule: Schedule::default(),
            queries: 2,
            failed: BTreeMap::new(),
            settings: BTreeMap::new(),
            objects: BTreeMap::new(),
            next_handle: FIRST_HANDLE,
        };
        Arc::new(Self {
            state: Mutex::new(state),
            changed: Condvar::new(),
            memory: Memory::new(),
            started: Instant::now(),
        })
    }

    /// The first line of every exported function: counts the call, charges its cost to the calling thread, and tells the code that it
    /// must answer instead of doing anything, if the script says so.
    pub fn enter(&self, symbol: &'static str) -> Option<i32> {
        let (code, until) = {
            let mut state = self.state();
            let code = state.calls.enter(symbol);
            let end = self.now(&state) + state.model.call;
            state.clock.advance_to(end);
            (code, state.model.real.then_some(end))
        };
        if let Some(until) = until {
            self.pause(until);
        }
        code
    }

    /// The memory.
    pub fn memory(&self) -> &Memory {
        &self.memory
    }

    /// What a test has set with `set KEY VALUE`: the fake's own settings.
    pub fn setting(&self, key: &str) -> Option<String> {
        self.state().settings.get(key).cloned()
    }

    /// Counts an object of the fake's own that must be freed again (a module, a program): 1 when it is made, -1 when it is freed.
    pub fn count_object(&self, kind: &'static str, change: i64) {
        *self.state().objects.entry(kind).or_insert(0) += change;
    }

    /// A number that no stream, event or other object has.
    pub fn new_handle(&self) -> u64 {
        let mut state = self.state();
        state.next_handle += 0x100;
        state.next_handle
    }

    /// Why a device does nothing any more, if it does not.
    pub fn failure(&self, device: u32) -> Option<Failure> {
        self.state().failed.get(&device).copied()
    }

    /// Makes a device fail from now on.
    pub fn fail_device(&self, device: u32, failure: Failure) {
        self.state().failed.entry(device).or_insert(failure);
        self.changed.notify_all();
    }

    /// Makes a stream of a device.
    pub fn create_stream(self: &Arc<Self>, device: u32) -> u64 {
        let handle = self.new_handle();
        let threads = {
            let mut state = self.state();
            state.streams.add_stream(handle, device);
            state.schedule == Schedule::Threads
        };
        if threads {
            let machine = Arc::clone(self);
            let run = move || machine.serve_stream(handle);
            // Without a thread the stream is as one that never gets to run.
            drop(std::thread::Builder::new().name("emulated-stream".into()).spawn(run));
        }
        handle
    }

    /// Waits for a stream's work, and ends the stream.
    ///
    /// # Errors
    /// `Unknown`.
    pub fn destroy_stream(&self, stream: u64) -> Result<(), HandleError> {
        let outcome = self.synchronize_stream(stream);
        self.state().streams.streams.remove(&stream).ok_or(HandleError::Unknown)?;
        self.changed.notify_all();
        // A stream whose device failed is destroyed all the same.
        let _ = outcome;
        Ok(())
    }

    /// Makes an event of a device.
    pub fn create_event(&self, device: u32) -> u64 {
        let handle = self.new_handle();
        self.state().streams.add_event(handle, device);
        handle
    }

    /// Ends an event.
    ///
    /// # Errors
    /// `Unknown`.
    pub fn destroy_event(&self, event: u64) -> Result<(), HandleError> {
        self.state().streams.events.remove(&event).map(drop).ok_or(HandleError::Unknown)
    }

    /// The device of a live stream.
    pub fn stream_device(&self, stream: u64) -> Option<u32> {
        self.state().streams.stream(stream).ok().map(|stream| stream.device)
    }

    /// The device of a live event.
    pub fn event_device(&self, event: u64) -> Option<u32> {
        self.state().streams.event(event).ok().map(|event| event.device)
    }

    /// Queues work.
    ///
    /// # Errors
    /// `Unknown`; `Failed` if the device is.
    pub fn submit(&self, stream: u64, work: Work) -> Result<(), HandleError> {
        let mut guard = self.state();
        let state = &mut *guard;
        let now = self.now(state);
        let queue = state.streams.stream(stream)?;
        let device = queue.device;
        if let Some(failure) = state.failed.get(&device) {
            return Err(HandleError::Failed(*failure));
        }
        let (direction, bytes) = work.cost();
        let cost = state.model.nanoseconds(direction, bytes);
        let (start, end) = state.clock.book(device, direction, now.max(queue.ready), cost);
        queue.ready = end;
        if matches!(work, Work::Copy { .. }) {
            state.calls.copied(format!("{direction:?} {bytes} {start} {end}"));
        }
        state.streams.push(stream, Entry::Work(work, end))?;
        drop(guard);
        self.changed.notify_all();
        Ok(())
    }

    /// Records an event behind what the stream has queued.
    ///
    /// # Errors
    /// `Unknown`; `Failed` if the device is.
    pub fn record(&self, event: u64, stream: u64) -> Result<(), HandleError> {
        let mut guard = self.state();
        guard.streams.record(event, stream)?;
        let device = guard.streams.stream(stream)?.device;
        let failed = guard.failed.get(&device).copied();
        drop(guard);
        self.changed.notify_all();
        failed.map_or(Ok(()), |failure| Err(HandleError::Failed(failure)))
    }

    /// Lets a stream wait for an event as it is recorded now; one that never was is reached.
    ///
    /// # Errors
    /// `Unknown`.
    pub fn wait(&self, stream: u64, event: u64) -> Result<(), HandleError> {
        self.state().streams.wait(stream, event)?;
        self.changed.notify_all();
        Ok(())
    }

    /// Whether a stream has nothing left to do.
    ///
    /// # Errors
    /// `Unknown`; `Failed` if the device is.
    pub fn query_stream(&self, stream: u64) -> Result<bool, HandleError> {
        let (position, device, lazy) = {
            let mut state = self.state();
            let lazy = state.schedule == Schedule::Lazy;
            let stream = state.streams.stream(stream)?;
            (stream.submitted, stream.device, lazy)
        };
        if lazy {
            // A stream that is polled makes progress, an entry at a time.
            self.advance(stream);
        }
        self.alive(device)?;
        Ok(self.state().streams.done(stream, position))
    }

    /// Waits for all that a stream has queued.
    ///
    /// # Errors
    /// `Unknown`; `Failed` if the device is.
    pub fn synchronize_stream(&self, stream: u64) -> Result<(), HandleError> {
        let (position, device, ready) = {
            let mut state = self.state();
            let stream = state.streams.stream(stream)?;
            (stream.submitted, stream.device, stream.ready)
        };
        self.finish(stream, position, device)?;
        self.state().clock.advance_to(ready);
        self.alive(device)
    }

    /// Waits for all streams of a device.
    ///
    /// # Errors
    /// `Failed` if the device is.
    pub fn synchronize_device(&self, device: u32) -> Result<(), HandleError> {
        let state = self.state();
        let streams = state.streams.streams.iter().filter(|(_, stream)| stream.device == device);
        let handles: Vec<u64> = streams.map(|(handle, _)| *handle).collect();
        drop(state);
        for handle in handles {
            match self.synchronize_stream(handle) {
                Ok(()) | Err(HandleError::Unknown) => {}
                Err(failed) => return Err(failed),
            }
        }
        self.alive(device)
    }

    /// Whether an event as it is recorded now was reached; one that never was recorded is.
    ///
    /// # Errors
    /// `Unknown`; `Failed` if the device is.
    pub fn query_event(&self, event: u64) -> Result<bool, HandleError> {
        let (unreached, device) = {
            let mut state = self.state();
            let (lazy, queries) = (state.schedule == Schedule::Lazy, state.queries);
            let event = state.streams.event(event)?;
            let last = event.records.last().filter(|_| event.reached < event.recorded).copied();
            event.queries += u32::from(last.is_some());
            (last.map(|record| (record, lazy && event.queries > queries)), event.device)
        };
        if let Some(((_, stream, position), true)) = unreached {
            while !self.state().streams.done(stream, position) && self.advance(stream) {}
        }
        self.alive(device)?;
        let mut state = self.state();
        let event = state.streams.event(event)?;
        Ok(event.reached >= event.recorded)
    }

    /// Waits for an event as it is recorded now.
    ///
    /// # Errors
    /// `Unknown`; `Failed` if the device is.
    pub fn synchronize_event(&self, event: u64) -> Result<(), HandleError> {
        let (record, device, time) = {
            let mut state = self.state();
            let event = state.streams.event(event)?;
            (event.records.last().copied(), event.device, event.time)
        };
        if let Some((_, stream, position)) = record {
            self.finish(stream, position, device)?;
        }
        self.state().clock.advance_to(time);
        self.alive(device)
    }

    /// Delays a stream, or lets it go on: how a test delays an engine's writes.
    ///
    /// # Errors
    /// `Unknown`.
    pub fn hold(&self, stream: u64, held: bool) -> Result<(), HandleError> {
        self.state().streams.stream(stream)?.held = held;
        self.changed.notify_all();
        Ok(())
    }

    /// What was not freed, a line each; empty if all was.
    pub fn leaks(&self) -> String {
        let state = self.state();
        let mut lines = Vec::new();
        let mut line = |what: &str, count: i64, more: String| {
            if count != 0 {
                lines.push(format!("{what} {count}{more}"));
            }
        };
        for (what, (count, bytes)) in [
            ("device-memory", self.memory.live(|place| matches!(place, Place::Device(_)))),
            ("pinned-memory", self.memory.live(|place| place == Place::Pinned)),
            ("registered-memory", self.memory.live(|place| place == Place::Registered)),
        ] {
            line(what, count.cast_signed(), format!(" ({bytes} bytes)"));
        }
        let count = |len: usize| i64::try_from(len).unwrap_or(i64::MAX);
        line("streams", count(state.streams.streams.len()), String::new());
        line("events", count(state.streams.events.len()), String::new());
        for (kind, count) in &state.objects {
            line(kind, *count, String::new());
        }
        lines.join("\n")
    }

    /// Runs entries of `stream`, or what they need, until `position` was reached.
    fn finish(&self, stream: u64, position: u64, device: u32) -> Result<(), HandleError> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let state = self.state();
            if state.streams.done(stream, position) {
                return Ok(());
            }
            let lazy = state.schedule == Schedule::Lazy;
            drop(state);
            if lazy && self.advance(stream) {
                continue;
            }
            let state = self.state();
            if state.streams.done(stream, position) {
                return Ok(());
            }
            if Instant::now() >= deadline {
                drop(state);
                self.fail_device(device, Failure::Hung);
                return Err(HandleError::Failed(Failure::Hung));
            }
            // Short, because a held stream that is released between the two locks notifies nobody.
            drop(self.changed.wait_timeout(state, Duration::from_millis(5)));
        }
    }

    /// Runs one entry of a stream, or of the one that it waits for; whether anything was done.
    fn advance(&self, stream: u64) -> bool {
        let mut stream = stream;
        loop {
            let mut state = self.state();
            match state.streams.step(stream) {
                Step::Idle | Step::Blocked => return false,
                Step::Needs(other) => stream = other,
                Step::Taken => {
                    drop(state);
                    self.changed.notify_all();
                    return true;
                }
                Step::Run(work, end, device) => {
                    self.run(state, stream, work, end, device);
                    return true;
                }
            }
        }
    }

    /// Runs work outside of the lock.
    fn run(&self, mut state: MutexGuard<'_, State>, stream: u64, work: Work, end: u64, device: u32) {
        let mut most = None;
        let failed = state.failed.contains_key(&device);
        if !failed && let Work::Copy { pieces, .. } = &work {
            let bytes: u64 = pieces.iter().map(|piece| piece.len).sum();
            most = state.calls.begin_copy().map(|thousandths| bytes / 1000 * thousandths.min(1000));
        }
        let real = state.model.real;
        drop(state);
        if real {
            self.pause(end);
        }
        let outcome = if failed { Ok(()) } else { work.run(&self.memory, most) };
        let mut state = self.state();
        if let Err(failure) = outcome {
            state.failed.entry(device).or_insert(failure);
        }
        state.streams.ended(stream);
        drop(state);
        self.changed.notify_all();
    }

    /// A stream's own thread: until the stream is destroyed.
    fn serve_stream(&self, stream: u64) {
        loop {
            let mut state = self.state();
            if !state.streams.streams.contains_key(&stream) {
                return;
            }
            match state.streams.step(stream) {
                Step::Run(work, end, device) => self.run(state, stream, work, end, device),
                Step::Taken => self.changed.notify_all(),
                Step::Idle | Step::Blocked | Step::Needs(..) => {
                    drop(self.changed.wait_timeout(state, Duration::from_millis(50)));
                }
            }
        }
    }

    fn alive(&self, device: u32) -> Result<(), HandleError> {
        self.failure(device).map_or(Ok(()), |failure| Err(HandleError::Failed(failure)))
    }

    /// The calling thread's time.
    pub(super) fn now(&self, state: &State) -> u64 {
        if state.model.real { self.elapsed() } else { state.clock.now() }
    }

    fn elapsed(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// Lets real time pass until so many nanoseconds after the machine was made.
    fn pause(&self, until: u64) {
        while let Some(left) = until.checked_sub(self.elapsed()).filter(|left| *left > 0) {
            // Wakes early at times, hence the loop.
            std::thread::park_timeout(Duration::from_nanos(left));
        }
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        // Work runs outside of the lock; what is inside changes whole fields.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Machine").field("memory", &self.memory).finish_non_exhaustive()
    }
}
