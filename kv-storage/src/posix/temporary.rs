//! Files that are being written: invisible under a name that is no object's, until they are linked under one that is.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::fs::{FallocateFlags, RenameFlags, Timespec, Timestamps, fallocate, fstat, futimens};
use rustix::io::{Errno, retry_on_intr};

use super::probe::Method;
use super::tree::Tree;
use crate::parts::Workers;
use crate::{Publication, Result};

/// What every temporary name begins with; no object's or record's name does.
pub(super) const TEMPORARY_PREFIX: &str = ".kv-tmp.";

/// A temporary name that nobody else has: the host and the process say to an operator whose it is, the randomness keeps it apart from
/// those of processes with the same number in other containers, and of hosts with the same name.
pub(super) fn temporary_name(tree: &Tree) -> String {
    let random = tree.environment.entropy.next_u64();
    format!("{TEMPORARY_PREFIX}{}.{}.{random:016x}", tree.host, std::process::id())
}

/// A file under a temporary name. Dropped, it is removed by a clean-up job.
#[derive(Debug)]
pub(super) struct Temporary {
    tree: Arc<Tree>,
    workers: Arc<Workers>,
    directory: Arc<OwnedFd>,
    file: Arc<OwnedFd>,
    name: String,
    /// For messages: the path at which the file will appear.
    path: String,
    /// Whether the temporary name may still exist.
    exists: bool,
}

impl Temporary {
    /// Creates a file in the directory of `path`.
    pub(super) fn create(tree: &Arc<Tree>, workers: &Arc<Workers>, path: &str) -> Result<Self> {
        let (parent, _) = split(path);
        let mut attempts = 0;
        loop {
            let directory = tree.ensure_directory(parent)?;
            let name = temporary_name(tree);
            match tree.create_file(&directory, &name) {
                Ok(file) => {
                    return Ok(Self {
                        tree: Arc::clone(tree),
                        workers: Arc::clone(workers),
                        directory: Arc::new(directory),
                        file: Arc::new(file),
                        name,
                        path: path.to_owned(),
                        exists: true,
                    });
                }
                // The name is taken, or the directory was removed under us.
                Err(Errno::EXIST | Errno::NOENT | Errno::STALE) if attempts < 16 => attempts += 1,
                Err(errno) => return Err(tree.error("create a temporary file for", path, errno)),
            }
        }
    }

    /// The open file.
    pub(super) fn file(&self) -> Arc<OwnedFd> {
        Arc::clone(&self.file)
    }

    /// Reserves the length, so that a full disk is reported before any byte is sent.
    pub(super) fn reserve(&self, len: u64) -> Result<()> {
        if len == 0 {
            return Ok(());
        }
        match retry_on_intr(|| fallocate(&self.file, FallocateFlags::empty(), 0, len)) {
            // File systems that cannot reserve report a full disk at the write.
            Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => Ok(()),
            Err(errno) => Err(self.tree.error(&format!("reserve {len} bytes for"), &self.path, errno)),
        }
    }

    /// Gives the file a mark that no other has, flushes it as the policy says, and learns what only a close reports.
    ///
    /// A file system may give the inode of a deleted object to the next one within the same tick of its clock. Random nanoseconds
    /// in the time of modification tell the two apart.
    pub(super) fn sync(&self) -> Result<()> {
        let fail = |errno| self.tree.error("flush", &self.path, errno);
        let stat = fstat(&self.file).map_err(fail)?;
        let random = self.tree.environment.entropy.next_u64() % 1_000_000_000;
        let modified = Timespec { tv_sec: stat.st_mtime, tv_nsec: i64::try_from(random).unwrap_or_default() };
        let times = Timestamps { last_access: modified, last_modification: modified };
        retry_on_intr(|| futimens(&self.file, &times)).map_err(fail)?;
        self.tree.sync_file(&self.file).map_err(fail)?;
        self.tree.close_copy(&self.file).map_err(|errno| self.tree.error("close", &self.path, errno))
    }

    /// Gives the file its name, if that is free.
    ///
    /// Whatever the answer is, the file under the name decides: if it is ours, a network file system published it, lost the answer,
    /// and told us of its second attempt, or of none.
    pub(super) fn link(&mut self) -> Result<Publication> {
        let method = self.tree.method()?;
        let (_, name) = split(&self.path);
        let (from, to) = ((&*self.directory, self.name.as_str()), (&*self.directory, name));
        let answer = match method {
            Method::Link => self.tree.names.link(from, to),
            Method::Rename => self.tree.names.rename(from, to, RenameFlags::NOREPLACE),
        };
        match answer {
            Ok(()) => {}
            Err(_) if self.tree.is_same(&self.file, to.0, to.1) => {}
            Err(Errno::EXIST) => return Ok(Publication::AlreadyExists),
            Err(errno) => return Err(self.tree.error("publish", &self.path, errno)),
        }
        if method == Method::Rename {
            self.exists = false;
        }
        Ok(Publication::Published)
    }

    /// Marks what [`replace`](Self::replace) is about to replace, for other hosts.
    pub(super) fn mark_predecessor(&self) {
        self.tree.mark_as_moved(&self.directory, split(&self.path).1);
    }

    /// Renames the file to its name, over whatever is there. Whose file has the name afterwards decides, as for a link.
    pub(super) fn replace(&mut self) -> Result<()> {
        let (_, name) = split(&self.path);
        let (from, to) = ((&*self.directory, self.name.as_str()), (&*self.directory, name));
        if let Err(errno) = self.tree.names.rename(from, to, RenameFlags::empty())
            && !self.tree.is_same(&self.file, to.0, to.1)
        {
            return Err(self.tree.error("replace", &self.path, errno));
        }
        self.exists = false;
        Ok(())
    }

    /// Removes the temporary name now; runs on an I/O thread.
    pub(super) fn remove(&mut self) -> Result<()> {
        if self.exists {
            self.exists = false;
            self.tree.remove(&self.directory, &self.name, &self.path)?;
        }
        Ok(())
    }

    /// Flushes the directory as the policy says.
    pub(super) fn sync_directory(&self) -> Result<()> {
        self.tree
            .sync_directory(&self.directory)
            .map_err(|errno| self.tree.error("flush the directory of", &self.path, errno))
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if self.exists {
            let tree = Arc::clone(&self.tree);
            let directory = Arc::clone(&self.directory);
            let name = std::mem::take(&mut self.name);
            // The last handle goes there, too: to close a file on a network file system may wait for its server.
            let file = Arc::clone(&self.file);
            self.workers.clean_up(move || {
                // A failure leaves a temporary file, which a later sweep finds.
                let _ = tree.remove(&directory, &name, &name);
                drop(file);
            });
        }
    }
}

/// The directory and the name of a path.
pub(super) fn split(path: &str) -> (&str, &str) {
    path.rsplit_once('/').unwrap_or(("", path))
}
