//! A tmpfs of huge pages for the length of a run: what a warm tier of a host gives when it is set up well.

use super::places::ROOM;
use anyhow::{Context as _, Result};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use std::ffi::CString;
use std::path::Path;
use tempfile::TempDir;

/// A mounted tmpfs. Dropping it unmounts it and removes the folder.
pub(super) struct HugeTmpfs {
    folder: TempDir,
}

impl HugeTmpfs {
    /// Mounts one in a new folder.
    ///
    /// # Errors
    /// Says what is missing: the right to mount, or huge pages in the kernel.
    pub(super) fn mount() -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("kvbridge-huge-").tempdir()?;
        let options = CString::new(format!("huge=always,size={ROOM},mode=0700"))?;
        mount("tmpfs", folder.path(), "tmpfs", MountFlags::NOSUID | MountFlags::NODEV, options.as_c_str())
            .context("mounting a tmpfs with huge=always needs root (CAP_SYS_ADMIN) and a kernel with transparent huge pages")?;
        Ok(Self { folder })
    }

    pub(super) fn path(&self) -> &Path {
        self.folder.path()
    }
}

impl Drop for HugeTmpfs {
    fn drop(&mut self) {
        // Detached: it goes even if a child that is being killed still has a file open.
        if let Err(errno) = unmount(self.folder.path(), UnmountFlags::DETACH) {
            eprintln!("{} could not be unmounted ({errno}): run umount on it", self.folder.path().display());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_mounted_while_it_lives_or_says_what_is_missing() {
        let mounts = || std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        match HugeTmpfs::mount() {
            Ok(tmpfs) => {
                let path = tmpfs.path().to_path_buf();
                let shown = path.to_str().unwrap();
                assert!(mounts().lines().any(|line| line.contains(shown) && line.contains("huge=always")));
                drop(tmpfs);
                assert!(!mounts().contains(shown) && !path.exists());
            }
            Err(error) => assert!(error.to_string().contains("needs root"), "{error:#}"),
        }
    }
}
