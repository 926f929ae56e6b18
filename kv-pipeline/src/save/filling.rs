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

    /// Gathers a part on this thread and seals it, a few sections at a time; or fills in the header, which must come last.
    fn fill_now(&self, number: usize, buffer: &mut HostBuf) -> Result<()> {
        // Who closes the gate waits for this ticket, and after that the engine may give its blocks to another request.
        let Some(_ticket) = self.gate.begin() else {
            return Err(Error::new(ErrorKind::Cancelled, "the save has ended"));
        };
        let part = &self.parts[number];
        if part.offset == 0 {
            return self.header_into(buffer);
        }
        for few in self.object.few_at_a_time(part) {
            let transfer = self.object.transfer(&self.registered, &few)?;
            self.registered.memory().gather_now(&transfer, buffer)?;
            self.seal(part, few.sections, buffer);
        }
        Ok(())
    }

    /// Seals a part whose sections were gathered, or fills in the header, which must come last.
    pub(super) fn complete(&self, number: usize, buffer: &mut HostBuf) -> Result<()> {
        let part = &self.parts[number];
        if part.offset == 0 {
            return self.header_into(buffer);
        }
        self.seal(part, part.sections.clone(), buffer);
        Ok(())
    }

    /// Computes the checksums of some sections of a part, and clears the padding around them.
    fn seal(&self, part: &Part, sections: Range<usize>, buffer: &mut HostBuf) {
        let start = |section| self.object.range_in(part, section).start;
        if sections.start == part.sections.start {
            clear(buffer, 0..start(sections.start));
        }
        let mut computed = Vec::with_capacity(sections.len());
        for section in sections.clone() {
            let range = self.object.range_in(part, section);
            let next = if section + 1 < part.sections.end { start(section + 1) } else { part.len };
            clear(buffer, range.end..next);
            computed.push(Checksum::of(&buffer[range]));
        }
        self.state().checksums[sections].copy_from_slice(&computed);
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
    /// Fills a part on this thread; `false` if the save must not go on.
    fn fill(&self, index: usize, buffer: &mut HostBuf) -> bool {
        if index > 0 {
            reach(&self.core, crash::OBJECT_PART_WRITTEN);
        }
        if let Err(error) = self.fill_now(index, buffer) {
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
