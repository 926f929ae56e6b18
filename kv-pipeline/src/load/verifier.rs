//! What happens to each part of an object as it is read: verified where it was read, while it is in that core's cache; and then kept,
//! dropped, or written into the engine's memory at once.

use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kv_device::parts::InFlight;
use kv_format::{Checksum, ObjectHeader};
use kv_memory::HostBuf;
use kv_storage::{Next, ObjectMeta, ReadSink, Version};

use super::failed::Failed;
use super::held::Held;
use super::{Delivered, StopReason};
use crate::parts::{Part, PlannedObject};
use crate::pipeline::Core;
use crate::stats::count;
use crate::{Error, Registered};

/// What becomes of a part that was verified.
pub(super) enum Verified {
    /// It is kept for whoever asks for it.
    Keep,
    /// It was only to be verified.
    Drop,
    /// It is kept with the rest of its chunk, which is written once all of it is verified.
    Hold(Arc<Held>),
    /// The thread that read it writes it into the engine's memory, unless the load has ended meanwhile.
    Deliver { core: Arc<Core>, registered: Registered, gate: Arc<InFlight> },
}

/// Verifies the parts of one object in whatever calls they are read.
pub(super) struct Verifier {
    /// Of the chunk's objects.
    index: usize,
    object: Arc<PlannedObject>,
    /// Numbers of the parts that are asked for.
    parts: Range<usize>,
    then: Verified,
    state: Mutex<State>,
}

/// What was seen so far.
#[derive(Default)]
pub(super) struct State {
    /// Once the first part was read.
    pub(super) header: Option<Arc<ObjectHeader>>,
    pub(super) version: Option<Version>,
    /// The verified parts of the read, in its order, if they are kept.
    pub(super) kept: Vec<HostBuf>,
    pub(super) delivered: Delivered,
    failed: Option<Failed>,
    /// Which parts were handed over: each must be, once.
    taken: Vec<Taken>,
}

/// What became of one part of a read.
#[derive(Default)]
enum Taken {
    #[default]
    Missing,
    /// Handed over, and perhaps not verified yet.
    Begun,
    Verified(Option<HostBuf>),
}

impl Verifier {
    /// A verifier of a read of `parts`; what was `seen` is of an earlier read of the same object, if there was one.
    pub(super) fn new(
        index: usize,
        object: &Arc<PlannedObject>,
        parts: Range<usize>,
        seen: State,
        then: Verified,
    ) -> Arc<Self> {
        let taken = parts.clone().map(|_| Taken::Missing).collect();
        let state = State { kept: Vec::new(), failed: None, taken, ..seen };
        Arc::new(Self { index, object: Arc::clone(object), parts, then, state: Mutex::new(state) })
    }

    /// What was seen, if every part was handed over and is right.
    pub(super) fn finish(&self, store: &dyn std::fmt::Display) -> Result<State, Failed> {
        let mut state = std::mem::take(&mut *self.state());
        if let Some(failed) = state.failed.take() {
            return Err(failed);
        }
        for taken in std::mem::take(&mut state.taken) {
            match taken {
                Taken::Verified(buffer) => state.kept.extend(buffer),
                _ => {
                    let message =
                        format!("{store} has not handed every part over: run its conformance suite");
                    return Err(self.unavailable(message));
                }
            }
        }
        Ok(state)
    }

    fn unavailable(&self, message: String) -> Failed {
        Failed::reason(StopReason::Unavailable, self.index, message)
    }

