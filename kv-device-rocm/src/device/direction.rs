//! One direction of a device: its stream, the dense buffer, and the tables of the transfers that are under way.
#![expect(unsafe_code, reason = "queues kernels and copies, whose memory it keeps until they have run")]

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use kv_device::parts::Completion;
use kv_device::{DeviceRegion, Error, ErrorKind, Result};
use kv_format::Transfer;
use kv_memory::{HostBuf, HostRegion as _};

use crate::Sabotage;
use crate::hip::{self, DeviceBuffer, Event, Function, Hip, Kind, Piece, PinnedRegion, Stream};
use crate::kernel::{Program, THREADS};

/// Smallest dense buffer and tables: they grow by doubling, and never shrink.
const SMALLEST_DENSE: u64 = 2 << 20;
const SMALLEST_TABLES: usize = 64 << 10;

/// One direction. `begin` runs on the direction's own thread only.
#[derive(Debug)]
pub(super) struct Direction {
    hip: Arc<Hip>,
    kernel: Function,
    kind: Kind,
    lost: Arc<OnceLock<String>>,
    state: Mutex<State>,
}

/// The order of the fields is that of their end: the stream is waited for first.
#[derive(Debug)]
struct State {
    stream: Stream,
    /// Holds the sections one behind the other. One is enough: the stream has come past the last transfer when the next one's kernel
    /// runs.
    dense: Option<DeviceBuffer>,
    /// What transfers have given back.
    slots: Vec<Slot>,
}

/// What one transfer that is under way needs of its own.
#[derive(Debug)]
struct Slot {
    tables: PinnedRegion,
    end: Event,
}

impl Direction {
    pub(super) fn new(
        hip: &Arc<Hip>,
        kernel: Function,
        kind: Kind,
        lost: Arc<OnceLock<String>>,
    ) -> Result<Self> {
        let state = State { stream: Stream::create(hip)?, dense: None, slots: Vec::new() };
        Ok(Self { hip: Arc::clone(hip), kernel, kind, lost, state: Mutex::new(state) })
    }

    pub(super) fn label(&self) -> &str {
        &self.hip.label
    }

    /// Queues a transfer whose bounds were checked; what is returned waits for its end. If it fails, nothing is under way.
    pub(super) fn begin(
        self: Arc<Self>,
        transfer: &Transfer,
        regions: &[DeviceRegion],
        staging: &mut HostBuf,
    ) -> Result<Completion> {
        self.alive()?;
        self.hip.own_thread()?;
        let Some(program) = Program::new(self.label(), transfer, regions)? else {
            return Ok(Box::new(|| Ok(())));
        };
        let mut state = self.state();
        if self.hip.sabotage == Some(Sabotage::UseAfterDestroy) {
            state.stream.destroy_early();
        }
        let mut slot = state.slot(&self.hip, program.bytes())?;
        state.reserve(&self, program.dense_bytes)?;
        program.write(slot.tables.bytes_mut());
        let queued = self.queue(&state, &program, &slot, staging.as_mut_ptr().addr() as u64);
        if let Err(error) = queued {
            // What was queued before the failure uses the buffer and the tables.
            self.settle(&state.stream, &error)?;
            state.slots.push(slot);
            return Err(error);
        }
        drop(state);
        Ok(Box::new(move || self.end(slot)))
    }

    /// The calls of one transfer: a launch and a copy, in the order of the direction, and a mark behind both.
    fn queue(&self, state: &State, program: &Program, slot: &Slot, staging: u64) -> Result<()> {
        let State { stream, dense, .. } = state;
        let dense = dense.as_ref().map_or(0, DeviceBuffer::address);
        let tables = match self.hip.sabotage {
            Some(Sabotage::PageableTables) => {
                Box::leak(vec![0_u64; 1024].into_boxed_slice()).as_ptr().addr() as u64
            }
            _ => slot.tables.device_address(),
        };
        let mut launch = program.launch(tables, dense);
        if self.kind == Kind::HostToDevice {
            self.copy(stream, program, dense, staging)?;
        }
        // SAFETY: the arguments are those of both kernels. The tables and the dense buffer are kept until the stream has come past the
        // kernel, by the slot and by this direction; the engine's memory by the caller of `register`, until `close`. What the kernel
        // writes lies in the dense buffer, or in the regions by the check of bounds.
        unsafe { stream.launch(&self.kernel, launch.grid, THREADS, &mut launch.arguments) }?;
        if self.kind == Kind::DeviceToHost {
            self.copy(stream, program, dense, staging)?;
        }
        stream.record(&slot.end)
    }

