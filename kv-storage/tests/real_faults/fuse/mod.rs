//! A file system whose every call a test can make fail, seen through the kernel: what the store meets here are real system calls.

mod memory_fs;
mod script;

use std::path::Path;

use fuser::{BackgroundSession, Config, MountOption, SessionACL};
use rustix::mount::{UnmountFlags, unmount};
pub(crate) use script::{Answer, Call, Script};

use crate::require::skip;

/// A mounted file system. Dropping it unmounts it.
pub(crate) struct Mounted {
    pub(crate) script: Script,
    /// Answers the kernel; declared before the folder, so that it is gone when that is removed.
    _session: BackgroundSession,
    folder: tempfile::TempDir,
}

impl Mounted {
    /// `None`, with a word on stderr, where FUSE is not there or not permitted.
    pub(crate) fn mount() -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let script = Script::default();
        let mut config = Config::default();
        config.mount_options = vec![MountOption::FSName("kvbridge-faults".into())];
        config.acl = SessionACL::All;
        match fuser::spawn_mount(memory_fs::MemoryFs::new(script.clone()), folder.path(), &config) {
            Ok(session) => Some(Self { script, _session: session, folder }),
            Err(error) => skip(&format!("FUSE cannot be mounted here ({error}); run as root with /dev/fuse")),
        }
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        self.script.clear();
        // Detached, since a thread of the store may still have a file open. Forced, so that what it still asks is answered with an
        // error: a process that closes a file while it ends would wait for its own file system, which has ended.
        let _ = unmount(self.folder.path(), UnmountFlags::FORCE | UnmountFlags::DETACH);
    }
}
