//! A transfer on its way through a ring, piece by piece: what goes past the page cache, what does not, and where it went on after a
//! short completion. Nothing here touches the kernel.

use std::os::fd::{AsRawFd, RawFd};

use rustix::io::Errno;

use super::super::{Answer, Direction, Moved, Transfer};

/// Offsets, lengths and addresses that are multiples of this may go past the page cache. Devices ask for their logical block, 512 or
/// 4096 bytes; every staging buffer begins at a multiple of 4096 (`kv_memory::BUFFER_ALIGNMENT`).
pub(super) const ALIGNMENT: usize = 4096;

/// Most bytes of one step: the kernel moves at most 2 GiB less a page at a time.
const LARGEST: usize = 1 << 30;

/// A transfer and how much of it is done.
pub(super) struct Request {
    transfer: Transfer,
    answer: Answer,
    moved: usize,
}

/// The next step of a transfer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Piece {
    /// Open as long as the request lives.
    pub(super) file: RawFd,
    pub(super) direction: Direction,
    /// In the file.
    pub(super) offset: u64,
    /// In the buffer.
    pub(super) start: usize,
    pub(super) len: u32,
}

impl Request {
    pub(super) fn new(transfer: Transfer, answer: Answer) -> Self {
        Self { transfer, answer, moved: 0 }
    }

    /// Whether there is nothing to move.
    pub(super) fn is_empty(&self) -> bool {
        self.transfer.buffer.is_empty()
    }

    /// What to ask the kernel for: whole aligned pages past the page cache, the rest through it.
    pub(super) fn piece(&self) -> Piece {
        let Transfer { file, direction, offset, buffer } = &self.transfer;
        let offset = offset + self.moved as u64;
        let rest = buffer.len() - self.moved;
        let pages = (rest - rest % ALIGNMENT).min(LARGEST);
        let address = buffer.as_ptr().addr() + self.moved;
        let aligned = offset.is_multiple_of(ALIGNMENT as u64) && address.is_multiple_of(ALIGNMENT);
        let (file, len) = match &file.direct {
            Some(direct) if aligned && pages > 0 => (direct.as_raw_fd(), pages),
            _ => (file.plain.as_raw_fd(), rest.min(LARGEST)),
        };
        let len = u32::try_from(len).unwrap_or(u32::MAX); // it is at most `LARGEST`
        Piece { file, direction: *direction, offset, start: self.moved, len }
    }

    /// The bytes of the buffer from `start`.
    pub(super) fn bytes(&mut self, start: usize) -> &mut [u8] {
        self.transfer.buffer.get_mut(start..).unwrap_or_default()
    }

    /// Takes the kernel's answer to a piece: a count of bytes, or a negated errno. `None`: there is more to ask for.
    pub(super) fn completed(&mut self, result: i32) -> Option<Moved> {
        let Ok(count) = usize::try_from(result) else {
            let errno = Errno::from_raw_os_error(result.saturating_neg());
            return (errno != Errno::INTR).then_some(Err(errno));
        };
        if count == 0 {
            return Some(match self.transfer.direction {
                Direction::Read => Ok(false),
                Direction::Write => Err(Errno::IO), // a regular file takes at least a byte or says why not
            });
        }
        self.moved += count;
        (self.moved >= self.transfer.buffer.len()).then_some(Ok(true))
    }

    /// Gives the buffer back.
    pub(super) fn answer(self, moved: Moved) {
        (self.answer)(self.transfer.buffer, moved);
    }
}
