//! A fake's file under another name, so that the loader makes another machine of it.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};

use rustix::fs::{MemfdFlags, memfd_create};

/// A path under which `library` is opened as a library of its own, with state of its own, until the process ends.
///
/// The loader tells libraries apart by inode: this is a copy in memory.
///
/// # Errors
/// What the system says of reading the file or writing the copy.
pub fn own_copy(library: &Path) -> io::Result<PathBuf> {
    let named = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", library.display()));
    let mut from = File::open(library).map_err(named)?;
    let mut copy = File::from(memfd_create("kv-fake", MemfdFlags::CLOEXEC)?);
    io::copy(&mut from, &mut copy)?;
    let path = PathBuf::from(format!("/proc/self/fd/{}", copy.as_raw_fd()));
    // The path is good as long as the descriptor is open.
    Box::leak(Box::new(copy));
    Ok(path)
}
