//! The 256 directories over which a namespace's objects, or a kind of records, are spread. Everything here blocks.
//!
//! They appear together, by one rename of a directory that has them all. A reader on another host that looked for an object before
//! there was a directory for it keeps, on a network file system, the answer "there is none" for as long as its attribute cache
//! says. Made one by one, each of the 256 directories is such an answer for half a minute; made together, there is one
//! moment after which none is.

use std::collections::HashSet;
use std::os::fd::OwnedFd;

use rustix::fs::{AtFlags, Mode, OFlags, RenameFlags, openat};
use rustix::io::{Errno, retry_on_intr};

use super::crash;
use super::temporary::{split, temporary_name};
use super::tree::{DIRECTORY, Tree};
use crate::Result;

/// The directory above, if this is one of its 256.
pub(super) fn fan_out_of(path: &str) -> Option<&str> {
    let (parent, name) = split(path);
    let two_digits = name.len() == 2 && name.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    (two_digits && !parent.is_empty()).then_some(parent)
}

impl Tree {
    /// Makes the directory `path` with all its fan-out, unless it is there already.
    pub(super) fn fan_out(&self, path: &str) -> Result<()> {
        if self.directory(path)?.is_some() {
            return Ok(());
        }
        let (parent, name) = split(path);
        let directory = self.ensure_directory(parent)?;
        let fail = |errno| self.error("create the fan-out of", path, errno);
        let temporary = temporary_name(self);
        self.make_directory(&directory, &temporary).map_err(fail)?;
        let tried = self.fill_fan_out(&directory, &temporary).and_then(|inner| {
            self.reach(crash::FAN_OUT_MADE);
            match self.names.rename((&directory, &temporary), (&directory, name), RenameFlags::empty()) {
                Ok(()) => Ok(true),
                // Another process was first: a directory that has entries is never replaced.
                Err(Errno::EXIST | Errno::NOTEMPTY) => Ok(false),
                // A network file system may have renamed it, lost the answer, and asked again.
                Err(errno) => self.is_same(&inner, &directory, name).then_some(true).ok_or(errno),
            }
        });
        match tried {
            Ok(true) => {
                self.reach(crash::FAN_OUT_RENAMED);
                Ok(())
            }
            Ok(false) => {
                self.remove_fan_out(&directory, &temporary);
                Ok(())
            }
            Err(errno) => {
                self.remove_fan_out(&directory, &temporary);
                Err(fail(errno))
            }
        }
    }

    fn fill_fan_out(&self, directory: &OwnedFd, name: &str) -> rustix::io::Result<OwnedFd> {
        let inner = retry_on_intr(|| openat(directory, name, DIRECTORY, Mode::empty()))?;
        for digits in 0..=u8::MAX {
            self.make_directory(&inner, &format!("{digits:02x}"))?;
        }
        Ok(inner)
    }

    /// Removes a directory that never became a fan-out; `false` if something is in the way. What stays, a sweep finds.
    pub(super) fn remove_fan_out(&self, directory: &OwnedFd, name: &str) -> bool {
        let flags = OFlags::NOFOLLOW | DIRECTORY;
        let Ok(inner) = retry_on_intr(|| openat(directory, name, flags, Mode::empty())) else { return false };
        for digits in 0..=u8::MAX {
            let _ = self.names.unlink((&inner, &format!("{digits:02x}")), AtFlags::REMOVEDIR);
        }
        self.names.unlink((directory, name), AtFlags::REMOVEDIR).is_ok()
    }

    /// Flushes the directories above `path`, so that what is published in it can be found after a power cut.
    ///
    /// Once for every fan-out, since another process may have made it an instant ago and not have flushed it yet; always after we
    /// made something ourselves.
    pub(super) fn settle(&self, path: &str, made: bool) -> Result<()> {
        let (parent, _) = split(path);
        if !self.flushes_directories() || !made && self.settled().contains(parent) {
            return Ok(());
        }
        let fail = |errno| self.error("flush the directories above", path, errno);
        let mut above = Some(parent);
        while let Some(path) = above {
            if let Some(directory) = self.directory(path)? {
                self.sync_directory(&directory).map_err(fail)?;
            }
            above = (!path.is_empty()).then(|| split(path).0);
        }
        self.settled().insert(parent.to_owned());
        Ok(())
    }

    fn settled(&self) -> std::sync::MutexGuard<'_, HashSet<String>> {
        // A set of strings is whole after every panic.
        self.settled.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}
