//! Files and directories beneath the store's root, reached without ever following a link.
//!
//! Everything here blocks and runs on the store's I/O threads.

use std::fmt;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use rustix::fs::{
    AtFlags, CWD, FileType, Mode, NFS_SUPER_MAGIC, OFlags, ResolveFlags, Stat, fchmod, fstatfs, fsync,
    mkdirat, openat, openat2, statat, unlinkat,
};
use rustix::io::{Errno, retry_on_intr};

use super::mount::Mount;
use super::options::{FsyncPolicy, Modes, PosixOptions};
use crate::env::{CrashPoint, Environment};
use crate::{Error, ErrorKind, Result, Version};

/// A directory tree with the rules of its store.
#[derive(Debug)]
pub(super) struct Tree {
    path: PathBuf,
    root: OwnedFd,
    fsync: FsyncPolicy,
    modes: Modes,
    /// Whether the root is on a file system whose data lives on another host.
    network: bool,
    pub(super) mount: Option<Mount>,
    /// This host may believe that a file does not exist after another host has made it.
    pub(super) misses_are_cached: bool,
    /// The kernel, or a seccomp filter, does not let us use openat2.
    walk: AtomicBool,
    flushes: AtomicU64,
    pub(super) environment: Environment,
}

const DIRECTORY: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
/// `NONBLOCK`: opening a planted FIFO returns at once. It means nothing to a regular file.
pub(super) const FILE: OFlags =
    OFlags::NOFOLLOW.union(OFlags::NONBLOCK).union(OFlags::NOCTTY).union(OFlags::CLOEXEC);

/// How a path beneath the root is walked.
pub(super) const RESOLVE: ResolveFlags =
    ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS).union(ResolveFlags::NO_MAGICLINKS);

impl Tree {
    /// Opens the root. The root's own path belongs to the operator and may hold links.
    pub(super) fn open(path: &Path, options: &PosixOptions) -> Result<Self> {
        let label = format!("posix:{}", path.display());
        let fail = |kind, message: String| Err(Error::new(kind, &label, message));
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = match retry_on_intr(|| openat(CWD, path, flags, Mode::empty())) {
            Ok(root) => root,
            Err(Errno::NOENT) => {
                let message =
                    "no such directory: expected the existing root directory of a store, create it first";
                return fail(ErrorKind::Invalid, message.to_owned());
            }
            Err(Errno::NOTDIR) => {
                let message = "not a directory: expected the root directory of a store, found something else";
                return fail(ErrorKind::Invalid, message.to_owned());
            }
            Err(errno) => {
                let message = format!("cannot open the root directory: {errno}");
                return Err(Error::new(kind_of(errno), &label, message).with_source(errno));
            }
        };
        let network = fstatfs(&root).is_ok_and(|system| system.f_type == NFS_SUPER_MAGIC);
        let mount = Mount::of(&root);
        let misses_are_cached =
            network && mount.as_ref().is_none_or(|mount| mount.misses_cached_seconds() > 0);
        Ok(Self {
            path: path.to_owned(),
            root,
            mount,
            misses_are_cached,
            fsync: options.fsync,
            modes: options.modes,
            network,
            walk: AtomicBool::new(false),
            flushes: AtomicU64::new(0),
            environment: options.environment.clone(),
        })
    }

    /// The path of the root.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the root is on a network file system.
    pub(super) fn network(&self) -> bool {
        self.network
    }

    /// An error about `path` beneath the root.
    pub(super) fn error(&self, action: &str, path: &str, errno: Errno) -> Error {
        let advice = match kind_of(errno) {
            ErrorKind::NoSpace => ": free space, raise the quota, or collect garbage",
            ErrorKind::PermissionDenied if errno == Errno::LOOP => {
                ": it is a symbolic link, which the store never makes and never follows; remove it"
            }
            ErrorKind::PermissionDenied => ": check owner, modes and mount options",
            _ => "",
        };
        let message = format!("cannot {action} {}/{path}: {errno}{advice}", self.path.display());
        Error::new(kind_of(errno), self, message).with_source(errno)
    }

