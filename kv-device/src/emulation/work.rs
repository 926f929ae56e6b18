//! What a stream is asked to do.

use std::fmt;

use super::memory::{Memory, Pageable};
use super::model::Direction;

/// A side of a copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// An address in an area of the machine.
    Known(u64),
    /// The program's own memory.
    Pageable(Pageable),
}

/// One piece of a copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    /// Destination.
    pub to: Side,
    /// Source.
    pub from: Side,
    /// Length in bytes.
    pub len: u64,
}

/// A kernel, or whatever else the device runs; it gets the memory.
pub type Task = Box<dyn FnOnce(&Memory) -> Result<(), Failure> + Send>;

/// One entry of a stream.
pub enum Work {
    /// A call that copies. It counts as one copy for faults, and its bytes take time on the link.
    Copy {
        /// Which link it uses.
        direction: Direction,
        /// The pieces, in order.
        pieces: Vec<Piece>,
    },
    /// A fill of device memory.
    Fill {
        /// Destination.
        to: Side,
        /// Value of every byte.
        value: u8,
        /// Length in bytes.
        len: u64,
    },
    /// A kernel that reads and writes `bytes` in all.
    Task {
        /// What it does.
        task: Task,
        /// Bytes that it moves on the device, for the model.
        bytes: u64,
    },
}

/// What went wrong on a device: the fake has a code for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Failure {
    /// The device is gone.
    DeviceLost,
    /// Something used an address that is no memory.
    IllegalAddress(u64),
    /// A stream that is held was waited for longer than any test waits.
    Hung,
}

impl fmt::Debug for Work {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Copy { direction, pieces } => write!(f, "Copy({direction:?}, {} pieces)", pieces.len()),
            Self::Fill { len, .. } => write!(f, "Fill({len} bytes)"),
            Self::Task { bytes, .. } => write!(f, "Task({bytes} bytes)"),
        }
    }
}

impl Work {
    /// Which link it uses, and its bytes.
    pub(super) fn cost(&self) -> (Direction, u64) {
        match self {
            Self::Copy { direction, pieces } => (*direction, pieces.iter().map(|piece| piece.len).sum()),
            Self::Fill { len, .. } => (Direction::OnDevice, *len),
            Self::Task { bytes, .. } => (Direction::OnDevice, *bytes),
        }
    }

    /// Does it; of a copy only the first `most` bytes, if there is a limit.
    pub(super) fn run(self, memory: &Memory, most: Option<u64>) -> Result<(), Failure> {
        match self {
            Self::Copy { pieces, .. } => {
                let mut left = most.unwrap_or(u64::MAX);
                for Piece { to, from, len } in pieces {
                    let len = len.min(left);
                    left -= len;
                    memory.copy(to, from, len)?;
                }
                if most.is_some() { Err(Failure::DeviceLost) } else { Ok(()) }
            }
            Self::Fill { to, value, len } => memory.fill(to, value, len),
            Self::Task { task, .. } => task(memory),
        }
    }
}
