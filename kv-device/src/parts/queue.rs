//! The transfers of one direction of one device: a bounded queue, and one thread that takes them in order.
//!
//! The buffer of a transfer belongs to its job from the moment it is queued. It comes back through a oneshot; if the caller has
//! dropped the future, the answer has no receiver and the buffer is dropped on the thread, after the last byte was moved. Every job
//! answers, even one that panics or is never run, so a caller always gets its buffer back.

use std::collections::VecDeque;
use std::fmt::Display;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use kv_format::Transfer;
use kv_memory::HostBuf;
use tokio::sync::{mpsc, oneshot};

use super::{InFlight, Ticket};
use crate::{Error, ErrorKind, Fence, Result, TransferRequest};

/// What is left of a transfer that was started: it waits for the last byte.
pub type Completion = Box<dyn FnOnce() -> Result<()> + Send>;

type Work = Box<dyn FnOnce(&Transfer, &mut HostBuf) -> Result<Option<Completion>> + Send>;
type Reply = (HostBuf, Result<()>);

/// One thread that runs transfers in the order in which they were first polled.
///
/// The thread ends when the queue is dropped and what was queued has run.
#[derive(Debug)]
pub struct TransferQueue {
    jobs: mpsc::Sender<Job>,
    device: Arc<str>,
    moved: Arc<Counters>,
}

/// What a queue has moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Moved {
    /// Transfers that succeeded.
    pub transfers: u64,
    /// Bytes of their sections.
    pub bytes: u64,
}

#[derive(Debug, Default)]
struct Counters {
    transfers: AtomicU64,
    bytes: AtomicU64,
}

impl TransferQueue {
    /// Starts the thread `name` for `device` (its `Display` stands in errors), with room for `depth` waiting transfers.
    ///
    /// # Errors
    /// [`Invalid`](ErrorKind::Invalid) for a depth of zero, [`Unavailable`](ErrorKind::Unavailable) if the system gives no thread.
    pub fn start(device: &impl Display, name: &str, depth: usize) -> Result<Self> {
        Self::start_ahead(device, name, depth, 1)
    }

