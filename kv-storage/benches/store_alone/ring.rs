//! The plain loop over an io_uring: one thread, one ring, one file after the other.

use std::fs::File;
use std::os::fd::AsRawFd;

use io_uring::{IoUring, opcode, types};
use kv_memory::HostBuf;

use crate::PART;

/// A thread's ring.
pub(crate) struct Ring(IoUring);

impl Ring {
    pub(crate) fn new() -> Self {
        Self(IoUring::new(64).unwrap())
    }

    /// Moves all of a file, `depth` steps of `call` bytes at a time. Every step must be complete, or the benchmark ends.
    pub(crate) fn run(
        &mut self,
        file: &File,
        buffers: &mut [HostBuf],
        len: usize,
        (call, depth): (usize, usize),
        save: bool,
    ) {
        let file = types::Fd(file.as_raw_fd());
        let size = u32::try_from(call).unwrap();
        let mut steps = (0..len / call).peekable();
        let mut under_way = 0;
        while under_way > 0 || steps.peek().is_some() {
            for step in steps.by_ref().take(depth - under_way) {
                let offset = step * call;
                let bytes = &mut buffers[offset / PART][offset % PART..][..call];
                let at = offset as u64;
                let entry = if save {
                    opcode::Write::new(file, bytes.as_ptr(), size).offset(at).build()
                } else {
                    opcode::Read::new(file, bytes.as_mut_ptr(), size).offset(at).build()
                };
                // SAFETY: the file is open and the bytes are the caller's until this function returns, which it does when no step is
                // under way; where it panics the process ends (`main` does not catch it, and its thread's scope passes it on).
                unsafe { self.0.submission().push(&entry) }.unwrap();
                under_way += 1;
            }
            self.0.submit_and_wait(1).unwrap();
            for completed in self.0.completion() {
                assert_eq!(completed.result(), i32::try_from(call).unwrap(), "a short step");
                under_way -= 1;
            }
        }
    }
}
