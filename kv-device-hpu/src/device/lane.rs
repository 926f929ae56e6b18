//! The transfers of one direction: a bounded queue, one thread, one stream.
//!
//! The thread gives a transfer to the stream while the one before it is still being copied, so that the link does not wait for the
//! host between two of them; it completes them in order. A buffer belongs to its job from the moment it is queued until the stream has
//! done with it, whatever the caller does, and whatever fails: an error is told only when no copy of the transfer can still run.
#![expect(unsafe_code, reason = "gives copies between registered memory and owned buffers to a stream")]

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use kv_device::parts::{InFlight, Moved, Ticket, check_bounds};
use kv_device::{DeviceRegion, Error, ErrorKind, Fence, Result, TransferRequest};
use kv_format::Transfer;
use kv_memory::HostBuf;
use tokio::sync::{mpsc, oneshot};

use super::copies::calls;
use super::fence::SynapseFence;
use crate::sabotage::Break;
use crate::synapse::{Direction, Event, Session, Stream};

/// Transfers that the stream has at a time: one is copied, one is ready behind it.
const WITH_STREAM: usize = 2;
/// How often the runtime is asked again whether a stream is idle, and the pause between, before its device is given up as lost: 10 s.
const SETTLING: (u32, Duration) = (2_000, Duration::from_millis(5));

type Reply = (HostBuf, Result<()>);

/// One direction of a device. Dropping it waits for its thread, which ends what was queued and destroys the stream: an engine may release
/// the device afterwards.
#[derive(Debug)]
pub(super) struct Lane {
    /// `None` only while it is dropped.
    jobs: Option<mpsc::Sender<Job>>,
    thread: Option<JoinHandle<()>>,
    session: Arc<Session>,
    moved: Arc<Counters>,
}

impl Drop for Lane {
    fn drop(&mut self) {
        self.jobs = None; // no job will come
        // A thread that panicked has dropped what it owned as well. After a failure of the device a call may hang, and it with it.
        if let Some(thread) = self.thread.take().filter(|_| !self.session.is_lost()) {
            let _ = thread.join();
        }
    }
}

#[derive(Debug, Default)]
struct Counters {
    transfers: AtomicU64,
    bytes: AtomicU64,
}

impl Lane {
    /// Creates the stream and starts the thread.
    pub(super) fn start(session: &Arc<Session>, direction: Direction, depth: usize) -> Result<Self> {
        let name = match direction {
            Direction::ToHost => "hpu-gather",
            Direction::ToDevice => "hpu-scatter",
        };
        if depth == 0 {
            let message = format!("queue {name} has a depth of 0: give room for at least one transfer");
            return Err(Error::new(ErrorKind::Invalid, session, message));
        }
        let stream = Stream::new(session)?;
        let idle = (0..WITH_STREAM).map(|_| Event::new(session)).collect::<Result<_>>()?;
        let moved = Arc::<Counters>::default();
        let (jobs, queued) = mpsc::channel(depth);
        let worker = Worker {
            running: VecDeque::new(),
            idle,
            stream,
            session: Arc::clone(session),
            direction,
            moved: Arc::clone(&moved),
        };
        let thread = thread::Builder::new().name(name.to_owned());
        let thread = thread.spawn(move || worker.run(queued)).map_err(|error| {
            let message = format!("cannot start thread {name}: raise the limit of threads");
            Error::new(ErrorKind::Unavailable, session, message).with_source(error)
        })?;
        Ok(Self { jobs: Some(jobs), thread: Some(thread), session: Arc::clone(session), moved })
    }

    /// What was moved so far.
    pub(super) fn moved(&self) -> Moved {
        let Counters { transfers, bytes } = &*self.moved;
        Moved { transfers: transfers.load(Ordering::Acquire), bytes: bytes.load(Ordering::Acquire) }
    }

    /// Queues one transfer and waits for it.
    ///
    /// # Safety
    /// The regions stay allocated until `in_flight` was closed, and nothing else touches what the transfer names while it runs.
    pub(super) async unsafe fn run(
        &self,
        in_flight: &Arc<InFlight>,
        regions: &Arc<[DeviceRegion]>,
        request: TransferRequest,
    ) -> Reply {
        let Some(ticket) = in_flight.begin() else {
            let message = "the registered memory was closed: register it again";
            return (request.staging, Err(Error::new(ErrorKind::Closed, &self.session, message)));
        };
        // Declared after the ticket, so dropped before it: the buffer of a future that is dropped here is back when `quiesce` returns.
        let request = request;
        let place = match &self.jobs {
            Some(jobs) => jobs.reserve().await.ok(),
            None => None,
        };
        let Some(place) = place else {
            return (request.staging, Err(unfinished(&self.session)));
        };
        let (to, reply) = oneshot::channel();
        place.send(Job {
            transfer: request.transfer,
            regions: Arc::clone(regions),
            after: request.after,
            fence_timeout: request.fence_timeout,
            answer: Answer { parts: Some((to, request.staging)), session: Arc::clone(&self.session) },
            ticket,
        });
        match reply.await {
            Ok(reply) => reply,
            Err(_) => unreachable!("a job answers, at the latest when it is dropped"),
        }
    }
}

/// One queued transfer. The fields are dropped in this order: the buffer before the ticket, so that it is back when `quiesce` returns.
struct Job {
    transfer: Transfer,
    regions: Arc<[DeviceRegion]>,
    after: Option<Arc<dyn Fence>>,
    fence_timeout: Duration,
    answer: Answer,
    #[expect(dead_code, reason = "held until the job is dropped")]
    ticket: Ticket,
}

