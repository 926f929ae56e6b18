//! `pread` and `pwrite` on the thread that asks: right everywhere, and the fastest way where the page cache has the bytes.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::io::{Errno, pread, pwrite, retry_on_intr};

use super::{Answer, DataFile, Direction, Engine, Transfer};

/// The default engine.
#[derive(Debug)]
pub(super) struct Threads;

impl Engine for Threads {
    fn depth(&self) -> usize {
        1
    }

    fn open(&self, file: Arc<OwnedFd>, _: Direction) -> rustix::io::Result<DataFile> {
        Ok(DataFile { plain: file, direct: None })
    }

    fn start(&self, transfer: Transfer, answer: Answer) {
        let Transfer { file, direction, offset, mut buffer } = transfer;
        let moved = match direction {
            Direction::Read => read_all(&file.plain, &mut buffer, offset),
            Direction::Write => write_all(&file.plain, &buffer, offset).map(|()| true),
        };
        answer(buffer, moved);
    }
}

/// Fills `buffer` from `offset`; `false` if the file ends before.
pub(in crate::posix) fn read_all(file: &OwnedFd, buffer: &mut [u8], offset: u64) -> rustix::io::Result<bool> {
    let mut filled = 0;
    while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match retry_on_intr(|| pread(file, &mut *rest, offset + filled as u64))? {
            0 => return Ok(false),
            read => filled += read,
        }
    }
    Ok(true)
}

/// Writes all of `bytes` at `offset`.
pub(in crate::posix) fn write_all(
    file: &OwnedFd,
    mut bytes: &[u8],
    mut offset: u64,
) -> rustix::io::Result<()> {
    while !bytes.is_empty() {
        match retry_on_intr(|| pwrite(file, bytes, offset))? {
            0 => return Err(Errno::IO), // a regular file takes at least a byte or says why not
            written => {
                bytes = bytes.get(written..).unwrap_or_default();
                offset += written as u64;
            }
        }
    }
    Ok(())
}
