//! Directories beneath the root, reached without ever following a link, and made as the store's modes say. Everything here blocks.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::Ordering;

use rustix::fs::{AtFlags, Mode, OFlags, fchmod, fchown, fstat, openat, openat2, statat};
use rustix::io::{Errno, retry_on_intr};
use rustix::process::Gid;

use super::fan_out::fan_out_of;
use super::options::Modes;
use super::tree::{DIRECTORY, RESOLVE, Tree};
use crate::Result;

impl Tree {
    /// Opens the directory `path` (components separated by `/`, empty for the root); `None` if there is none.
    pub(super) fn directory(&self, path: &str) -> Result<Option<OwnedFd>> {
        let directory = match self.descend(path) {
            Ok(directory) => directory,
            Err(Errno::NOENT | Errno::STALE) => return Ok(None),
            Err(errno) => return Err(self.error("open the directory", path, errno)),
        };
        Ok(self.judge(path, &directory)?.then_some(directory))
    }

    /// Judges the directory of a file that was opened by its whole path. Asks a network file system nothing while the directory's
    /// attributes are fresh.
    pub(super) fn judge_directory(&self, path: &str) -> Result<()> {
        match self.descend_as(path, DIRECTORY | OFlags::PATH) {
            Ok(directory) => self.judge(path, &directory).map(drop),
            Err(Errno::NOENT | Errno::STALE) => Ok(()), // and its file with it
            Err(errno) => Err(self.error("open the directory", path, errno)),
        }
    }

    /// Judges an open directory; `false` if it is gone.
    fn judge(&self, path: &str, directory: &OwnedFd) -> Result<bool> {
        // The root was judged when it was opened. What is between it and here only its owner could replace.
        if !path.is_empty() {
            let stat = match fstat(directory) {
                Ok(stat) => stat,
                Err(Errno::STALE) => return Ok(false),
                Err(errno) => return Err(self.error("open the directory", path, errno)),
            };
            self.rights().directory(&stat).map_err(|why| self.refused(path, &why))?;
        }
        Ok(true)
    }

    pub(super) fn has_openat2(&self) -> bool {
        !self.walk.load(Ordering::Relaxed)
    }

    pub(super) fn give_up_openat2(&self) {
        self.walk.store(true, Ordering::Relaxed);
    }

    pub(super) fn descend(&self, path: &str) -> rustix::io::Result<OwnedFd> {
        self.descend_as(path, DIRECTORY)
    }

    fn descend_as(&self, path: &str, flags: OFlags) -> rustix::io::Result<OwnedFd> {
        let path = if path.is_empty() { "." } else { path };
        if self.has_openat2() {
            match retry_on_intr(|| openat2(&self.root, path, flags, Mode::empty(), RESOLVE)) {
                // Old kernels know no openat2, some containers forbid it, and a racing rename may confuse it: walk instead.
                Err(Errno::NOSYS | Errno::PERM) => self.give_up_openat2(),
                Err(Errno::AGAIN) => {}
                answer => return answer,
            }
        }
        let mut components = path.split('/');
        let mut directory = step(&self.root, components.next().unwrap_or("."))?;
        for component in components {
            directory = step(&directory, component)?;
        }
        Ok(directory)
    }

    /// Opens the directory `path`, and creates what is missing of it.
    pub(super) fn ensure_directory(&self, path: &str) -> Result<OwnedFd> {
        if let Some(directory) = self.directory(path)? {
            self.settle(path, false)?;
            return Ok(directory);
        }
        if let Some(parent) = fan_out_of(path) {
            self.fan_out(parent)?;
        }
        let fail = |errno| self.error("create the directory", path, errno);
        let mut directory = step(&self.root, ".").map_err(fail)?;
        for component in path.split('/') {
            self.make_directory(&directory, component).map_err(fail)?;
            directory = step(&directory, component).map_err(fail)?;
        }
        self.settle(path, true)?;
        self.directory(path)?.ok_or_else(|| fail(Errno::NOENT))
    }

