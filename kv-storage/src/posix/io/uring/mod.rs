//! io_uring: many transfers under way without a thread for each, and past the page cache where everything is aligned.

mod request;
#[expect(unsafe_code, reason = "the kernel is told addresses of buffers that the ring owns")]
mod ring;
#[cfg(test)]
mod tests;

use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use kv_memory::StagingPool;
use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::io::retry_on_intr;

use self::request::Request;
use self::ring::Ring;
use super::{Answer, DataFile, Direction, Engine, Transfer};

/// Transfers that one call keeps under way: at 1 MiB each, 8 to 16 are what a disk needs to be busy.
pub(super) const DEPTH: usize = 16;

/// The rings of one store, used in turns.
#[derive(Debug)]
pub(super) struct Uring {
    rings: Vec<Ring>,
    turn: AtomicUsize,
    direct: bool,
}

impl Uring {
    /// Sets up `rings` rings; with `pool`, its memory is registered with each where the system permits it.
    pub(super) fn start(rings: usize, pool: Option<&StagingPool>) -> std::io::Result<Self> {
        let rings = (0..rings.max(1)).map(|number| Ring::start(number, pool)).collect::<Result<_, _>>()?;
        Ok(Self { rings, turn: AtomicUsize::new(0), direct: false })
    }

    /// Whether files are opened past the page cache from now on.
    pub(super) fn set_direct(&mut self, direct: bool) {
        self.direct = direct;
    }

    /// Bytes of memory that are registered, or why none are; `None` if no pool was given.
    pub(super) fn fixed(&self) -> Option<&std::io::Result<usize>> {
        let failed = self.rings.iter().filter_map(Ring::fixed).find(|fixed| fixed.is_err());
        failed.or_else(|| self.rings.first()?.fixed())
    }

    /// How many rings there are.
    pub(super) fn rings(&self) -> usize {
        self.rings.len()
    }
}

impl Engine for Uring {
    fn depth(&self) -> usize {
        DEPTH
    }

    fn open(&self, file: Arc<OwnedFd>, direction: Direction) -> rustix::io::Result<DataFile> {
        let direct = if self.direct { Some(past_the_cache(&file, direction)?) } else { None };
        Ok(DataFile { plain: file, direct })
    }

    fn start(&self, transfer: Transfer, answer: Answer) {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed) % self.rings.len();
        if let Some(ring) = self.rings.get(turn) {
            ring.submit(Request::new(transfer, answer));
        }
    }
}

/// Opens an open file once more, without the page cache. The way over `/proc` reaches that very file, whatever its name is by now.
fn past_the_cache(file: &OwnedFd, direction: Direction) -> rustix::io::Result<OwnedFd> {
    let way = match direction {
        Direction::Read => OFlags::RDONLY,
        Direction::Write => OFlags::WRONLY,
    };
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    let flags = way | OFlags::DIRECT | OFlags::CLOEXEC | OFlags::NOCTTY | OFlags::NONBLOCK;
    retry_on_intr(|| openat(CWD, path.as_str(), flags, Mode::empty()))
}