/// The duty to give the buffer back.
struct Answer {
    parts: Option<(oneshot::Sender<Reply>, HostBuf)>,
    session: Arc<Session>,
}

impl Answer {
    fn send(&mut self, result: Result<()>) {
        if let Some((to, staging)) = self.parts.take() {
            drop(to.send((staging, result))); // a caller that is gone leaves the buffer here, to be dropped
        }
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        let error = Err(unfinished(&self.session));
        self.send(error);
    }
}

/// The error of a transfer of which nobody knows what it moved.
fn unfinished(session: &Arc<Session>) -> Error {
    let message = "a transfer did not end (its fence panicked, or the device's thread is gone): what it moved is undefined";
    Error::new(ErrorKind::DeviceLost, session, message)
}

/// What the thread owns. Dropped in this order: nothing runs any more when events and stream are destroyed.
struct Worker {
    running: VecDeque<(Job, Event)>,
    idle: Vec<Event>,
    stream: Stream,
    session: Arc<Session>,
    direction: Direction,
    moved: Arc<Counters>,
}

impl Worker {
    fn run(mut self, mut queued: mpsc::Receiver<Job>) {
        loop {
            let job = match self.running.len() {
                0 => queued.blocking_recv(),
                WITH_STREAM => None,
                _ => queued.try_recv().ok(),
            };
            match job {
                Some(job) => self.begin(job),
                None if self.running.is_empty() => return,
                None => self.complete_oldest(),
            }
        }
    }

    /// Gives a transfer to the stream, or its error to the caller.
    fn begin(&mut self, mut job: Job) {
        // A panic is caught so that one bad fence does not take the thread down.
        match catch_unwind(AssertUnwindSafe(|| self.submit(&mut job))) {
            Ok(Ok(event)) => self.running.push_back((job, event)),
            Ok(Err(error)) => job.answer.send(Err(error)),
            Err(_) => {
                self.settle();
                drop(job);
            }
        }
    }

    /// Waits for the fence, checks the transfer, and starts its copies with an event behind them.
    fn submit(&mut self, job: &mut Job) -> Result<Event> {
        if let Some(fence) = job.after.take()
            && !self.session.sabotage().breaks(Break::DropFence)
        {
            self.wait(&*fence, job.fence_timeout)?;
        }
        let Some((_, staging)) = &mut job.answer.parts else { return Err(unfinished(&self.session)) };
        check_bounds(&self.session, &job.transfer, &job.regions, staging.len())?;
        let mut address = staging.as_mut_ptr().expose_provenance() as u64;
        if self.session.sabotage().breaks(Break::CopyOutsideMapping) {
            address += 1 << 40;
        }
        let event = match self.idle.pop() {
            Some(event) => event,
            None => Event::new(&self.session)?,
        };
        let mut started = Ok(());
        for copies in calls(&job.transfer, &job.regions, address, self.direction) {
            if started.is_ok() {
                // SAFETY: every byte is inside a registered region and inside the job's buffer, which were checked above. Whoever
                // registered the regions keeps them until the job's ticket is gone; the buffer is the job's. Both outlive the copies,
                // since a job ends only after its event was reached or the stream has settled.
                started = unsafe { self.stream.copy(&copies, self.direction) };
            }
        }
        if let Err(error) = started.and_then(|()| event.record(&self.stream)) {
            // Some of the copies may run.
            self.settle();
            self.idle.push(event);
            return Err(error);
        }
        Ok(event)
    }

    /// Waits for the engine, and orders the stream behind it. What the stream has meanwhile is completed first if that takes time.
    fn wait(&mut self, fence: &dyn Fence, timeout: Duration) -> Result<()> {
        let native = (fence as &dyn std::any::Any).downcast_ref::<SynapseFence>();
        if !native.is_some_and(|fence| fence.is_reached().is_ok_and(|reached| reached)) {
            while !self.running.is_empty() {
                self.complete_oldest();
            }
            if !fence.wait(timeout)? {
                let message = format!(
                    "the engine's fence was not reached in {timeout:?}: nothing was moved; retry, or wait longer"
                );
                return Err(Error::new(ErrorKind::Timeout, &self.session, message));
            }
        }
        native.map_or(Ok(()), |fence| self.stream.wait_for(fence.event()))
    }

    /// Waits for the oldest transfer's event and gives its buffer back.
    fn complete_oldest(&mut self) {
        let Some((mut job, event)) = self.running.pop_front() else { return };
        let skips = self.session.sabotage().breaks(Break::SkipCompletion);
        let done = if skips { Ok(()) } else { event.synchronize() };
        if done.is_err() {
            self.settle();
        } else {
            let bytes = job.transfer.sections.iter().map(|place| job.transfer.plan.section_bytes(place.kind));
            self.moved.bytes.fetch_add(bytes.sum(), Ordering::AcqRel);
            self.moved.transfers.fetch_add(1, Ordering::AcqRel);
        }
        self.idle.push(event);
        job.answer.send(done);
    }

    /// After a failure: waits until no copy of the stream can still run, or the device is lost.
    fn settle(&self) {
        let (attempts, pause) = SETTLING;
        for _ in 0..attempts {
            match self.stream.synchronize() {
                Ok(()) => return,
                Err(_) if self.session.is_lost() => return,
                Err(_) => thread::park_timeout(pause),
            }
        }
        self.session.give_up();
    }
}
