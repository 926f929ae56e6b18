//! The tree beneath the store's root: how it is opened, what its errors say, and what it flushes.
//!
//! Directories are in `directories.rs`, files in `files.rs`. Everything here blocks and runs on the store's I/O threads.

use std::collections::HashSet;
use std::fmt;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use rustix::fs::{
    CWD, FileType, FsWord, Mode, NFS_SUPER_MAGIC, OFlags, ResolveFlags, Stat, fstat, fstatfs, fsync, openat,
};
use rustix::io::{Errno, fcntl_dupfd_cloexec, retry_on_intr};
use rustix::process::geteuid;
use rustix::system::uname;

use super::format;
use super::mount::Mount;
use super::names::{Kernel, Names};
use super::options::{FsyncPolicy, Modes, PosixOptions};
use super::probe::{self, Proven};
use super::rights::Rights;
use crate::env::{CrashPoint, Environment};
use crate::parts::Workers;
use crate::{Error, ErrorKind, Result, Version};

/// A directory tree with the rules of its store.
#[derive(Debug)]
pub(super) struct Tree {
    path: PathBuf,
    pub(super) root: OwnedFd,
    /// Owner and group of the root.
    owner: (u32, u32),
    fsync: FsyncPolicy,
    pub(super) modes: Modes,
    /// Whether the root is on a file system whose data lives on another host.
    pub(super) network: bool,
    /// Whether it is on one whose names nobody but this kernel changes.
    pub(super) kernels_own: bool,
    pub(super) mount: Option<Mount>,
    /// This host may believe that a file does not exist after another host has made it.
    pub(super) misses_are_cached: bool,
    /// The kernel, or a seccomp filter, does not let us use openat2.
    pub(super) walk: AtomicBool,
    pub(super) names: Box<dyn Names>,
    /// What the probe found out; nothing if the file system was full.
    pub(super) proven: OnceLock<Proven>,
    /// The fan-outs whose directories are flushed.
    pub(super) settled: Mutex<HashSet<String>>,
    flushes: AtomicU64,
    /// This host's name, for names of temporary files.
    pub(super) host: String,
    pub(super) environment: Environment,
}

pub(super) const DIRECTORY: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
/// `NONBLOCK`: opening a planted FIFO returns at once. It means nothing to a regular file.
pub(super) const FILE: OFlags =
    OFlags::NOFOLLOW.union(OFlags::NONBLOCK).union(OFlags::NOCTTY).union(OFlags::CLOEXEC);

/// File systems whose names are in this kernel's hands alone: ext2 to ext4, XFS, Btrfs, tmpfs (statfs(2)). They rename without replacing.
const KERNELS_OWN: [FsWord; 4] = [0xef53, 0x5846_5342, 0x9123_683e, 0x0102_1994];

/// How a path beneath the root is walked.
pub(super) const RESOLVE: ResolveFlags =
    ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS).union(ResolveFlags::NO_MAGICLINKS);

impl Tree {
    /// Opens the root of a store, and proves what the store lives on.
    pub(super) fn open(path: &Path, options: &PosixOptions, workers: &Arc<Workers>) -> Result<Arc<Self>> {
        let modes = options.modes.unwrap_or_default();
        let mut tree = Self::bare(path, options.fsync, modes, &options.environment)?;
        let marker = tree.marker()?;
        if let Some((marker, _)) = &marker {
            if let Some(expected) = options.modes.filter(|expected| *expected != marker.modes) {
                return Err(tree.other_modes(expected, marker.modes));
            }
            tree.modes = marker.modes;
        } else if !options.format_if_empty {
            return Err(tree.unformatted());
        }
        tree.check_root()?;
        let tree = Arc::new(tree);
        match probe::probe(&tree) {
            // The directories of a group's store are their owner's to write: the others of the group read.
            Err(error) if tree.modes == Modes::Group && error.kind() == ErrorKind::PermissionDenied => {
                if marker.is_none() || tree.owner.0 == tree.rights().uid || !is_denied(&error) {
                    return Err(error);
                }
            }
            result => result?,
        }
        match marker {
            None => format::format_empty(&tree, workers, modes)?,
            Some((_, stat)) => {
                let judged = tree.rights().marker(&stat);
                judged.map_err(|why| tree.refused(super::marker::MARKER, &why))?;
            }
        }
        Ok(tree)
    }

