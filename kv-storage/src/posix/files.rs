//! Files beneath the root: regular, ours, and under no other name. Everything here blocks.

use std::os::fd::OwnedFd;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat, fstat, openat, statat};
use rustix::io::{Errno, retry_on_intr};

use super::options::Modes;
use super::temporary::{TEMPORARY_PREFIX, split};
use super::tree::{FILE, Tree, type_of};
use crate::Result;

/// How often a file with two names is looked at before it is refused. On NFS the second one changes twice in a publication: from the
/// temporary name to the one under which the kernel keeps what is removed and still open, and then it goes.
const SECOND_LOOKS: usize = 4;

/// What the names begin with under which an NFS client keeps a file that was removed while it is open.
const SILLY_PREFIX: &str = ".nfs";

impl Tree {
    /// Looks at an open file before a byte of it is read: regular, ours, and under no other name.
    pub(super) fn believe(
        &self,
        path: &str,
        mut file: OwnedFd,
        mut stat: Stat,
    ) -> Result<Option<(OwnedFd, Stat)>> {
        self.judge_directory(split(path).0)?;
        for _ in 0..SECOND_LOOKS {
            stat = self.regular(path, stat)?;
            self.rights().file(&stat).map_err(|why| self.refused(path, &why))?;
            if stat.st_nlink <= 1 {
                return Ok(Some((file, stat)));
            }
            let Some(directory) = self.directory(split(path).0)? else { return Ok(None) };
            if self.is_being_published(&directory, path, &stat)? {
                return Ok(Some((file, stat)));
            }
            // Its other name may have changed or gone since: opening asks the server of a network file system again.
            let Some(again) = self.plain_file(path)? else { return Ok(None) };
            (file, stat) = again;
        }
        self.single(path, &stat)?;
        Ok(Some((file, stat)))
    }

    /// Opens a regular file for reading, whosever it is; `None` if there is none.
    pub(super) fn plain_file(&self, path: &str) -> Result<Option<(OwnedFd, Stat)>> {
        match self.walk_to(path).and_then(|file| fstat(&file).map(|stat| (file, stat))) {
            Ok((file, stat)) => self.regular(path, stat).map(|stat| Some((file, stat))),
            Err(Errno::NOENT | Errno::STALE) => Ok(None),
            Err(errno) => Err(self.error("open", path, errno)),
        }
    }

    /// Examines a regular file that the store put there, without opening it; `None` if there is none.
    pub(super) fn examine(&self, directory: &OwnedFd, name: &str, path: &str) -> Result<Option<Stat>> {
        let Some(stat) = self.stat(directory, name, path)? else { return Ok(None) };
        let stat = self.regular(path, stat)?;
        self.rights().file(&stat).map_err(|why| self.refused(path, &why))?;
        if stat.st_nlink > 1 && !self.is_being_published(directory, path, &stat)? {
            return Ok(self.open_file(path)?.map(|(_, stat)| stat));
        }
        Ok(Some(stat))
    }

    /// Examines whatever stands at a name; `None` if there is nothing.
    pub(super) fn stat(&self, directory: &OwnedFd, name: &str, path: &str) -> Result<Option<Stat>> {
        match retry_on_intr(|| statat(directory, name, AtFlags::SYMLINK_NOFOLLOW)) {
            Ok(stat) => Ok(Some(stat)),
            Err(Errno::NOENT | Errno::STALE) => Ok(None),
            Err(errno) => Err(self.error("examine", path, errno)),
        }
    }

    fn regular(&self, path: &str, stat: Stat) -> Result<Stat> {
        match type_of(&stat) {
            FileType::RegularFile => Ok(stat),
            FileType::Symlink => Err(self.error("open", path, Errno::LOOP)),
            other => Err(self.foreign(path, other)),
        }
    }

    /// Whether the second name of a file is the temporary one of its publication: of one that is under way, or whose process died
    /// between the two steps. Any other name is somebody's who can reach the file from where our modes do not hold.
    fn is_being_published(&self, directory: &OwnedFd, path: &str, stat: &Stat) -> Result<bool> {
        let mut found = false;
        self.entries(directory, path, |name| {
            let temporary = name.starts_with(TEMPORARY_PREFIX);
            found |= (temporary || self.network() && name.starts_with(SILLY_PREFIX))
                && statat(directory, name, AtFlags::SYMLINK_NOFOLLOW).is_ok_and(|other| same(stat, &other));
        })?;
        Ok(found && stat.st_nlink == 2)
    }

    fn single(&self, path: &str, stat: &Stat) -> Result<()> {
        if stat.st_nlink <= 1 {
            return Ok(());
        }
        let why = format!("expected a file with one name, found {} (hard links)", stat.st_nlink);
        Err(self.refused(path, &why))
    }

    /// Whether what stands at a name is this open file or directory.
    pub(super) fn is_same(&self, file: &OwnedFd, directory: &OwnedFd, name: &str) -> bool {
        let ours = fstat(file);
        let theirs = retry_on_intr(|| statat(directory, name, AtFlags::SYMLINK_NOFOLLOW));
        matches!((ours, theirs), (Ok(ours), Ok(theirs)) if same(&ours, &theirs))
    }

    /// Creates a new file for writing; fails with `EXIST` if the name is taken.
    pub(super) fn create_file(&self, directory: &OwnedFd, name: &str) -> rustix::io::Result<OwnedFd> {
        let mode = match self.modes {
            Modes::Private => Mode::from_raw_mode(0o600),
            Modes::Group => Mode::from_raw_mode(0o640),
        };
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | FILE;
        let file = retry_on_intr(|| openat(directory, name, flags, mode))?;
        self.share(&file, mode)?;
        Ok(file)
    }

    /// Removes a file; `false` if there was none.
    pub(super) fn remove(&self, directory: &OwnedFd, name: &str, path: &str) -> Result<bool> {
        // A network file system may remove it, lose the answer, and ask again: that it stood here is looked up first. Of two processes
        // that delete one file both may then be told that they did.
        let stood = self.network() && self.stat(directory, name, path)?.is_some();
        match self.names.unlink((directory, name), AtFlags::empty()) {
            Ok(()) => Ok(true),
            Err(Errno::NOENT | Errno::STALE) => Ok(stood),
            Err(errno) => Err(self.error("remove", path, errno)),
        }
    }
}

/// Whether two answers are about one file.
fn same(one: &Stat, other: &Stat) -> bool {
    (one.st_dev, one.st_ino) == (other.st_dev, other.st_ino)
}
