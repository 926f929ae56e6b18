//! A chunk that is held in staging until all of it is verified, and then written part by part by whoever has a hand free: first of all
//! the thread that verified the last of it.

use std::sync::Arc;

use kv_device::parts::InFlight;
use kv_memory::HostBuf;
use tokio::sync::watch;

use super::Delivered;
use super::failed::Failed;
use super::verifier::write_now;
use crate::Registered;
use crate::in_order::Turns;
use crate::parts::PlannedObject;
use crate::pipeline::Core;

/// One chunk on its way.
pub(super) struct Held {
    number: usize,
    /// Passed by each chunk that is verified: one that is behind a chunk that fails is never written.
    verified: Arc<Turns>,
    core: Arc<Core>,
    registered: Registered,
    gate: Arc<InFlight>,
    /// Changed under its lock, and watched by the chunk's task.
    state: watch::Sender<State>,
}

struct State {
    stage: Stage,
    /// Verified parts that nobody has begun to write.
    waiting: Vec<VerifiedPart>,
    /// Parts that are being written.
    under_way: usize,
    sum: Delivered,
    failed: Option<Failed>,
}

#[derive(PartialEq, Eq)]
enum Stage {
    /// So many objects are not verified yet.
    Verifying(usize),
    Writing,
    /// Nothing of it was written, and nothing will be.
    GivenUp,
}

/// A part that waits to be written.
pub(super) struct VerifiedPart {
    pub(super) object: Arc<PlannedObject>,
    /// Its number in the object.
    pub(super) part: usize,
    pub(super) buffer: HostBuf,
}

impl Held {
    pub(super) fn new(
        number: usize,
        objects: usize,
        verified: &Arc<Turns>,
        (core, registered, gate): (&Arc<Core>, &Registered, &Arc<InFlight>),
    ) -> Arc<Self> {
        let state = State {
            stage: Stage::Verifying(objects),
            waiting: Vec::new(),
            under_way: 0,
            sum: Delivered::default(),
            failed: None,
        };
        Arc::new(Self {
            number,
            verified: Arc::clone(verified),
            core: Arc::clone(core),
            registered: registered.clone(),
            gate: Arc::clone(gate),
            state: watch::Sender::new(state),
        })
    }

    /// Takes an object of which every part is verified. The thread that brings the last one goes on to write the chunk, if every chunk
    /// before it is verified.
    pub(super) fn add(&self, object: &Arc<PlannedObject>, buffers: impl Iterator<Item = HostBuf>) {
        self.state.send_modify(|state| {
            if let Stage::Verifying(missing) = &mut state.stage {
                *missing -= 1;
                let part = |(part, buffer)| VerifiedPart { object: Arc::clone(object), part, buffer };
                state.waiting.extend((0..).zip(buffers).map(part));
            }
        });
        if self.verified.has_come(self.number) && self.begin() {
            while let Some(verified) = self.take() {
                let VerifiedPart { object, part, buffer } = &verified;
                let part = &object.parts[*part];
                let written = write_now(&self.core, &self.registered, &self.gate, object, part, buffer);
                drop(verified);
                self.written(written);
            }
        }
    }

    /// Lets the chunk be written once all of it is verified; `false` if it is not. Only after the chunks before it.
    pub(super) fn begin(&self) -> bool {
        let begun = self.state.send_if_modified(|state| {
            let begins = state.stage == Stage::Verifying(0);
            if begins {
                state.stage = Stage::Writing;
            }
            begins
        });
        if begun {
            self.verified.pass(self.number);
        }
        begun
    }

    /// Waits until it may be written.
    pub(super) async fn begun(&self) {
        // The sender cannot be gone: `self` owns it.
        let _ = self.state.subscribe().wait_for(|state| state.stage == Stage::Writing).await;
    }

    /// Sees to it that nothing of the chunk is written; `false` if writing has begun.
    pub(super) fn give_up(&self) -> bool {
        let mut buffers = Vec::new();
        let given_up = self.state.send_if_modified(|state| {
            let nothing_written = state.stage != Stage::Writing;
            if nothing_written {
                state.stage = Stage::GivenUp;
                buffers = std::mem::take(&mut state.waiting);
            }
            nothing_written
        });
        drop(buffers);
        given_up
    }

    /// A part to write, if it may be written and one is left; tell [`written`](Self::written).
    pub(super) fn take(&self) -> Option<VerifiedPart> {
        let mut taken = None;
        self.state.send_if_modified(|state| {
            if state.stage == Stage::Writing && state.failed.is_none() {
                taken = state.waiting.pop();
                state.under_way += usize::from(taken.is_some());
            }
            false
        });
        taken
    }

    /// What has come of a part.
    pub(super) fn written(&self, outcome: Result<Delivered, Failed>) {
        self.state.send_modify(|state| {
            state.under_way -= 1;
            match outcome {
                Ok(delivered) => state.sum = state.sum + delivered,
                Err(failed) => {
                    state.failed.get_or_insert(failed);
                    state.waiting.clear();
                }
            }
        });
    }

    /// Waits until all that was begun is written.
    pub(super) async fn finished(&self) -> Result<Delivered, Failed> {
        let ended = |state: &State| state.waiting.is_empty() && state.under_way == 0;
        let _ = self.state.subscribe().wait_for(ended).await;
        let mut outcome = Ok(Delivered::default());
        self.state.send_if_modified(|state| {
            outcome = state.failed.take().map_or(Ok(state.sum), Err);
            false
        });
        outcome
    }
}
