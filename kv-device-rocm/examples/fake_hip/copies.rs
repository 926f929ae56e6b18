//! Asynchronous copies and fills.

use std::ffi::{c_int, c_void};

use kv_device::emulation::{Direction, Failure, Piece, Place, Side, Work};

use crate::fake::{Answer, Fake, INVALID_HANDLE, INVALID_VALUE, In, Out, exported, handle_code};
use crate::memory::side;
use crate::queues::stream_of;

/// `hipMemcpyAttributes`.
type Attributes = *mut [u32; 6];

exported! {
    fn hipMemcpyAsync(to: *mut c_void, from: *mut c_void, bytes: usize, kind: c_int, stream: u64) |fake| {
        queue(fake, stream, kind, vec![piece(fake, to, from, bytes)?])
    }
    fn hipMemcpy2DAsync(
        to: *mut c_void, to_pitch: usize, from: *mut c_void, from_pitch: usize, width: usize, height: usize, kind: c_int,
        stream: u64,
    ) |fake| {
        // hipErrorInvalidPitchValue.
        if width > to_pitch || width > from_pitch {
            return Err(12);
        }
        let row = |row: usize| {
            piece(fake, to.wrapping_byte_add(row * to_pitch), from.wrapping_byte_add(row * from_pitch), width)
        };
        queue(fake, stream, kind, (0..height).map(row).collect::<Result<_, _>>()?)
    }
    fn hipMemcpyBatchAsync(
        to: In<*mut c_void>, from: In<*mut c_void>, sizes: In<usize>, count: usize, attributes: Attributes,
        indices: *const usize, attribute_count: usize, failed: Out<usize>, stream: u64,
    ) |fake| {
        if to.is_null() || from.is_null() || sizes.is_null() || count == 0 {
            return Err(INVALID_VALUE);
        }
        // Versions before 7.13 refuse attributes; so do all without indices for them.
        let refused = fake.version() < 71_300_000 || attributes.is_null() || indices.is_null();
        if attribute_count > 0 && refused {
            return Err(INVALID_VALUE);
        }
        let entry = |index: usize| {
            let (to, from, bytes) = (to.at(index), from.at(index), sizes.at(index));
            piece(fake, to, from, bytes).inspect_err(|_| {
                let _ = failed.set(index);
            })
        };
        let pieces: Vec<Piece> = (0..count).map(entry).collect::<Result<_, _>>()?;
        let stream = stream_of(fake, stream);
        if count > fake.number("batch-limit", 8192) as usize {
            let fault = move |_: &kv_device::emulation::Memory| Err(Failure::IllegalAddress(0));
            let work = Work::Task { task: Box::new(fault), bytes: 0 };
            return fake.machine.submit(stream, work).map_err(handle_code);
        }
        queue(fake, stream, 4, pieces)
    }
    fn hipMemsetAsync(to: *mut c_void, value: c_int, bytes: usize, stream: u64) |fake| {
        let to = side(fake, to, bytes)?;
        let value = value.to_le_bytes()[0];
        let work = Work::Fill { to, value, len: bytes as u64 };
        fake.machine.submit(stream_of(fake, stream), work).map_err(handle_code)
    }
}

fn piece(fake: &Fake, to: *mut c_void, from: *mut c_void, bytes: usize) -> Result<Piece, i32> {
    Ok(Piece { to: side(fake, to, bytes)?, from: side(fake, from, bytes)?, len: bytes as u64 })
}

/// Queues a copy whose kind (4: whatever it is) agrees with its sides.
fn queue(fake: &Fake, stream: u64, kind: c_int, pieces: Vec<Piece>) -> Answer {
    let stream = stream_of(fake, stream);
    fake.machine.stream_device(stream).ok_or(INVALID_HANDLE)?;
    let mut direction = None;
    for piece in &pieces {
        let own = match (on_device(fake, piece.from), on_device(fake, piece.to)) {
            (true, true) => Direction::OnDevice,
            (true, false) => Direction::DeviceToHost,
            (false, true) => Direction::HostToDevice,
            (false, false) => Direction::OnHost,
        };
        // hipErrorInvalidMemcpyDirection; on hardware anything may happen.
        let agrees = match kind {
            0 => own == Direction::OnHost,
            1 => own == Direction::HostToDevice,
            2 => own == Direction::DeviceToHost,
            3 => own == Direction::OnDevice,
            _ => kind == 4,
        };
        if !agrees || direction.is_some_and(|direction| direction != own) {
            return Err(21);
        }
        direction = Some(own);
    }
    let Some(direction) = direction else { return Ok(()) };
    let pageable = pieces
        .iter()
        .any(|piece| [piece.to, piece.from].iter().any(|side| matches!(side, Side::Pageable(_))));
    if pageable && fake.number("strict", 0) == 1 {
        return Err(INVALID_VALUE);
    }
    fake.machine.submit(stream, Work::Copy { direction, pieces }).map_err(handle_code)?;
    if pageable {
        // Staged by the runtime: the program's memory is done with when the call returns.
        fake.machine.synchronize_stream(stream).map_err(handle_code)?;
    }
    Ok(())
}

fn on_device(fake: &Fake, side: Side) -> bool {
    match side {
        Side::Pageable(_) => false,
        Side::Known(address) => {
            let area = fake.machine.memory().find(address);
            area.is_some_and(|area| matches!(area.place, Place::Device(_)))
        }
    }
}
