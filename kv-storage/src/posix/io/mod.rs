//! What moves the bytes of objects between buffers and files: one small trait, and what its users share.
//!
//! [`Threads`](threads::Threads) moves them at once, on the thread that asks. The io_uring engine takes the buffer, and answers from a
//! thread of its own when the kernel has let go of it; several may then be under way for one call. What is read, what is written
//! and what is answered does not depend on the engine.

#[cfg(any(feature = "io-uring", feature = "nixl"))]
mod attempt;
mod calls;
mod choice;
mod flight;
#[cfg(feature = "nixl")]
mod nixl;
#[cfg(not(feature = "nixl"))]
#[path = "no_nixl.rs"]
mod nixl;
#[cfg(feature = "io-uring")]
mod rings;
#[cfg(not(feature = "io-uring"))]
#[path = "no_rings.rs"]
mod rings;
mod threads;
#[cfg(feature = "io-uring")]
mod uring;

use std::fmt;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use kv_memory::HostBuf;

pub(super) use calls::Calls;
pub(super) use choice::choose;
pub use choice::{IoChoice, IoEngine};
pub(super) use flight::Flight;
#[cfg(any(feature = "io-uring", feature = "nixl"))]
use flight::move_one;
pub(super) use threads::{read_all, write_all};

/// Which way the bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    /// From the file into the buffer.
    Read,
    /// From the buffer into the file.
    Write,
}

/// An object's open file, as an engine uses it.
#[derive(Debug)]
pub(super) struct DataFile {
    /// Through the page cache.
    plain: Arc<OwnedFd>,
    /// The same file past the page cache.
    #[cfg_attr(
        not(feature = "io-uring"),
        expect(dead_code, reason = "only io_uring goes past the page cache")
    )]
    direct: Option<OwnedFd>,
}

/// One buffer and where its whole length goes or comes from.
#[derive(Debug)]
pub(super) struct Transfer {
    pub(super) file: Arc<DataFile>,
    pub(super) direction: Direction,
    pub(super) offset: u64,
    pub(super) buffer: HostBuf,
}

/// `true`: all bytes were moved; `false`: the file ends before.
pub(super) type Moved = rustix::io::Result<bool>;

/// Takes the buffer back. It is called once, on whatever thread knows, and must not block.
pub(super) type Answer = Box<dyn FnOnce(HostBuf, Moved) + Send>;

/// Moves bytes.
pub(super) trait Engine: fmt::Debug + Send + Sync {
    /// Transfers that one call keeps under way. At 1, [`start`](Self::start) blocks, and answers before it returns.
    fn depth(&self) -> usize;

    /// Makes an open file ready for transfers in one direction. Blocks.
    fn open(&self, file: Arc<OwnedFd>, direction: Direction) -> rustix::io::Result<DataFile>;

    /// Moves the whole buffer, over short and interrupted steps, or says why not. The engine owns the buffer until it answers.
    fn start(&self, transfer: Transfer, answer: Answer);
}
