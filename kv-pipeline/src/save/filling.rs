//! The content of one object: sections out of the engine's memory, their checksums while the bytes are hot, and the header at last.

use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kv_device::parts::InFlight;
use kv_format::{Checksum, ObjectHeader};
use kv_memory::HostBuf;
use kv_storage::{ByteRange, WriteSource};

use crate::crash::{self, reach};
use crate::parts::PlannedObject;
use crate::pipeline::Core;
use crate::{Error, ErrorKind, Registered, Result};

/// What an object is filled with, part by part, on whatever threads.
pub(super) struct Filling {
    core: Arc<Core>,
    object: Arc<PlannedObject>,
    registered: Registered,
    /// Closed when the save ends: from then on no store's thread reads the engine's memory.
    gate: Arc<InFlight>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    checksums: Vec<u64>,
    header: Option<ObjectHeader>,
    failed: Option<Error>,
}

impl Filling {
    pub(super) fn new(
        core: &Arc<Core>,
        object: &Arc<PlannedObject>,
        registered: &Registered,
        gate: &Arc<InFlight>,
    ) -> Arc<Self> {
        let checksums = vec![0; object.layout.sections.len()];
        Arc::new(Self {
            core: Arc::clone(core),
            object: Arc::clone(object),
            registered: registered.clone(),
            gate: Arc::clone(gate),
            state: Mutex::new(State { checksums, ..State::default() }),
        })
    }

    /// The part that is written as number `index`: the first comes last, since it holds the header.
    pub(super) fn part(&self, index: usize) -> usize {
        (index + 1) % self.object.parts.len()
    }

    /// Where the parts go, in the order in which they are written.
    pub(super) fn ranges(&self) -> Vec<ByteRange> {
        let parts = (0..self.object.parts.len()).map(|index| &self.object.parts[self.part(index)]);
        parts.map(|part| ByteRange { offset: part.offset, len: part.len }).collect()
    }

    fn gather(&self, number: usize, buffer: &mut HostBuf) -> Result<()> {
        let part = &self.object.parts[number];
        // Who closes the gate waits for this ticket, and after that the engine may give its blocks to another request.
        let Some(ticket) = self.gate.begin() else {
            return Err(Error::new(ErrorKind::Cancelled, "the save has ended"));
        };
        if !part.sections.is_empty() {
            let transfer = self.object.transfer(&self.registered, part)?;
            self.registered.memory().gather_now(&transfer, buffer)?;
        }
        drop(ticket);
        Ok(())
    }

    /// Clears the padding of a part whose sections were gathered, computes their checksums, and writes the header into the first part,
    /// which must come last.
    pub(super) fn complete(&self, number: usize, buffer: &mut HostBuf) -> Result<()> {
        let (object, part) = (&self.object, &self.object.parts[number]);
        let mut padding = if part.offset == 0 { object.header_len() } else { 0 };
        let mut computed = Vec::with_capacity(part.sections.len());
        for section in part.sections.clone() {
            let range = object.range_in(part, section);
            clear(buffer, padding..range.start);
            padding = range.end;
            computed.push(Checksum::of(&buffer[range]));
        }
        clear(buffer, padding..part.len);
        let mut state = self.state();
        state.checksums[part.sections.clone()].copy_from_slice(&computed);
        if number == 0 {
            let header = ObjectHeader {
                identity: object.identity.clone(),
                layout: object.layout.clone(),
                checksums: std::mem::take(&mut state.checksums),
                producer: self.core.producer_name.clone(),
            };
            header.encode(&mut buffer[..object.header_len()])?;
            state.header = Some(header);
        }
        Ok(())
    }

    /// Why a part could not be filled.
    pub(super) fn failed(&self) -> Option<Error> {
        self.state().failed.take()
    }

    /// The header, once the first part was completed.
    pub(super) fn header(&self) -> Option<ObjectHeader> {
        self.state().header.take()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every change is whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl WriteSource for Filling {
    /// Gathers a part on this thread and completes it; `false` if the save must not go on.
    fn fill(&self, index: usize, buffer: &mut HostBuf) -> bool {
        if index > 0 {
            reach(&self.core, crash::OBJECT_PART_WRITTEN);
        }
        let number = self.part(index);
        let filled = self.gather(number, buffer).and_then(|()| self.complete(number, buffer));
        if let Err(error) = filled {
            self.state().failed.get_or_insert(error);
            return false;
        }
        true
    }
}

/// Zeroes padding: a staging buffer holds what another object left in it.
fn clear(buffer: &mut HostBuf, range: Range<usize>) {
    if let Some(padding) = buffer.get_mut(range) {
        padding.fill(0);
    }
}
