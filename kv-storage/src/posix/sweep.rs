//! Removes temporary files whose process died. Everything here blocks.

use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::fs::{AtFlags, FileType, statat};

use super::temporary::TEMPORARY_PREFIX;
use super::tree::{Tree, type_of};
use crate::Result;

/// Deepest directory of the store: `v1/records/request/ab`.
const DEPTH: usize = 4;

impl Tree {
    /// Removes temporary files that were not written to for `older_than`; how many there were.
    ///
    /// A file that a live process is writing has a young time of modification, as long as the clocks of the hosts differ by less
    /// than the age.
    pub(super) fn sweep(&self, older_than: Duration) -> Result<u64> {
        let age = i64::try_from(older_than.as_secs()).unwrap_or(i64::MAX);
        let now = i64::try_from(self.environment.clock.unix_millis() / 1000).unwrap_or(i64::MAX);
        let mut removed = 0;
        let mut pending = vec![(String::new(), 0)];
        while let Some((path, depth)) = pending.pop() {
            let Some(directory) = self.directory(&path)? else {
                continue;
            };
            let mut temporaries = Vec::new();
            let mut directories = Vec::new();
            self.entries(&directory, &path, |name| {
                if name.starts_with(TEMPORARY_PREFIX) {
                    temporaries.push(name.to_owned());
                } else if depth < DEPTH && !name.contains('.') {
                    directories.push(name.to_owned());
                }
            })?;
            for name in temporaries {
                if self.is_stale(&directory, &name, now.saturating_sub(age)) {
                    removed += u64::from(self.remove(&directory, &name, &name)?);
                }
            }
            for name in directories {
                let is_directory = statat(&directory, &name, AtFlags::SYMLINK_NOFOLLOW)
                    .is_ok_and(|stat| type_of(&stat) == FileType::Directory);
                if is_directory {
                    let child = if path.is_empty() { name } else { format!("{path}/{name}") };
                    pending.push((child, depth + 1));
                }
            }
        }
        Ok(removed)
    }

    fn is_stale(&self, directory: &OwnedFd, name: &str, before: i64) -> bool {
        statat(directory, name, AtFlags::SYMLINK_NOFOLLOW)
            .is_ok_and(|stat| type_of(&stat) == FileType::RegularFile && stat.st_mtime <= before)
    }
}
