//! The content of one object: sections out of the engine's memory, their checksums while the bytes are hot, and the header at last.

use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kv_device::parts::InFlight;
use kv_format::{Checksum, ObjectHeader};
use kv_memory::HostBuf;
use kv_storage::{ByteRange, WriteSource};

use crate::crash::{self, reach};
use crate::parts::{Part, PlannedObject};
use crate::pipeline::Core;
use crate::{Error, ErrorKind, Registered, Result};

/// What an object is filled with, part by part, on whatever threads.
pub(super) struct Filling {
    core: Arc<Core>,
    object: Arc<PlannedObject>,
    /// What is written, in this order.
    parts: Vec<Part>,
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
            parts: in_order(object),
            registered: registered.clone(),
            gate: Arc::clone(gate),
            state: Mutex::new(State { checksums, ..State::default() }),
        })
    }

    /// What is written, in this order: the sections from front to back, then the header.
    pub(super) fn parts(&self) -> &[Part] {
        &self.parts
    }

    /// Where the parts go.
    pub(super) fn ranges(&self) -> Vec<ByteRange> {
        self.parts.iter().map(|part| ByteRange { offset: part.offset, len: part.len }).collect()
    }

    fn gather(&self, number: usize, buffer: &mut HostBuf) -> Result<()> {
        let part = &self.parts[number];
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

    /// Clears the padding of a part whose sections were gathered and computes their checksums; fills in the header, which must come last.
    pub(super) fn complete(&self, number: usize, buffer: &mut HostBuf) -> Result<()> {
        let (object, part) = (&self.object, &self.parts[number]);
        if part.offset == 0 {
            return self.header_into(buffer);
        }
        let mut padding = 0;
        let mut computed = Vec::with_capacity(part.sections.len());
        for section in part.sections.clone() {
            let range = object.range_in(part, section);
            clear(buffer, padding..range.start);
            padding = range.end;
            computed.push(Checksum::of(&buffer[range]));
        }
        clear(buffer, padding..part.len);
        self.state().checksums[part.sections.clone()].copy_from_slice(&computed);
        Ok(())
    }

    fn header_into(&self, buffer: &mut HostBuf) -> Result<()> {
        let mut state = self.state();
        let header = ObjectHeader {
            identity: self.object.identity.clone(),
            layout: self.object.layout.clone(),
            checksums: std::mem::take(&mut state.checksums),
            producer: self.core.producer_name.clone(),
        };
        header.encode(buffer)?;
        state.header = Some(header);
        Ok(())
    }

    /// Why a part could not be filled.
    pub(super) fn failed(&self) -> Option<Error> {
        self.state().failed.take()
    }

    /// The header, once it was filled in.
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
        let filled = self.gather(index, buffer).and_then(|()| self.complete(index, buffer));
        if let Err(error) = filled {
            self.state().failed.get_or_insert(error);
            return false;
        }
        true
    }
}

/// The parts of an object from front to back, and the header behind them, since it holds what is computed of them. The first bytes of
/// a huge page make a file system clear the rest of it: written from front to back, hardly anything is left to clear.
fn in_order(object: &PlannedObject) -> Vec<Part> {
    let header_len = object.header_len();
    let behind = object.parts.iter().map(|part| {
        let header = if part.offset == 0 { header_len } else { 0 };
        let (offset, len) = (part.offset + header as u64, part.len - header);
        Part { offset, len, sections: part.sections.clone() }
    });
    let header = Part { offset: 0, len: header_len, sections: 0..0 };
    behind.filter(|part| part.len > 0).chain([header]).collect()
}

/// Zeroes padding: a staging buffer holds what another object left in it.
fn clear(buffer: &mut HostBuf, range: Range<usize>) {
    if let Some(padding) = buffer.get_mut(range) {
        padding.fill(0);
    }
}
