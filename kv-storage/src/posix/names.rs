//! The calls that change names: link, rename, unlink, mkdir.
//!
//! They are behind a trait because a network file system may carry one out, lose the answer, ask again, and report the second
//! attempt: the caller learns `EEXIST` or `ENOENT` of a call that succeeded. No local file system does that, so tests put a double
//! here that does. What such an answer means is decided in `temporary.rs` and `tree.rs`, by looking at what stands at the name.

use std::fmt;
use std::os::fd::OwnedFd;

use rustix::fs::{AtFlags, Mode, RenameFlags, linkat, mkdirat, renameat_with, unlinkat};
use rustix::io::{Result, retry_on_intr};

/// An entry of an open directory.
pub(super) type At<'a> = (&'a OwnedFd, &'a str);

/// What changes names. The answers are the kernel's.
pub(super) trait Names: fmt::Debug + Send + Sync {
    /// Gives a file a second name, which must be free.
    fn link(&self, from: At<'_>, to: At<'_>) -> Result<()>;
    /// Moves a file or directory; without flags over what stands there.
    fn rename(&self, from: At<'_>, to: At<'_>, flags: RenameFlags) -> Result<()>;
    /// Takes a name away, a directory's with `REMOVEDIR`.
    fn unlink(&self, at: At<'_>, flags: AtFlags) -> Result<()>;
    /// Makes a directory.
    fn mkdir(&self, at: At<'_>, mode: Mode) -> Result<()>;
}

/// The kernel itself.
#[derive(Debug)]
pub(super) struct Kernel;

impl Names for Kernel {
    fn link(&self, from: At<'_>, to: At<'_>) -> Result<()> {
        retry_on_intr(|| linkat(from.0, from.1, to.0, to.1, AtFlags::empty()))
    }

    fn rename(&self, from: At<'_>, to: At<'_>, flags: RenameFlags) -> Result<()> {
        retry_on_intr(|| renameat_with(from.0, from.1, to.0, to.1, flags))
    }

    fn unlink(&self, at: At<'_>, flags: AtFlags) -> Result<()> {
        retry_on_intr(|| unlinkat(at.0, at.1, flags))
    }

    fn mkdir(&self, at: At<'_>, mode: Mode) -> Result<()> {
        retry_on_intr(|| mkdirat(at.0, at.1, mode))
    }
}
