//! The thread that gives steps to NIXL and asks what has come of them: NIXL calls nobody back.
//!
//! It asks at once, and then as `patience.rs` says: a short transfer is noticed within tens of microseconds.
//!
//! An agent of the plugin POSIX has one transfer under way: it asks for all of its queue at a time, and an error of one could be the answer
//! for another, whose buffer the kernel still has. Where one has failed, the agent is not used again.

use std::collections::VecDeque;
use std::ffi::CString;
use std::fmt;
use std::num::NonZeroU64;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::Duration;

use kv_memory::{HostBuf, StagingPool};
use rustix::thread::set_current_timer_slack;

use super::agent::{Agent, Polled, Request, Step, Target, Way};
use super::arrival::Arrival;
use super::library::Functions;
use super::missing::Missing;
use super::patience::{Pace, Span, pause};

/// Agents that are kept for the next transfer.
const IDLE_AGENTS: usize = 16;

/// The buffer, and whether all of it was moved.
pub(crate) type Done = Box<dyn FnOnce(HostBuf, Result<(), Failed>) + Send>;

/// A transfer that did not succeed, or of which not everything arrived; NIXL does not say more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Failed;

/// A buffer, where its bytes go or come from, and who is told.
pub(crate) struct Transfer {
    pub(crate) target: Target,
    pub(crate) way: Way,
    pub(crate) offset: u64,
    pub(crate) buffer: HostBuf,
    pub(crate) done: Done,
}

/// What an agent is made of.
#[derive(Debug, Clone)]
pub(super) struct Plugin {
    pub(super) functions: &'static Functions,
    pub(super) plugin: CString,
    pub(super) parameters: Vec<(CString, CString)>,
    pub(super) staging: Option<StagingPool>,
    /// Transfers of one agent at a time.
    pub(super) transfers: usize,
    pub(super) descriptor_bytes: usize,
}

/// A thread's handle. Dropped, the thread ends what is under way, and itself.
#[derive(Debug)]
pub(super) struct Poller {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    inbox: Mutex<Inbox>,
    bell: Condvar,
}

#[derive(Default)]
struct Inbox {
    waiting: VecDeque<Transfer>,
    closed: bool,
}

impl fmt::Debug for Inbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inbox").field("waiting", &self.waiting.len()).field("closed", &self.closed).finish()
    }
}

impl Poller {
    /// Starts a thread; `ready` learns whether its first agent starts.
    pub(super) fn start(
        number: usize,
        plugin: Plugin,
        seed: u64,
        ready: mpsc::Sender<Result<(), Missing>>,
    ) -> std::io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let inner = Arc::clone(&shared);
        let serve = move || {
            // The pauses are shorter than the 50 us by which the kernel may lengthen them unasked. A kernel that will not be asked does so.
            let _ = set_current_timer_slack(NonZeroU64::new(1));
            let (arrival, pace, agents) = (Arrival::new(seed), Pace::default(), Vec::new());
            let mut driver = Driver { shared: inner, plugin, arrival, pace, made: 0, agents };
            let first = driver.agent();
            let failed = first.is_err();
            let _ = ready.send(first.map(|agent| driver.agents.push(agent)));
            if !failed {
                driver.serve();
            }
        };
        std::thread::Builder::new().name(format!("kv-nixl-{number}")).spawn(serve)?;
        Ok(Self { shared })
    }

    /// Hands a transfer to the thread.
    pub(super) fn submit(&self, transfer: Transfer) {
        self.shared.inbox().waiting.push_back(transfer);
        self.shared.bell.notify_one();
    }
}

impl Drop for Poller {
    fn drop(&mut self) {
        self.shared.inbox().closed = true;
        self.shared.bell.notify_one();
    }
}

impl Shared {
    fn inbox(&self) -> MutexGuard<'_, Inbox> {
        // What runs inside is a push or a swap.
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The thread's side.
struct Driver {
    shared: Arc<Shared>,
    plugin: Plugin,
    arrival: Arrival,
    pace: Pace,
    /// Agents so far: their names differ.
    made: u64,
    agents: Vec<Working>,
}

/// An agent and its transfers.
struct Working {
    agent: Agent,
    flights: Vec<Flight>,
    /// One of its transfers has failed.
    retired: bool,
}

/// A transfer, the step of it that is under way, and what is left of it.
struct Flight {
    /// Taken while it is asked about.
    request: Option<Request>,
    span: Span,
    rest: Rest,
}

/// What a thread marks the ends of buffers with, and what it knows of steps that have ended.
type Marks<'a> = (&'a mut Arrival, &'a mut Pace);

struct Rest {
    moved: usize,
    expected: u64,
    done: Done,
}

impl Driver {
    fn agent(&mut self) -> Result<Working, Missing> {
        let Plugin { functions, plugin, parameters, staging, .. } = &self.plugin;
        let name = format!("kvbridge-{}-{}", std::process::id(), self.made);
        self.made += 1;
        // There is no NUL in numbers.
        let name = CString::new(name).unwrap_or_default();
        let agent = Agent::new(functions, name, plugin, parameters, staging.clone())?;
        Ok(Working { agent, flights: Vec::new(), retired: false })
    }

