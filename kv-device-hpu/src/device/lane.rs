//! The transfers of one direction: a queue with its thread, and a stream.
//!
//! The thread gives a transfer to the stream while the one before it is still being copied, so that the link does not wait for the
//! host between two of them. Whatever fails, a transfer ends only when no copy of it can still run.
#![expect(unsafe_code, reason = "gives copies between registered memory and owned buffers to a stream")]

use std::any::Any;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use kv_device::parts::{Completion, InFlight, Moved, TransferQueue, check_bounds};
use kv_device::{DeviceRegion, Fence, Result, TransferRequest};
use kv_format::Transfer;
use kv_memory::HostBuf;

use super::copies::calls;
use super::fence::SynapseFence;
use crate::sabotage::Break;
use crate::synapse::{Direction, Event, Session, Stream};

/// Transfers that the stream has at a time: one is copied, one is ready behind it.
const WITH_STREAM: usize = 2;
/// How often the runtime is asked again whether a stream is idle, and the pause between, before its device is given up as lost: 10 s.
const SETTLING: (u32, Duration) = (2_000, Duration::from_millis(5));

/// One direction of a device. The thread ends when it is dropped and what was queued has ended.
#[derive(Debug)]
pub(super) struct Lane {
    queue: TransferQueue,
    copier: Arc<Copier>,
}

/// The stream, and events to record behind its copies. Transfers share it; the last one returns it to the runtime.
#[derive(Debug)]
struct Copier {
    idle: Mutex<Vec<Event>>,
    stream: Stream,
    session: Arc<Session>,
    direction: Direction,
}

impl Lane {
    /// Creates the stream and starts the thread.
    pub(super) fn start(session: &Arc<Session>, direction: Direction, depth: usize) -> Result<Self> {
        let name = match direction {
            Direction::ToHost => "hpu-gather",
            Direction::ToDevice => "hpu-scatter",
        };
        let queue = TransferQueue::start_ahead(session, name, depth, WITH_STREAM)?;
        let stream = Stream::new(session)?;
        let idle = (0..WITH_STREAM).map(|_| Event::new(session)).collect::<Result<_>>()?;
        let copier = Copier { idle: Mutex::new(idle), stream, session: Arc::clone(session), direction };
        Ok(Self { queue, copier: Arc::new(copier) })
    }

    /// What was moved so far.
    pub(super) fn moved(&self) -> Moved {
        self.queue.moved()
    }

    /// Queues one transfer and waits for it.
    ///
    /// # Safety
    /// The regions stay allocated until `in_flight` was closed, and nothing else touches what the transfer names while it runs.
    pub(super) async unsafe fn run(
        &self,
        in_flight: &Arc<InFlight>,
        regions: &Arc<[DeviceRegion]>,
        mut request: TransferRequest,
    ) -> (HostBuf, Result<()>) {
        if self.copier.session.sabotage().breaks(Break::DropFence) {
            request.after = None;
        }
        let (copier, regions, after) = (Arc::clone(&self.copier), Arc::clone(regions), request.after.clone());
        let begin = move |transfer: &Transfer, staging: &mut HostBuf| {
            copier.order_behind(after.as_deref())?;
            // SAFETY: who registered the regions keeps them until the transfer's ticket is gone, by this function's contract; the queue
            // keeps the buffer, and the ticket, until the completion has returned.
            let event = unsafe { copier.start(transfer, &regions, staging) }?;
            let completion: Completion = Box::new(move || copier.complete(event));
            Ok(completion)
        };
        self.queue.run_ahead(in_flight, request, begin).await
    }
}

impl Copier {
    /// Orders the stream behind a fence of this runtime, which the thread has seen reached: so the runtime documents order between
    /// streams, and not by what a host has seen.
    fn order_behind(&self, fence: Option<&dyn Fence>) -> Result<()> {
        // Left out together with its own look, which it would hide for as long as the engine takes.
        let breaks = self.session.sabotage().breaks(Break::BusyIsReached);
        match fence.and_then(|fence| (fence as &dyn Any).downcast_ref::<SynapseFence>()) {
            Some(fence) if !breaks => self.stream.wait_for(fence.event()),
            _ => Ok(()),
        }
    }

    /// Checks a transfer and starts its copies, with an event behind them. After an error none runs.
    ///
    /// # Safety
    /// The regions and the buffer stay allocated until [`complete`](Self::complete) has returned, and nothing else touches what the
    /// transfer names.
    unsafe fn start(
        &self,
        transfer: &Transfer,
        regions: &[DeviceRegion],
        staging: &mut HostBuf,
    ) -> Result<Event> {
        check_bounds(&self.session, transfer, regions, staging.len())?;
        let mut address = staging.as_mut_ptr().expose_provenance() as u64;
        if self.session.sabotage().breaks(Break::CopyOutsideMapping) {
            address += 1 << 40;
        }
        let idle = self.idle().pop();
        let event = idle.map_or_else(|| Event::new(&self.session), Ok)?;
        let mut started = Ok(());
        for copies in calls(transfer, regions, address, self.direction) {
            if started.is_ok() {
                // SAFETY: every byte is inside a registered region and inside the buffer, which was checked above; both outlive the
                // copies by this function's contract.
                started = unsafe { self.stream.copy(&copies, self.direction) };
            }
        }
        if let Err(error) = started.and_then(|()| event.record(&self.stream)) {
            // Some of the copies may run.
            self.settle();
            self.idle().push(event);
            return Err(error);
        }
        Ok(event)
    }

    /// Waits for the event of a transfer.
    fn complete(&self, event: Event) -> Result<()> {
        let skips = self.session.sabotage().breaks(Break::SkipCompletion);
        let done = if skips { Ok(()) } else { event.synchronize() };
        if done.is_err() {
            self.settle();
        }
        self.idle().push(event);
        done
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

    fn idle(&self) -> MutexGuard<'_, Vec<Event>> {
        // A list of events has no state that a panic could leave half-changed.
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