    /// As [`start`](Self::start), for devices that work while the thread does not: up to `ahead` transfers of
    /// [`run_ahead`](Self::run_ahead) are under way at a time, so that the device always has the next one.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub fn start_ahead(device: &impl Display, name: &str, depth: usize, ahead: usize) -> Result<Self> {
        if depth == 0 {
            let message = format!("queue {name} has a depth of 0: give room for at least one transfer");
            return Err(Error::new(ErrorKind::Invalid, device, message));
        }
        let (jobs, queued) = mpsc::channel::<Job>(depth);
        let thread = std::thread::Builder::new().name(name.to_owned());
        let run = move || serve(queued, ahead);
        thread.spawn(run).map_err(|error| {
            let message = format!("cannot start thread {name}: raise the limit of threads");
            Error::new(ErrorKind::Unavailable, device, message).with_source(error)
        })?;
        Ok(Self { jobs, device: device.to_string().into(), moved: Arc::default() })
    }

    /// What was moved so far.
    pub fn moved(&self) -> Moved {
        let Counters { transfers, bytes } = &*self.moved;
        Moved { transfers: transfers.load(Ordering::Acquire), bytes: bytes.load(Ordering::Acquire) }
    }

    /// Queues one transfer: the thread waits for its fence, calls `work`, and hands the buffer back.
    ///
    /// `work` must check the transfer's bounds before it moves a byte ([`check_bounds`](super::check_bounds)).
    ///
    /// # Errors
    /// [`Closed`](ErrorKind::Closed) if `in_flight` is; [`Timeout`](ErrorKind::Timeout) if the fence was not reached in time;
    /// [`DeviceLost`](ErrorKind::DeviceLost) if the fence or `work` panicked; what the fence and `work` return.
    ///
    /// # Cancel safety
    /// Dropped while it waits for a place in the queue, it moves nothing; dropped later, the transfer runs to its end and keeps its
    /// buffer until then.
    pub async fn run(
        &self,
        in_flight: &Arc<InFlight>,
        request: TransferRequest,
        work: impl FnOnce(&Transfer, &mut HostBuf) -> Result<()> + Send + 'static,
    ) -> (HostBuf, Result<()>) {
        let work = |transfer: &Transfer, staging: &mut HostBuf| work(transfer, staging).map(|()| None);
        self.queue(in_flight, request, Box::new(work)).await
    }

    /// Queues one transfer of a device that works by itself: the thread waits for its fence and calls `begin`, which starts the copy
    /// and returns what waits for it; that is called after those of the transfers before it. The buffer is the job's until then.
    ///
    /// If `begin` fails, nothing may be under way any more that uses the buffer.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    ///
    /// # Cancel safety
    /// As [`run`](Self::run).
    pub async fn run_ahead(
        &self,
        in_flight: &Arc<InFlight>,
        request: TransferRequest,
        begin: impl FnOnce(&Transfer, &mut HostBuf) -> Result<Completion> + Send + 'static,
    ) -> (HostBuf, Result<()>) {
        let begin = |transfer: &Transfer, staging: &mut HostBuf| begin(transfer, staging).map(Some);
        self.queue(in_flight, request, Box::new(begin)).await
    }

    async fn queue(
        &self,
        in_flight: &Arc<InFlight>,
        request: TransferRequest,
        work: Work,
    ) -> (HostBuf, Result<()>) {
        let Some(ticket) = in_flight.begin() else {
            return (request.staging, Err(closed(&self.device)));
        };
        // Declared after the ticket, so dropped before it: what a future that is dropped here held is back when `quiesce` returns.
        let (request, work) = (request, work);
        let Ok(place) = self.jobs.reserve().await else {
            let message = "the device's thread is gone: open the device again";
            return (request.staging, Err(Error::new(ErrorKind::DeviceLost, &self.device, message)));
        };
        let (to, reply) = oneshot::channel();
        place.send(Job {
            work,
            transfer: request.transfer,
            after: request.after,
            fence_timeout: request.fence_timeout,
            moved: Arc::clone(&self.moved),
            answer: Answer { parts: Some((to, request.staging)), device: Arc::clone(&self.device) },
            ticket,
        });
        match reply.await {
            Ok(reply) => reply,
            Err(_) => unreachable!("a job answers, at the latest when it is dropped"),
        }
    }
}

impl TransferQueue {
    /// Makes one transfer on the calling thread, beside the queue: for devices whose copies the processor does.
    ///
    /// # Errors
    /// [`Closed`](ErrorKind::Closed) if `in_flight` is; [`DeviceLost`](ErrorKind::DeviceLost) if `work` panicked; what `work` returns.
    pub fn run_now(
        &self,
        in_flight: &Arc<InFlight>,
        transfer: &Transfer,
        work: impl FnOnce(&Transfer) -> Result<()>,
    ) -> Result<()> {
        let Some(ticket) = in_flight.begin() else {
            return Err(closed(&self.device));
        };
        // A panic ends the transfer, not the thread of whoever asked: the error declares lost what was left half-done.
        let moved = catch_unwind(AssertUnwindSafe(|| work(transfer)));
        let result = moved.unwrap_or_else(|_| Err(lost(&self.device)));
        if result.is_ok() {
            self.moved.count(transfer);
        }
        drop(ticket);
        result
    }
}

impl Counters {
    fn count(&self, transfer: &Transfer) {
        let bytes = transfer.sections.iter().map(|place| transfer.plan.section_bytes(place.kind)).sum();
        self.bytes.fetch_add(bytes, Ordering::AcqRel);
        self.transfers.fetch_add(1, Ordering::AcqRel);
    }
}

/// The error of a transfer of memory that was closed.
fn closed(device: &str) -> Error {
    Error::new(ErrorKind::Closed, device, "the registered memory was closed: register it again")
}

/// The error of a transfer of which nobody knows what it moved.
fn lost(device: &str) -> Error {
    let message = "a transfer did not end (its fence or its copy panicked, or the device's thread is gone): what it moved is undefined";
    Error::new(ErrorKind::DeviceLost, device, message)
}

