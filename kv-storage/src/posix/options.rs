//! How a posix store is formatted and opened.

use std::fmt;
use std::time::Duration;

use kv_format::NamespaceDigest;
#[cfg(any(feature = "io-uring", feature = "nixl"))]
use kv_memory::StagingPool;
use serde::{Deserialize, Serialize};

use super::io::IoEngine;
use super::mount::Mount;
use crate::env::Environment;
use crate::parts::{DEFAULT_STRANDED_BOUND, one_thread_per_core};

/// What is flushed before an object or a record becomes visible.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum FsyncPolicy {
    /// `fsync` of the file before it is linked, and of the directory after: what was answered `Published` survives a power cut.
    /// The default, and the price is the device's flush for every object.
    #[default]
    Durable,
    /// The file's bytes are on the *server* before they are visible, on a network file system (as its close would do); on a local
    /// file system nothing is flushed. **A power cut of the machine that holds the disk may lose or tear published objects**; a
    /// torn object then fails verification.
    CloseToOpen,
    /// Nothing is flushed. **A power cut may lose or tear published objects**, and on a network file system another host may read
    /// a published object before all its bytes have arrived. A killed process loses nothing.
    None,
}

/// Who may read the store's files. Chosen when the store is formatted, and kept in its marker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Modes {
    /// Directories 0700, files 0600; what another owner put there is refused.
    #[default]
    Private,
    /// Directories 0750, files 0640, all of the root directory's group: one user saves, the users of the group load.
    Group,
}

impl fmt::Display for Modes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Private => "private",
            Self::Group => "group",
        })
    }
}

/// Options of [`PosixStore::format`](super::PosixStore::format).
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct FormatOptions {
    /// Modes of all files and directories. Default [`Private`](Modes::Private).
    pub modes: Modes,
    /// Namespaces that will be saved to, where they are known already. The 256 directories of others are made at their first save.
    pub namespaces: Vec<NamespaceDigest>,
    /// Time, randomness and crash points.
    pub environment: Environment,
}

impl FormatOptions {
    /// Sets the modes of all files and directories.
    #[must_use]
    pub fn modes(mut self, modes: Modes) -> Self {
        self.modes = modes;
        self
    }

    /// Makes the directories of a namespace now.
    #[must_use]
    pub fn namespace(mut self, namespace: NamespaceDigest) -> Self {
        self.namespaces.push(namespace);
        self
    }

    /// Sets time, randomness and crash points.
    #[must_use]
    pub fn environment(mut self, environment: Environment) -> Self {
        self.environment = environment;
        self
    }
}

/// Options of [`PosixStore::open`](super::PosixStore::open).
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct PosixOptions {
    /// I/O threads, beside those that replace hung ones. With io_uring they open, publish and wait for a ring, which has a thread of its
    /// own: one ring for two of them, at most two rings. `None`, the default: 4, but not more than there are cores on a file system in
    /// memory, where nobody waits for a device and threads that take turns on a core push each other's bytes out of its cache.
    pub threads: Option<usize>,
    /// Operations that may wait for a thread; more wait before they queue. Default 256.
    pub queue: usize,
    /// What moves the bytes of objects. Default [`Threads`](IoEngine::Threads).
    pub io: IoEngine,
    /// Staging whose memory is registered once: with the kernel if the engine is io_uring, with NIXL if it is that. Default none.
    #[cfg(any(feature = "io-uring", feature = "nixl"))]
    pub fixed: Option<StagingPool>,
    /// How NIXL is found and used, if the engine is NIXL.
    #[cfg(feature = "nixl")]
    pub nixl: crate::NixlOptions,
    /// What is flushed before publication. Default [`Durable`](FsyncPolicy::Durable).
    pub fsync: FsyncPolicy,
    /// The modes that the store must have been formatted with, or `None`, the default: whatever its marker says.
    pub modes: Option<Modes>,
    /// Formats the directory, if it is empty, and does not ask for a store that exists: for tests and demonstrations. A mistyped path
    /// then becomes a store. Default `false`.
    pub format_if_empty: bool,
    /// Stranded operations at which the store is marked down. Default 64.
    pub stranded_bound: usize,
    /// Temporary files of this age are removed in the background at open: their processes are long dead. `None`: no sweep.
    /// Default one day.
    pub sweep_older_than: Option<Duration>,
    /// Time, randomness and crash points.
    pub environment: Environment,
}