    /// What stands at `path` is not what the store put there.
    pub(super) fn foreign(&self, path: &str, found: FileType) -> Error {
        let message = format!(
            "{}/{path} is refused: expected a regular file, found {found:?}; remove it",
            self.path.display()
        );
        Error::new(ErrorKind::PermissionDenied, self, message)
    }

    /// Passes a crash point.
    pub(super) fn reach(&self, point: CrashPoint) {
        self.environment.crash_points.reach(point);
    }

    /// Opens the directory `path` (components separated by `/`, empty for the root); `None` if there is none.
    pub(super) fn directory(&self, path: &str) -> Result<Option<OwnedFd>> {
        match self.descend(path) {
            Ok(directory) => Ok(Some(directory)),
            Err(Errno::NOENT | Errno::STALE) => Ok(None),
            Err(errno) => Err(self.error("open the directory", path, errno)),
        }
    }

    /// The open root.
    pub(super) fn root(&self) -> &OwnedFd {
        &self.root
    }

    pub(super) fn has_openat2(&self) -> bool {
        !self.walk.load(Ordering::Relaxed)
    }

    pub(super) fn give_up_openat2(&self) {
        self.walk.store(true, Ordering::Relaxed);
    }

    pub(super) fn descend(&self, path: &str) -> rustix::io::Result<OwnedFd> {
        let path = if path.is_empty() { "." } else { path };
        if self.has_openat2() {
            match retry_on_intr(|| openat2(&self.root, path, DIRECTORY, Mode::empty(), RESOLVE)) {
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
            return Ok(directory);
        }
        let fail = |errno| self.error("create the directory", path, errno);
        let mut directory = step(&self.root, ".").map_err(fail)?;
        for component in path.split('/') {
            let mode = self.directory_mode();
            let created = match retry_on_intr(|| mkdirat(&directory, component, mode)) {
                Ok(()) => true,
                Err(Errno::EXIST) => false,
                Err(errno) => return Err(fail(errno)),
            };
            let child = step(&directory, component).map_err(fail)?;
            if created {
                self.widen(&child, mode).map_err(fail)?;
                self.sync_directory(&directory).map_err(fail)?;
            }
            directory = child;
        }
        Ok(directory)
    }

    /// Examines a regular file without opening it; `None` if there is none.
    pub(super) fn examine(&self, directory: &OwnedFd, name: &str, path: &str) -> Result<Option<Stat>> {
        let stat = self.stat(directory, name, path)?;
        stat.map(|stat| self.regular(path, stat)).transpose()
    }

    /// Examines whatever stands at a name; `None` if there is nothing.
    pub(super) fn stat(&self, directory: &OwnedFd, name: &str, path: &str) -> Result<Option<Stat>> {
        match retry_on_intr(|| statat(directory, name, AtFlags::SYMLINK_NOFOLLOW)) {
            Ok(stat) => Ok(Some(stat)),
            Err(Errno::NOENT | Errno::STALE) => Ok(None),
            Err(errno) => Err(self.error("examine", path, errno)),
        }
    }

    pub(super) fn regular(&self, path: &str, stat: Stat) -> Result<Stat> {
        match type_of(&stat) {
            FileType::RegularFile => Ok(stat),
            FileType::Symlink => Err(self.error("open", path, Errno::LOOP)),
            other => Err(self.foreign(path, other)),
        }
    }

    /// Creates a new file for writing; fails with `EXIST` if the name is taken.
    pub(super) fn create_file(&self, directory: &OwnedFd, name: &str) -> rustix::io::Result<OwnedFd> {
        let mode = match self.modes {
            Modes::Private => Mode::from_raw_mode(0o600),
            Modes::Group => Mode::from_raw_mode(0o640),
        };
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | FILE;
        let file = retry_on_intr(|| openat(directory, name, flags, mode))?;
        self.widen(&file, mode)?;
        Ok(file)
    }

    /// Removes a file; `false` if there was none.
    pub(super) fn remove(&self, directory: &OwnedFd, name: &str, path: &str) -> Result<bool> {
        match retry_on_intr(|| unlinkat(directory, name, AtFlags::empty())) {
            Ok(()) => Ok(true),
            Err(Errno::NOENT | Errno::STALE) => Ok(false),
            Err(errno) => Err(self.error("remove", path, errno)),
        }
    }

    fn directory_mode(&self) -> Mode {
        match self.modes {
            Modes::Private => Mode::from_raw_mode(0o700),
            Modes::Group => Mode::from_raw_mode(0o750),
        }
    }

    /// The group's rights are what the operator asked for, whatever the umask says.
    fn widen(&self, fd: &OwnedFd, mode: Mode) -> rustix::io::Result<()> {
        match self.modes {
            Modes::Private => Ok(()),
            Modes::Group => fchmod(fd, mode),
        }
    }

    /// Flushes a file's bytes as the policy says.
    pub(super) fn sync_file(&self, file: &OwnedFd) -> rustix::io::Result<()> {
        match self.fsync {
            FsyncPolicy::Durable => self.flush(file),
            FsyncPolicy::CloseToOpen if self.network => self.flush(file),
            FsyncPolicy::CloseToOpen | FsyncPolicy::None => Ok(()),
        }
    }

    /// Flushes a directory's entries as the policy says.
    pub(super) fn sync_directory(&self, directory: &OwnedFd) -> rustix::io::Result<()> {
        match self.fsync {
            FsyncPolicy::Durable => self.flush(directory),
            FsyncPolicy::CloseToOpen | FsyncPolicy::None => Ok(()),
        }
    }

    fn flush(&self, file: &OwnedFd) -> rustix::io::Result<()> {
        retry_on_intr(|| fsync(file))?;
        self.flushes.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// Flushes so far.
    pub(super) fn flushes(&self) -> u64 {
        self.flushes.load(Ordering::Relaxed)
    }
}

impl fmt::Display for Tree {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "posix:{}", self.path.display())
    }
}