/// One queued transfer. The fields are dropped in this order: what the work holds and the buffer before the ticket, so that both
/// are given back when `quiesce` returns.
struct Job {
    work: Work,
    transfer: Transfer,
    after: Option<Arc<dyn Fence>>,
    fence_timeout: Duration,
    moved: Arc<Counters>,
    answer: Answer,
    ticket: Ticket,
}

/// A transfer under way, with the fields in the order of a job's.
struct Started {
    completion: Completion,
    transfer: Transfer,
    moved: Arc<Counters>,
    answer: Answer,
    ticket: Ticket,
}

/// The thread of a queue: starts transfers in order while fewer than `ahead` are under way, and ends them in order.
fn serve(mut queued: mpsc::Receiver<Job>, ahead: usize) {
    let mut started: VecDeque<Started> = VecDeque::new();
    loop {
        let next = match started.len() {
            0 => match queued.blocking_recv() {
                Some(job) => Some(job),
                None => return,
            },
            under_way if under_way < ahead => queued.try_recv().ok(),
            _ => None,
        };
        match next {
            Some(job) => {
                let under_way = job.begin(&mut started);
                started.extend(under_way);
            }
            None => started.pop_front().map(Started::finish).unwrap_or_default(),
        }
    }
}

impl Job {
    /// Starts the transfer. Before it waits for a fence it ends those that are under way: nobody knows how long the fence takes.
    fn begin(self, started: &mut VecDeque<Started>) -> Option<Started> {
        let Self { work, transfer, after, fence_timeout, moved, mut answer, ticket } = self;
        let device = Arc::clone(&answer.device);
        let result = answer.parts.as_mut().map(|(_, staging)| {
            // A panic is caught so that one bad fence does not take the queue down. What the work left half-done is the content of
            // the buffer and of the regions, which the error declares lost.
            catch_unwind(AssertUnwindSafe(|| {
                let reached = match &after {
                    Some(fence) if !started.is_empty() => fence.wait(Duration::ZERO)?,
                    _ => false,
                };
                if !reached {
                    if after.is_some() {
                        started.drain(..).for_each(Started::finish);
                    }
                    wait(&device, after, fence_timeout)?;
                }
                work(&transfer, staging)
            }))
        });
        match result {
            Some(Ok(Ok(Some(completion)))) => Some(Started { completion, transfer, moved, answer, ticket }),
            Some(Ok(outcome)) => {
                let outcome = outcome.map(|_| moved.count(&transfer));
                drop(transfer);
                answer.send(outcome);
                drop(ticket);
                None
            }
            _ => {
                drop(transfer);
                drop(answer);
                drop(ticket);
                None
            }
        }
    }
}

impl Started {
    /// Waits for the last byte, and answers.
    fn finish(self) {
        let Self { completion, transfer, moved, answer, ticket } = self;
        match catch_unwind(AssertUnwindSafe(completion)) {
            Ok(outcome) => {
                let outcome = outcome.map(|()| moved.count(&transfer));
                drop(transfer);
                answer.send(outcome);
            }
            Err(_) => drop(answer),
        }
        drop(ticket);
    }
}

/// Blocks until the fence was reached.
fn wait(device: &str, fence: Option<Arc<dyn Fence>>, timeout: Duration) -> Result<()> {
    match fence {
        Some(fence) if !fence.wait(timeout)? => Err(Error::new(
            ErrorKind::Timeout,
            device,
            format!(
                "the engine's fence was not reached in {timeout:?}: nothing was moved; retry, or wait longer"
            ),
        )),
        _ => Ok(()),
    }
}

/// The duty to give the buffer back.
struct Answer {
    parts: Option<(oneshot::Sender<Reply>, HostBuf)>,
    device: Arc<str>,
}

impl Answer {
    fn send(mut self, result: Result<()>) {
        if let Some((to, staging)) = self.parts.take() {
            drop(to.send((staging, result))); // a caller that is gone leaves the buffer here, to be dropped
        }
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        if let Some((to, staging)) = self.parts.take() {
            drop(to.send((staging, Err(lost(&self.device)))));
        }
    }
}
