//! A fake's file under another name, so that the loader makes another machine of it.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::IntoRawFd as _;
use std::path::{Path, PathBuf};

use rustix::fs::{MemfdFlags, memfd_create};

/// A path under which `library` is opened as a library of its own, with state of its own, until the process ends.
///
/// The loader tells libraries apart by inode: this is a copy in memory.
///
/// # Errors
/// What the system says of reading the file or writing the copy.
pub fn own_copy(library: &Path) -> io::Result<PathBuf> {
    own_copy_without(library, &[])
}

/// As [`own_copy`], of a library that lacks these symbols: a runtime of another version.
///
/// # Errors
/// As [`own_copy`]; `NotFound` if the library lacks one of them already.
pub fn own_copy_without(library: &Path, symbols: &[&str]) -> io::Result<PathBuf> {
    let named = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", library.display()));
    let mut bytes = std::fs::read(library).map_err(named)?;
    for symbol in symbols {
        // The loader compares whole names in a table of C strings: with another first letter nobody finds it, not even by its hash.
        let whole = [b"\0", symbol.as_bytes(), b"\0"].concat();
        let first = symbol.bytes().next();
        let at = (0..bytes.len()).filter(|at| {
            bytes.get(at + 1).copied() == first && bytes.get(*at..*at + whole.len()) == Some(&whole)
        });
        let found: Vec<usize> = at.collect();
        if found.is_empty() {
            return Err(named(io::Error::new(io::ErrorKind::NotFound, format!("no symbol {symbol}"))));
        }
        for at in found {
            if let Some(letter) = bytes.get_mut(at + 1) {
                *letter = b'~';
            }
        }
    }
    let mut copy = File::from(memfd_create("kv-fake", MemfdFlags::CLOEXEC)?);
    copy.write_all(&bytes)?;
    // The path is good as long as the descriptor is open, so nothing closes it.
    Ok(PathBuf::from(format!("/proc/self/fd/{}", copy.into_raw_fd())))
}
