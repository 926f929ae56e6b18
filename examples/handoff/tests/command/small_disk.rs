//! File systems with faults that only a mount can make.

use std::path::Path;

use rustix::mount::{MountFlags, UnmountFlags, mount, mount_remount, unmount};
use tempfile::TempDir;

use crate::scene::format_store;

/// A store on a tmpfs of one MiB for one test.
pub(crate) struct SmallDisk(TempDir);

impl SmallDisk {
    /// `None`, with a word on standard error, where mounting is not permitted.
    pub(crate) fn mount() -> Option<Self> {
        let directory = TempDir::new().unwrap();
        let mounted =
            mount("tmpfs", directory.path(), "tmpfs", MountFlags::empty(), Some(c"size=1m,mode=700"));
        match mounted {
            Ok(()) => {
                let disk = Self(directory);
                format_store(&disk.url());
                Some(disk)
            }
            Err(error) => {
                eprintln!("SKIPPED: a tmpfs cannot be mounted here ({error}); run as root");
                None
            }
        }
    }

    /// From now on nothing can be written, not even by root.
    pub(crate) fn make_read_only(&self) {
        mount_remount(self.0.path(), MountFlags::RDONLY, c"").unwrap();
    }

    /// Where it is mounted.
    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    /// As the URL of a store.
    pub(crate) fn url(&self) -> String {
        format!("file://{}", self.path().display())
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // What cannot be unmounted now goes with the test's mount namespace or the machine.
        let _ = unmount(self.0.path(), UnmountFlags::DETACH);
    }
}