    /// Opens the root, formatted or not. The root's own path belongs to the operator and may hold links.
    pub(super) fn bare(
        path: &Path,
        fsync: FsyncPolicy,
        modes: Modes,
        environment: &Environment,
    ) -> Result<Self> {
        let label = format!("posix:{}", path.display());
        let fail = |kind, message: String| Err(Error::new(kind, &label, message));
        let fail_with = |errno: Errno| {
            let message = format!("cannot open the root directory: {errno}{}", advice(errno));
            Error::new(kind_of(errno), &label, message).with_source(errno)
        };
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
            Err(errno) => return Err(fail_with(errno)),
        };
        let stat = fstat(&root).map_err(fail_with)?;
        let magic = fstatfs(&root).map_or(0, |system| system.f_type);
        let network = magic == NFS_SUPER_MAGIC;
        let mount = Mount::of(&root);
        let misses_are_cached =
            network && mount.as_ref().is_none_or(|mount| mount.misses_cached_seconds() > 0);
        Ok(Self {
            path: path.to_owned(),
            root,
            mount,
            misses_are_cached,
            owner: (stat.st_uid, stat.st_gid),
            fsync,
            modes,
            network,
            kernels_own: KERNELS_OWN.contains(&magic),
            walk: AtomicBool::new(false),
            names: Box::new(Kernel),
            proven: OnceLock::new(),
            settled: Mutex::default(),
            flushes: AtomicU64::new(0),
            host: host(),
            environment: environment.clone(),
        })
    }

    /// Refuses a root that others may write.
    pub(super) fn check_root(&self) -> Result<()> {
        let stat = fstat(&self.root).map_err(|errno| self.error("examine", "", errno))?;
        self.rights().root(&stat).map_err(|why| {
            let message = format!(
                "the root directory is refused: {why}; whoever can write it could plant objects: chown and chmod it, or use a directory in it"
            );
            Error::new(ErrorKind::PermissionDenied, self, message)
        })
    }

    /// Whom the store believes.
    pub(super) fn rights(&self) -> Rights {
        let uid = self.proven.get().map_or_else(|| geteuid().as_raw(), |proven| proven.uid);
        let (root_owner, group) = self.owner;
        Rights { uid, group, root_owner, modes: self.modes }
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
        let advice = advice(errno);
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

    /// What stands at `path` may be another's.
    pub(super) fn refused(&self, path: &str, why: &str) -> Error {
        let message =
            format!("{}/{path} is refused: {why}; somebody else made it: remove it", self.path.display());
        Error::new(ErrorKind::PermissionDenied, self, message)
    }

    /// Passes a crash point.
    pub(super) fn reach(&self, point: CrashPoint) {
        self.environment.crash_points.reach(point);
    }

    /// Flushes a file's bytes as the policy says.
    pub(super) fn sync_file(&self, file: &OwnedFd) -> rustix::io::Result<()> {
        match self.fsync {
            FsyncPolicy::Durable => self.flush(file),
            FsyncPolicy::CloseToOpen if self.network => self.flush(file),
            FsyncPolicy::CloseToOpen | FsyncPolicy::None => Ok(()),
        }
    }

    /// Closes a second descriptor of a file: what only a close reports (`flush` of NFS and FUSE) must be known before the file is
    /// visible. The first descriptor stays open.
    pub(super) fn close_copy(&self, file: &OwnedFd) -> rustix::io::Result<()> {
        let copy = fcntl_dupfd_cloexec(file, 0)?;
        // Linux has let go of the descriptor whatever it answers, so an interrupted close is no failure and is not repeated.
        match nix::unistd::close(copy).map_err(|errno| Errno::from_raw_os_error(errno as i32)) {
            Err(Errno::INTR) => Ok(()),
            answer => answer,
        }
    }

    /// Whether directories are flushed.
    pub(super) fn flushes_directories(&self) -> bool {
        self.fsync == FsyncPolicy::Durable
    }

    /// Flushes a directory's entries as the policy says.
    pub(super) fn sync_directory(&self, directory: &OwnedFd) -> rustix::io::Result<()> {
        match self.fsync {
            FsyncPolicy::Durable => self.flush(directory),
            FsyncPolicy::CloseToOpen | FsyncPolicy::None => Ok(()),
        }
    }

    /// A failure is final: the kernel may have dropped what it could not write, and a second `fsync` would report success. Whoever gets
    /// it publishes nothing from this file. An interruption is no failure.
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

/// The name of this host, as far as it fits into a file's name.
fn host() -> String {
    let name = uname().nodename().to_string_lossy().into_owned();
    name.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '-').take(32).collect()
}

/// What an operator does about an errno, behind its message.
fn advice(errno: Errno) -> &'static str {
    match kind_of(errno) {
        ErrorKind::NoSpace => ": free space, raise the quota, or collect garbage",
        ErrorKind::PermissionDenied if errno == Errno::LOOP => {
            ": it is a symbolic link, which the store never makes and never follows; remove it"
        }
        ErrorKind::PermissionDenied => ": check owner, modes and mount options",
        _ => "",
    }
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

/// Whether an error says that this process lacks the permission, and not that nobody may write.
fn is_denied(error: &Error) -> bool {
    let source = std::error::Error::source(error).and_then(|source| source.downcast_ref::<Errno>());
    matches!(source, Some(&Errno::ACCESS | &Errno::PERM))
}