fn step(directory: impl AsFd, component: &str) -> rustix::io::Result<OwnedFd> {
    retry_on_intr(|| openat(&directory, component, DIRECTORY, Mode::empty()))
}

/// What the caller does about an errno.
pub(super) fn kind_of(errno: Errno) -> ErrorKind {
    match errno {
        Errno::NOSPC | Errno::DQUOT | Errno::FBIG => ErrorKind::NoSpace,
        Errno::ACCESS | Errno::PERM | Errno::ROFS | Errno::LOOP => ErrorKind::PermissionDenied,
        Errno::STALE
        | Errno::TIMEDOUT
        | Errno::HOSTDOWN
        | Errno::HOSTUNREACH
        | Errno::MFILE
        | Errno::NFILE => ErrorKind::Unavailable,
        _ => ErrorKind::Backend,
    }
}

/// The mark of an object: inode, time of modification (whose nanoseconds are random, see `publish`) and length.
pub(super) fn version_of(stat: &Stat) -> Version {
    Version(format!("{:x}.{:x}.{:x}.{:x}", stat.st_ino, stat.st_mtime, stat.st_mtime_nsec, stat.st_size))
}

/// What stands there.
pub(super) fn type_of(stat: &Stat) -> FileType {
    FileType::from_raw_mode(stat.st_mode)
}

/// The length of a file.
pub(super) fn len_of(stat: &Stat) -> u64 {
    u64::try_from(stat.st_size).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    //= SEMANTICS.md#posix-beneath
    #[test]
    fn no_link_is_followed_with_openat2_and_without() {
        for walk in [false, true] {
            let outside = tempfile::tempdir().unwrap();
            std::fs::create_dir(outside.path().join("b")).unwrap();
            let root = tempfile::tempdir().unwrap();
            let tree = Tree::open(root.path(), &PosixOptions::default()).unwrap();
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
            let tree = Tree::open(root.path(), &PosixOptions::default().modes(modes)).unwrap();
            // Other tests of this process make private files only, which no umask changes.
            let umask = rustix::process::umask(Mode::from_raw_mode(0o077));
            let directory = tree.ensure_directory("v1/a").unwrap();
            tree.create_file(&directory, "file").unwrap();
            rustix::process::umask(umask);
            let mode = |path| root.path().join(path).metadata().unwrap().permissions().mode() & 0o7777;
            assert_eq!(mode("v1"), directory_mode);
            assert_eq!(mode("v1/a"), directory_mode);
            assert_eq!(mode("v1/a/file"), file_mode);
        }
    }
}