    /// Carries transfers to the library and answers back, until the handle is dropped and nothing is left.
    fn serve(&mut self) {
        loop {
            let mut flights = self.agents.iter().flat_map(|working| &working.flights).peekable();
            let busy = flights.peek().is_some();
            let pause = pause(flights.map(|flight| flight.span));
            let Some(waiting) = self.next(pause, busy) else { return };
            if waiting.is_empty() {
                self.ask();
            }
            for transfer in waiting {
                // What is in the page cache is copied here and now: whoever waits for an earlier transfer is told before the next.
                self.begin(transfer);
                self.ask();
            }
        }
    }

    /// What has come in: waits for it, or for `pause`, if nothing has and nothing is under way. `None`: all is done.
    fn next(&self, pause: Option<Duration>, busy: bool) -> Option<VecDeque<Transfer>> {
        let mut inbox = self.shared.inbox();
        loop {
            let waiting = std::mem::take(&mut inbox.waiting);
            if !waiting.is_empty() {
                return Some(waiting);
            }
            if inbox.closed && !busy {
                return None;
            }
            match (busy, pause) {
                (false, _) => inbox = self.shared.bell.wait(inbox).unwrap_or_else(PoisonError::into_inner),
                (true, None) => {
                    drop(inbox);
                    std::thread::yield_now();
                    return Some(waiting);
                }
                (true, Some(pause)) => {
                    let waited = self.shared.bell.wait_timeout(inbox, pause);
                    let (mut inbox, _) = waited.unwrap_or_else(PoisonError::into_inner);
                    return Some(std::mem::take(&mut inbox.waiting));
                }
            }
        }
    }

    /// Begins a transfer on an agent that has room for it.
    fn begin(&mut self, transfer: Transfer) {
        let Transfer { target, way, offset, buffer, done } = transfer;
        if buffer.is_empty() {
            return done(buffer, Ok(()));
        }
        let most = self.plugin.transfers;
        let room = |working: &Working| !working.retired && working.flights.len() < most;
        let place = match self.agents.iter().position(room) {
            Some(place) => place,
            None => match self.agent() {
                Ok(working) => {
                    self.agents.push(working);
                    self.agents.len() - 1
                }
                Err(_) => return done(buffer, Err(Failed)),
            },
        };
        let len = buffer.len().min(self.plugin.descriptor_bytes);
        let step = Step { target, way, offset, start: 0, len, buffer };
        let rest = Rest { moved: 0, expected: 0, done };
        if let Some(working) = self.agents.get_mut(place) {
            working.proceed(step, rest, &self.plugin, (&mut self.arrival, &mut self.pace));
        }
    }

    /// Asks about everything that is under way.
    fn ask(&mut self) {
        for working in &mut self.agents {
            for mut flight in std::mem::take(&mut working.flights) {
                match flight.request.take().map(|request| working.agent.poll(request)) {
                    Some(Polled::GoesOn(request)) => {
                        flight.request = Some(request);
                        working.flights.push(flight);
                    }
                    Some(Polled::Ended(step, result)) => {
                        self.pace.end(step.way, step.len, flight.span);
                        let marks = (&mut self.arrival, &mut self.pace);
                        working.ended(step, result.is_ok(), flight.rest, &self.plugin, marks);
                    }
                    None => {}
                }
            }
        }
        let mut idle = 0;
        self.agents.retain(|working| {
            let free = working.agent.under_way() == 0;
            idle += usize::from(free);
            !(free && (working.retired || idle > IDLE_AGENTS))
        });
    }
}

impl Working {
    /// Gives a step to the library.
    fn proceed(&mut self, mut step: Step, mut rest: Rest, plugin: &Plugin, marks: Marks<'_>) {
        rest.expected = marks.0.prepare(&mut step);
        let span = marks.1.begin(step.way, step.len);
        match self.agent.start(step) {
            Polled::GoesOn(request) => self.flights.push(Flight { request: Some(request), span, rest }),
            Polled::Ended(step, result) => self.ended(step, result.is_ok(), rest, plugin, marks),
        }
    }

    /// Takes the library's answer to a step, which is believed only if the bytes are there.
    fn ended(&mut self, mut step: Step, moved: bool, mut rest: Rest, plugin: &Plugin, marks: Marks<'_>) {
        if !moved || !Arrival::arrived(&step, rest.expected) {
            self.retired |= plugin.transfers == 1;
            return (rest.done)(step.buffer, Err(Failed));
        }
        rest.moved += step.len;
        if rest.moved >= step.buffer.len() {
            return (rest.done)(step.buffer, Ok(()));
        }
        step.start += step.len;
        step.offset += step.len as u64;
        step.len = (step.buffer.len() - rest.moved).min(plugin.descriptor_bytes);
        self.proceed(step, rest, plugin, marks);
    }
}
