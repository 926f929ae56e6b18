//! Removes temporary files whose process died. Everything here blocks.

use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::fs::{AtFlags, FileType, statat};

use super::objects::QUARANTINE;
use super::temporary::TEMPORARY_PREFIX;
use super::tree::{Tree, type_of};
use crate::Result;

/// Deepest directory of the store: `v1/records/request/ab`.
const DEPTH: usize = 4;

impl Tree {
    /// Removes temporary files and directories that were not written to for `older_than`; how many there were.
    ///
    /// A file that a live process is writing has a young time of modification, as long as the clocks of the hosts differ by less
    /// than the age. Of two sweeps at once each file is removed by one, and the other passes it over.
    pub(super) fn sweep(&self, older_than: Duration) -> Result<u64> {
        let age = i64::try_from(older_than.as_secs()).unwrap_or(i64::MAX);
        let now = i64::try_from(self.environment.clock.unix_millis() / 1000).unwrap_or(i64::MAX);
        let before = now.saturating_sub(age);
        let mut removed = 0;
        // What is refused, because somebody planted it, does not keep the rest from being swept.
        let mut refused = None;
        let mut pending = vec![(String::new(), 0)];
        while let Some((path, depth)) = pending.pop() {
            let directory = match self.directory(&path) {
                Ok(Some(directory)) => directory,
                Ok(None) => continue,
                Err(error) => {
                    refused = refused.or(Some(error));
                    continue;
                }
            };
            let mut temporaries = Vec::new();
            let mut directories = Vec::new();
            self.entries(&directory, &path, |name| {
                // Nothing in the root but these directories is the store's.
                let ours = depth > 0 || ["v1", QUARANTINE].contains(&name);
                if name.starts_with(TEMPORARY_PREFIX) {
                    temporaries.push(name.to_owned());
                } else if ours && depth < DEPTH && !name.contains('.') {
                    directories.push(name.to_owned());
                }
            })?;
            for name in temporaries {
                removed += u64::from(self.sweep_one(&directory, &name, before)?);
            }
            for name in directories {
                if self.stale_type(&directory, &name, i64::MAX) == Some(FileType::Directory) {
                    let child = if path.is_empty() { name } else { format!("{path}/{name}") };
                    pending.push((child, depth + 1));
                }
            }
        }
        refused.map_or(Ok(removed), Err)
    }

    fn sweep_one(&self, directory: &OwnedFd, name: &str, before: i64) -> Result<bool> {
        match self.stale_type(directory, name, before) {
            Some(FileType::RegularFile) => self.remove(directory, name, name),
            // A fan-out that never got its name.
            Some(FileType::Directory) => Ok(self.remove_fan_out(directory, name)),
            _ => Ok(false),
        }
    }

    /// What stands at a name, if it was last written at `before` or earlier. On NFS a file that has just been created may have any time of
    /// modification: the server keeps the mark of an exclusive creation there until the client sets the time. It cannot set that of the
    /// last change.
    fn stale_type(&self, directory: &OwnedFd, name: &str, before: i64) -> Option<FileType> {
        let stat = statat(directory, name, AtFlags::SYMLINK_NOFOLLOW).ok()?;
        let written = if self.network() { stat.st_mtime.max(stat.st_ctime) } else { stat.st_mtime };
        (written <= before).then(|| type_of(&stat))
    }
}
