//! From a path to an open file, with as few questions to a server as can be, and without believing an old answer.
//!
//! On NFS an *open* is what asks the server (close-to-open consistency): a stat may be answered from what this host remembers. So
//! every lookup here opens: on a mount with `lookupcache=positive` a miss costs one round trip, whatever the path's depth, because
//! the directories on the way are remembered and the missing name is not.
//!
//! On other mounts the kernel also remembers which names are missing, for up to a minute. Opening the *directory* makes it ask whether
//! the directory has changed, and forget them if so.

use std::os::fd::OwnedFd;

use rustix::fs::{AtFlags, Mode, OFlags, Stat, StatxFlags, chmodat, fstat, openat, openat2, statat, statx};
use rustix::io::{Errno, retry_on_intr};

use super::temporary::split;
use super::tree::{FILE, RESOLVE, Tree, kind_of};
use crate::{Error, Result};

/// How often a name is looked up again whose file went away. Once is enough for what is deleted; a record may be replaced meanwhile, and
/// is there all the time.
pub(super) const MOST_STALE: usize = 4;

/// What a file that is in its place has some of.
const WRITABLE: Mode = Mode::WUSR.union(Mode::WGRP).union(Mode::WOTH);

impl Tree {
    /// Opens the regular file at `path` for reading, if the store put it there; `None` if there is none. Where this host remembers
    /// misses, the server confirms it. A file that went away under the open (`ESTALE`) is looked up again.
    pub(super) fn open_file(&self, path: &str) -> Result<Option<(OwnedFd, Stat)>> {
        self.open_asking(path, |_| Ok(()))
    }

    /// [`open_file`](Self::open_file) for files that are replaced, with a question about the open file on top. Linux may believe a name once
    /// without asking if it first looked it up while the directory was changing (seen with NFS 3, Linux 6.1: the mark that says against
    /// what the name was checked is then left as it was in memory).
    pub(super) fn open_mutable(&self, path: &str) -> Result<Option<(OwnedFd, Stat)>> {
        self.open_asking(path, |file| if self.network() { ask_for(file) } else { Ok(()) })
    }

    fn open_asking(
        &self,
        path: &str,
        ask: impl Fn(&OwnedFd) -> rustix::io::Result<()>,
    ) -> Result<Option<(OwnedFd, Stat)>> {
        let mut confirmed = !self.misses_are_cached;
        let mut believed = !self.network();
        let mut stale = 0;
        loop {
            let opened = self.walk_to(path).and_then(|file| {
                ask(&file)?;
                fstat(&file).map(|stat| (file, stat))
            });
            match opened {
                Ok((_, stat)) if !believed && may_have_moved(&stat) => {
                    believed = true;
                    self.refresh(split(path).0);
                }
                Ok((file, stat)) => return self.believe(path, file, stat),
                Err(Errno::NOENT) if confirmed => return Ok(None),
                Err(Errno::NOENT) => {
                    confirmed = true;
                    self.refresh(split(path).0);
                }
                Err(Errno::STALE) if stale == MOST_STALE => return self.alive().map(|()| None),
                Err(Errno::STALE) => {
                    stale += 1;
                    self.refresh(split(path).0);
                }
                Err(errno) => return Err(self.error("open", path, errno)),
            }
        }
    }

    /// Whether a failure on an open file says that the server may not have the file any more.
    pub(super) fn is_lost(&self, errno: Errno) -> bool {
        // Our descriptors are open: a bad one is one that the server of NFS 4 has forgotten.
        errno == Errno::STALE || (self.network() && errno == Errno::BADF)
    }

    /// Marks a file that is moved away from its name, or about to be replaced, so that hosts that remember it there look again.
    pub(super) fn mark_as_moved(&self, directory: &OwnedFd, name: &str) {
        if self.network()
            && let Ok(stat) = statat(directory, name, AtFlags::SYMLINK_NOFOLLOW)
        {
            let mode = Mode::from_raw_mode(stat.st_mode) - WRITABLE;
            // Whoever may move a file but not change it leaves other hosts with what they remember, for as long as they do.
            let _ = chmodat(directory, name, mode, AtFlags::empty());
        }
    }

    /// One open of the whole path beneath the root.
    pub(super) fn walk_to(&self, path: &str) -> rustix::io::Result<OwnedFd> {
        let flags = OFlags::RDONLY | FILE;
        if self.has_openat2() {
            match retry_on_intr(|| openat2(&self.root, path, flags, Mode::empty(), RESOLVE)) {
                Err(Errno::NOSYS | Errno::PERM) => self.give_up_openat2(),
                Err(Errno::AGAIN) => {}
                answer => return answer,
            }
        }
        let (parent, name) = split(path);
        let directory = self.descend(parent)?;
        retry_on_intr(|| openat(&directory, name, flags, Mode::empty()))
    }

    /// Makes this host ask the server what has changed in the directories on the way to `directory`. Failures are left to who looks.
    fn refresh(&self, directory: &str) {
        if self.descend(directory).is_ok() {
            return;
        }
        // A directory on the way is what seems to be missing: ask from the root on.
        let _ = ask_for(&self.root);
        let ends = directory.match_indices('/').map(|(end, _)| end).chain([directory.len()]);
        for prefix in ends.filter_map(|end| directory.get(..end)) {
            if self.descend(prefix).is_err() {
                return;
            }
        }
    }

    /// Fails if the root itself is gone: then nothing beneath it is a miss.
    fn alive(&self) -> Result<()> {
        ask_for(&self.root).map_err(|errno| {
            let message = format!(
                "the root directory {} is gone on the server ({errno}): mount it again and open the store again",
                self.path().display()
            );
            Error::new(kind_of(errno), self, message).with_source(errno)
        })
    }
}

/// The attributes of an open file or directory from the server, not from memory.
fn ask_for(file: &OwnedFd) -> rustix::io::Result<()> {
    let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_FORCE_SYNC;
    retry_on_intr(|| statx(file, "", flags, StatxFlags::BASIC_STATS)).map(drop)
}

/// Whether the file that an open has found may be under another name by now: nobody may write it, which is the mark of what was moved
/// away, or it has several names, or none any more. Files that merely look so cost a question.
fn may_have_moved(stat: &Stat) -> bool {
    stat.st_nlink != 1 || !Mode::from_raw_mode(stat.st_mode).intersects(WRITABLE)
}