    /// Copies between the dense buffer and staging: in one call if the sections are neighbours or evenly spaced.
    fn copy(&self, stream: &Stream, program: &Program, dense: u64, staging: u64) -> Result<()> {
        let mut pieces: Vec<Piece> = Vec::with_capacity(program.sections.len());
        for (packed, place, len) in &program.sections {
            let (device, host) = (dense + packed, staging + place);
            let (to, from) = match self.kind {
                Kind::DeviceToHost => (host, device),
                Kind::HostToDevice => (device, host),
            };
            match pieces.last_mut() {
                Some(last) if last.to + last.len == to && last.from + last.len == from => last.len += len,
                _ => pieces.push(Piece { to, from, len: *len }),
            }
        }
        if self.hip.sabotage == Some(Sabotage::CopyOutside)
            && let [first, ..] = pieces.as_mut_slice()
        {
            first.len += 64 << 20;
        }
        let (first, pitches) = match pieces.as_slice() {
            [] => return Ok(()),
            [only] => {
                // SAFETY: `begin` was given the staging, which its queue keeps until the copy was waited for, as it does with the
                // dense buffer; both are as long as the sections reach, by the check of bounds and by `reserve`.
                return unsafe { stream.copy(*only, self.kind) };
            }
            [first, second, ..] => (*first, even_pitches(first, second, &pieces)),
        };
        match pitches {
            // SAFETY: as above.
            Some(pitches) => unsafe { stream.copy_rows(first, pieces.len() as u64, pitches, self.kind) },
            // SAFETY: as above.
            None => unsafe { stream.copy_pieces(&pieces, self.kind) },
        }
    }

    /// Waits for a transfer's end.
    fn end(&self, slot: Slot) -> Result<()> {
        let waited = match self.hip.sabotage {
            Some(Sabotage::SkipWait) => Ok(()),
            _ => slot.end.synchronize(),
        };
        let mut state = self.state();
        if let Err(error) = waited {
            self.settle(&state.stream, &error)?;
            state.slots.push(slot);
            return Err(error);
        }
        state.slots.push(slot);
        Ok(())
    }

    /// After a failure: makes sure that nothing of this direction is under way, or declares the device lost.
    fn settle(&self, stream: &Stream, cause: &Error) -> Result<()> {
        let outcome = stream.synchronize();
        if cause.kind() == ErrorKind::DeviceLost || outcome.is_err() {
            // The first reason stays.
            let _ = self.lost.set(cause.to_string());
            return Err(hip::lost(&self.hip, cause));
        }
        Ok(())
    }

    fn alive(&self) -> Result<()> {
        match self.lost.get() {
            None => Ok(()),
            Some(why) => {
                let message = format!("the device was lost ({why}): end the process");
                Err(Error::new(ErrorKind::DeviceLost, self.label(), message))
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Buffers and slots are replaced whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// A slot with room for tables of so many bytes, which no transfer uses.
    fn slot(&mut self, hip: &Arc<Hip>, bytes: usize) -> Result<Slot> {
        if let Some(at) = self.slots.iter().position(|slot| slot.tables.len() >= bytes) {
            return Ok(self.slots.swap_remove(at));
        }
        // A free one that is too small is replaced, so that there are never more than transfers under way.
        drop(self.slots.pop());
        let room = bytes.next_power_of_two().max(SMALLEST_TABLES);
        Ok(Slot { tables: PinnedRegion::allocate(hip, room)?, end: Event::create(hip)? })
    }

    /// Makes the dense buffer at least so long.
    fn reserve(&mut self, direction: &Direction, bytes: u64) -> Result<()> {
        if self.dense.as_ref().is_some_and(|dense| dense.len() as u64 >= bytes) {
            return Ok(());
        }
        // Transfers that are under way use the old one.
        if let Err(error) = self.stream.synchronize() {
            direction.settle(&self.stream, &error)?;
            return Err(error);
        }
        self.dense = None;
        let room = bytes.next_power_of_two().max(SMALLEST_DENSE);
        self.dense =
            Some(DeviceBuffer::allocate(&direction.hip, usize::try_from(room).unwrap_or(usize::MAX))?);
        Ok(())
    }
}

impl Drop for State {
    fn drop(&mut self) {
        // Every transfer was waited for when it ended; an error here is one that it has told already.
        let _ = self.stream.synchronize();
    }
}

/// The distances of pieces of one length, if all are the same and no two overlap.
fn even_pitches(first: &Piece, second: &Piece, pieces: &[Piece]) -> Option<(u64, u64)> {
    let to = second.to.checked_sub(first.to).filter(|pitch| *pitch >= first.len)?;
    let from = second.from.checked_sub(first.from).filter(|pitch| *pitch >= first.len)?;
    let even = pieces.windows(2).all(|pair| match pair {
        [a, b] => {
            b.len == a.len && a.to.checked_add(to) == Some(b.to) && a.from.checked_add(from) == Some(b.from)
        }
        _ => true,
    });
    even.then_some((to, from))
}