    /// Takes note that a part of the read was handed over, which happens once for each.
    fn begin(&self, index: usize) -> Result<usize, Failed> {
        let mut state = self.state();
        match state.taken.get_mut(index) {
            Some(taken @ Taken::Missing) => {
                *taken = Taken::Begun;
                Ok(self.parts.start + index)
            }
            _ => {
                let message = format!(
                    "{}: the store handed a part over twice, or one that was not asked for: run its conformance suite",
                    self.object.name
                );
                Err(self.unavailable(message))
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every change is whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Verifies a part and delivers it if that is wanted.
    fn verify(&self, meta: &ObjectMeta, number: usize, buffer: &HostBuf) -> Result<(), Failed> {
        let part =
            self.object.parts.get(number).filter(|part| part.len == buffer.len()).ok_or_else(|| {
                let message = format!(
                    "{}: the store gave back another buffer than it got: run its conformance suite",
                    self.object.name
                );
                self.unavailable(message)
            })?;
        let header = self.header(meta, number, buffer)?;
        self.sections(part, &header, meta, buffer)?;
        if let Verified::Deliver { core, registered, gate } = &self.then {
            let delivered = write_now(core, registered, gate, &self.object, part, buffer)?;
            let mut state = self.state();
            state.delivered = state.delivered + delivered;
        }
        Ok(())
    }

    /// The header, which the first part brings.
    fn header(&self, meta: &ObjectMeta, number: usize, buffer: &[u8]) -> Result<Arc<ObjectHeader>, Failed> {
        let unavailable = |what| self.unavailable(format!("{} {what}", self.object.name));
        let known = {
            let mut state = self.state();
            if *state.version.get_or_insert_with(|| meta.version.clone()) != meta.version {
                return Err(unavailable("was replaced while it was read"));
            }
            state.header.clone()
        };
        if number > 0 {
            return known.ok_or_else(|| unavailable("was handed over without its first part first"));
        }
        let object = &self.object;
        let decoded = ObjectHeader::decode(buffer.get(..object.header_len()).unwrap_or_default(), meta.len)
            .and_then(|header| object.expect(&header).map(|()| header))
            .map_err(|error| Failed::header(self.index, &object.name, &error, meta))?;
        Ok(Arc::clone(self.state().header.insert(Arc::new(decoded))))
    }

    /// Compares the checksum of every section of a part.
    fn sections(
        &self,
        part: &Part,
        header: &ObjectHeader,
        meta: &ObjectMeta,
        buffer: &[u8],
    ) -> Result<(), Failed> {
        let object = &self.object;
        for section in part.sections.clone() {
            let computed = Checksum::of(&buffer[object.range_in(part, section)]);
            let stored = header.checksums.get(section).copied();
            if Some(computed) != stored {
                let place = &object.layout.sections[section];
                let message = format!(
                    "{}: {:?} of layer {}: checksum {computed:016x}, the header says {:016x}",
                    object.name,
                    place.kind,
                    place.layer,
                    stored.unwrap_or_default()
                );
                return Err(Failed::corrupt(self.index, message, Some(meta.clone())));
            }
        }
        Ok(())
    }
}

impl ReadSink for Verifier {
    fn filled(&self, meta: &ObjectMeta, index: usize, buffer: HostBuf) -> Next {
        let verified = self.begin(index).and_then(|number| self.verify(meta, number, &buffer));
        let mut state = self.state();
        if let Err(failed) = verified {
            state.failed.get_or_insert(failed);
            return Next::Stop;
        }
        let (kept, next) = match self.then {
            Verified::Keep | Verified::Hold(_) => (Some(buffer), Next::Kept),
            Verified::Drop | Verified::Deliver { .. } => (None, Next::Reuse(buffer)),
        };
        if let Some(taken) = state.taken.get_mut(index) {
            *taken = Taken::Verified(kept);
        }
        if let Verified::Hold(held) = &self.then
            && let Some(buffers) = state.all_verified()
        {
            drop(state);
            held.add(&self.object, buffers.into_iter());
        }
        next
    }
}

impl State {
    /// The buffers of all parts of the read, once the last of them is verified.
    fn all_verified(&mut self) -> Option<Vec<HostBuf>> {
        if self.failed.is_some() || !self.taken.iter().all(|taken| matches!(taken, Taken::Verified(_))) {
            return None;
        }
        let buffer = |taken: &mut Taken| match taken {
            Taken::Verified(buffer) => buffer.take(),
            Taken::Missing | Taken::Begun => None,
        };
        Some(self.taken.iter_mut().filter_map(buffer).collect())
    }
}

/// Writes a verified part into the engine's memory on this thread, unless the load has ended.
pub(super) fn write_now(
    core: &Core,
    registered: &Registered,
    gate: &Arc<InFlight>,
    object: &PlannedObject,
    part: &Part,
    buffer: &HostBuf,
) -> Result<Delivered, Failed> {
    // Who closes the gate waits for this ticket, and after that the engine may give its blocks to another request.
    let Some(ticket) = gate.begin() else {
        return Err(Failed::Error(Error::new(crate::ErrorKind::Cancelled, "the load has ended")));
    };
    if part.sections.is_empty() {
        return Ok(Delivered::default());
    }
    let transfer = object.delivery(registered, part)?;
    registered.memory().scatter_now(&transfer, buffer).map_err(Error::from)?;
    drop(ticket);
    Ok(delivered(core, object, part))
}

/// Counts a part that is in the engine's memory.
pub(super) fn delivered(core: &Core, object: &PlannedObject, part: &Part) -> Delivered {
    let bytes = part.sections.clone().map(|section| object.layout.sections[section].len).sum::<u64>();
    let sections = part.sections.len() as u64;
    count(&core.counters.sections_verified, sections);
    count(&core.counters.bytes_loaded, bytes);
    Delivered { sections, bytes }
}