impl Default for PosixOptions {
    fn default() -> Self {
        Self {
            threads: None,
            queue: 256,
            io: IoEngine::default(),
            #[cfg(any(feature = "io-uring", feature = "nixl"))]
            fixed: None,
            #[cfg(feature = "nixl")]
            nixl: crate::NixlOptions::default(),
            fsync: FsyncPolicy::default(),
            modes: None,
            format_if_empty: false,
            stranded_bound: DEFAULT_STRANDED_BOUND,
            sweep_older_than: Some(Duration::from_secs(24 * 60 * 60)),
            environment: Environment::default(),
        }
    }
}

/// I/O threads of a store, where its file system is not memory.
pub(super) const DEFAULT_THREADS: usize = 4;

impl PosixOptions {
    /// I/O threads on a mount.
    pub(super) fn threads_on(&self, mount: Option<&Mount>) -> usize {
        let threads = self.threads.unwrap_or_else(|| match mount.map(Mount::file_system) {
            Some("tmpfs" | "ramfs") => one_thread_per_core(DEFAULT_THREADS),
            _ => DEFAULT_THREADS,
        });
        threads.max(1)
    }

    /// Sets the number of I/O threads.
    #[must_use]
    pub fn threads(mut self, threads: usize) -> Self {
        self.threads = Some(threads);
        self
    }

    /// Sets how many operations may wait for a thread.
    #[must_use]
    pub fn queue(mut self, queue: usize) -> Self {
        self.queue = queue;
        self
    }

    /// Sets what moves the bytes of objects.
    #[must_use]
    pub fn io(mut self, engine: IoEngine) -> Self {
        self.io = engine;
        self
    }

    /// Registers the memory of `staging` with the kernel once, where the engine is io_uring, so that a transfer of its buffers need
    /// not pin their pages each time. The store keeps the memory as long as it lives. Where the limit of locked memory forbids it,
    /// the store goes without, and [`IoChoice`](super::IoChoice) says so. Where the engine is NIXL, each of its agents is told of the memory
    /// once, instead of of every buffer each time.
    #[cfg(any(feature = "io-uring", feature = "nixl"))]
    #[must_use]
    pub fn fixed_buffers(mut self, staging: &StagingPool) -> Self {
        self.fixed = Some(staging.clone());
        self
    }

    /// Sets how NIXL is found and used, if the engine is NIXL.
    #[cfg(feature = "nixl")]
    #[must_use]
    pub fn nixl(mut self, options: crate::NixlOptions) -> Self {
        self.nixl = options;
        self
    }

    /// Sets what is flushed before publication.
    #[must_use]
    pub fn fsync(mut self, fsync: FsyncPolicy) -> Self {
        self.fsync = fsync;
        self
    }

    /// Refuses a store that was formatted with other modes.
    #[must_use]
    pub fn modes(mut self, modes: Modes) -> Self {
        self.modes = Some(modes);
        self
    }

    /// Sets whether an empty directory is formatted.
    #[must_use]
    pub fn format_if_empty(mut self, format: bool) -> Self {
        self.format_if_empty = format;
        self
    }

    /// Sets how many operations may hang before the store is down.
    #[must_use]
    pub fn stranded_bound(mut self, bound: usize) -> Self {
        self.stranded_bound = bound;
        self
    }

    /// Sets the age of the temporary files that the sweep at open removes.
    #[must_use]
    pub fn sweep_older_than(mut self, age: Option<Duration>) -> Self {
        self.sweep_older_than = age;
        self
    }

    /// Sets time, randomness and crash points.
    #[must_use]
    pub fn environment(mut self, environment: Environment) -> Self {
        self.environment = environment;
        self
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::OwnedFd;

    use super::*;

    #[test]
    fn a_file_system_in_memory_gets_no_more_threads_than_cores() {
        let options = PosixOptions::default();
        assert_eq!(options.threads_on(None), DEFAULT_THREADS);
        let directory = OwnedFd::from(std::fs::File::open("/dev/shm").unwrap());
        let mount = Mount::of(&directory).unwrap();
        assert_eq!(mount.file_system(), "tmpfs");
        assert_eq!(options.threads_on(Some(&mount)), one_thread_per_core(DEFAULT_THREADS));
        assert_eq!(options.threads(7).threads_on(Some(&mount)), 7);
        assert_eq!(PosixOptions::default().threads(0).threads_on(None), 1);
    }
}
