//! The file systems that are measured. A tmpfs is mounted nowhere: it is reached through its descriptor and ends with the process.

use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_string, fsmount, fsopen,
};

/// One of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    HugeTmpfs,
    Tmpfs,
    DiskCached,
    Disk,
}

/// It, ready to use.
pub(crate) struct Mounted {
    path: PathBuf,
    _mount: Option<OwnedFd>,
    _directory: Option<tempfile::TempDir>,
}

impl Mounted {
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Place {
    pub(crate) const ALL: [Self; 4] = [Self::HugeTmpfs, Self::Tmpfs, Self::DiskCached, Self::Disk];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::HugeTmpfs => "huge-tmpfs",
            Self::Tmpfs => "tmpfs",
            Self::DiskCached => "disk-cached",
            Self::Disk => "disk",
        }
    }

    pub(crate) fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|place| place.name() == name)
    }

    /// Whether plain loops go past the page cache.
    pub(crate) fn direct(self) -> bool {
        self == Self::Disk
    }

    pub(crate) fn open(self) -> Result<Mounted, String> {
        let huge = match self {
            Self::HugeTmpfs => "always",
            Self::Tmpfs => "never",
            Self::DiskCached | Self::Disk => {
                let directory = tempfile::tempdir().map_err(|error| error.to_string())?;
                return Ok(Mounted {
                    path: directory.path().to_owned(),
                    _mount: None,
                    _directory: Some(directory),
                });
            }
        };
        let mount = tmpfs(huge).map_err(|error| format!("cannot mount a tmpfs with huge={huge}: {error}"))?;
        let path = PathBuf::from(format!("/proc/self/fd/{}", mount.as_raw_fd()));
        Ok(Mounted { path, _mount: Some(mount), _directory: None })
    }
}

fn tmpfs(huge: &str) -> rustix::io::Result<OwnedFd> {
    let system = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(&system, "huge", huge)?;
    fsconfig_set_string(&system, "size", "8G")?;
    fsconfig_create(&system)?;
    fsmount(&system, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())
}