    /// Makes a directory, if there is none of this name.
    pub(super) fn make_directory(&self, directory: &OwnedFd, name: &str) -> rustix::io::Result<()> {
        let mode = match self.modes {
            Modes::Private => Mode::from_raw_mode(0o700),
            Modes::Group => Mode::from_raw_mode(0o750),
        };
        match self.names.mkdir((directory, name), mode) {
            Ok(()) => {}
            // A network file system may have made it, lost the answer, and asked again. What is ours gets our mode either way.
            Err(Errno::EXIST) => {
                let stat = statat(directory, name, AtFlags::SYMLINK_NOFOLLOW)?;
                if stat.st_uid != self.rights().uid {
                    return Ok(());
                }
            }
            Err(errno) => return Err(errno),
        }
        match self.modes {
            Modes::Private => Ok(()),
            Modes::Group => self.share(&step(directory, name)?, mode),
        }
    }

    /// Gives what is ours to the store's group, with the rights that the operator asked for, whatever the umask says.
    pub(super) fn share(&self, fd: &OwnedFd, mode: Mode) -> rustix::io::Result<()> {
        if self.modes == Modes::Private {
            return Ok(());
        }
        let (stat, group) = (fstat(fd)?, self.rights().group);
        if stat.st_gid != group {
            fchown(fd, None, Some(Gid::from_raw(group)))?;
        }
        // Only where it differs: over a network this is a call.
        if stat.st_mode & 0o7777 != mode.as_raw_mode() { fchmod(fd, mode) } else { Ok(()) }
    }
}

fn step(directory: impl AsFd, component: &str) -> rustix::io::Result<OwnedFd> {
    retry_on_intr(|| openat(&directory, component, DIRECTORY, Mode::empty()))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::options::FsyncPolicy;
    use super::*;
    use crate::env::Environment;

    fn tree(root: &Path, modes: Modes) -> Tree {
        Tree::bare(root, FsyncPolicy::None, modes, &Environment::default()).unwrap()
    }

    //= SEMANTICS.md#posix-beneath
    #[test]
    fn no_link_is_followed_with_openat2_and_without() {
        for walk in [false, true] {
            let outside = tempfile::tempdir().unwrap();
            std::fs::create_dir(outside.path().join("b")).unwrap();
            let root = tempfile::tempdir().unwrap();
            let tree = tree(root.path(), Modes::Private);
            tree.walk.store(walk, Ordering::Relaxed);
            drop(tree.ensure_directory("v1/a/b").unwrap());
            assert!(tree.directory("v1/a/b").unwrap().is_some());
            assert!(tree.directory("v1/a/c").unwrap().is_none());
            assert_eq!(tree.walk.load(Ordering::Relaxed), walk, "this kernel has no openat2");

            std::os::unix::fs::symlink(outside.path(), root.path().join("v1/link")).unwrap();
            std::fs::write(root.path().join("v1/file"), "").unwrap();
            for path in ["v1/link", "v1/link/b", "v1/file", "v1/file/b"] {
                tree.directory(path).expect_err(path);
                tree.ensure_directory(path).expect_err(path);
            }
            assert_eq!(outside.path().read_dir().unwrap().count(), 1, "something was made outside");
        }
    }

    //= SEMANTICS.md#posix-modes
    #[test]
    fn modes_are_private_or_the_groups_whatever_the_umask() {
        use std::os::unix::fs::PermissionsExt;
        for (modes, directory_mode, file_mode) in
            [(Modes::Private, 0o700, 0o600), (Modes::Group, 0o750, 0o640)]
        {
            let root = tempfile::tempdir().unwrap();
            let tree = tree(root.path(), modes);
            // Other tests of this process make private files only, which no umask changes.
            let umask = rustix::process::umask(Mode::from_raw_mode(0o077));
            let directory = tree.ensure_directory("v1/a").unwrap();
            tree.create_file(&directory, "file").unwrap();
            tree.ensure_directory("v1/b/00").unwrap();
            rustix::process::umask(umask);
            let mode = |path| root.path().join(path).metadata().unwrap().permissions().mode() & 0o7777;
            assert_eq!(mode("v1"), directory_mode);
            assert_eq!(mode("v1/a"), directory_mode);
            assert_eq!(mode("v1/a/file"), file_mode);
            assert_eq!(mode("v1/b"), directory_mode);
            assert_eq!(mode("v1/b/00"), directory_mode);
            assert_eq!(mode("v1/b/ff"), directory_mode);
        }
    }
}
