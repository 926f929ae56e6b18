//! The mount that a store's root is on: what `/proc/self/mountinfo` says of it, and which of its options cost or endanger something.
//!
//! A store that works on every mount cannot refuse an unlucky one; it says what to change instead, with the exact option.

mod mountinfo;
mod warning;

use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

pub use warning::MountWarning;

/// Linux keeps directory attributes for at most this many seconds unless `acdirmax` says otherwise (nfs(5)).
const ACDIRMAX_DEFAULT: u64 = 60;

/// Options for a server of any make. `hard`: a store with deadlines loses nothing by a call that waits, and a call that gives up
/// loses writes.
const MODEL: &str = "vers=3,hard,nconnect=16,rsize=1048576,wsize=1048576,lookupcache=positive";

/// What VAST recommends for its own client (kb.vastdata.com, "VAST client NFS multipathing"); the ports are the site's.
const MODEL_VAST: &str = "vers=3,nconnect=34,pconnect=4,mdconnect=2,spread_reads,spread_writes,noextend,lookupcache=pos,remoteports=dns,localports=FIRST~LAST";

/// Options that only VAST's client has.
const VAST_ONLY: [&str; 7] =
    ["spread_reads", "spread_writes", "remoteports", "localports", "mdconnect", "pconnect", "noextend"];

/// One mounted file system, with the options of the mount and of the file system behind it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    mount_point: PathBuf,
    file_system: String,
    source: String,
    options: Vec<String>,
}

impl Mount {
    /// The mount that an open directory is on; `None` where `/proc` is not mounted.
    pub(super) fn of(directory: &OwnedFd) -> Option<Self> {
        let fd = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", directory.as_raw_fd())).ok()?;
        let id = fd.lines().find_map(|line| line.strip_prefix("mnt_id:"))?.trim();
        mountinfo::find(&std::fs::read("/proc/self/mountinfo").ok()?, id)
    }

    /// The directory on which it is mounted.
    pub fn mount_point(&self) -> &Path {
        &self.mount_point
    }

    /// The kernel's name of the file system: `ext4`, `tmpfs`, `nfs` (version 3), `nfs4`.
    pub fn file_system(&self) -> &str {
        &self.file_system
    }

    /// What is mounted: a device, or `server:/export`.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Whether it is the kernel's NFS client, or one that takes its place.
    pub fn is_nfs(&self) -> bool {
        matches!(self.file_system.as_str(), "nfs" | "nfs4")
    }

    /// The value of an option, empty for one that has none: `option("vers") == Some("3")`.
    pub fn option(&self, name: &str) -> Option<&str> {
        self.options.iter().find_map(|option| {
            let (found, value) = option.split_once('=').unwrap_or((option, ""));
            (found == name).then_some(value)
        })
    }

    /// For how many seconds this host may believe that a file does not exist, after another host has created it; 0 on a local file
    /// system and on a mount with `lookupcache=positive`.
    pub fn misses_cached_seconds(&self) -> u64 {
        let checked = matches!(self.option("lookupcache"), Some("pos" | "positive" | "none"));
        if !self.is_nfs() || checked || self.option("noac").is_some() {
            return 0;
        }
        let seconds = self.option("acdirmax").or_else(|| self.option("actimeo"));
        seconds.and_then(|seconds| seconds.parse().ok()).unwrap_or(ACDIRMAX_DEFAULT)
    }

    /// A line of mount options that gives none of the [warnings](MountWarning); VAST's own where the options are those of its client.
    pub fn model_options(&self) -> &'static str {
        let vast = self.is_nfs() && VAST_ONLY.iter().any(|option| self.option(option).is_some());
        if vast { MODEL_VAST } else { MODEL }
    }

    /// What is to be said about the options; nothing on a local file system.
    pub fn warnings(&self) -> Vec<MountWarning> {
        warning::of(self)
    }
}
