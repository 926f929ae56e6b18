//! Records: small files, created by link, replaced by rename. Everything here blocks.

use std::sync::Arc;

use kv_format::RecordName;
use rustix::io::Errno;

use super::crash;
use super::io::{read_all, write_all};
use super::lookup::MOST_STALE;
use super::temporary::Temporary;
use super::tree::{Tree, len_of};
use crate::parts::Workers;
use crate::{Error, ErrorKind, MAX_RECORD_BYTES, Publication, Record, Result, Version};

/// The mark of a body: its digest, so that it does not depend on inodes, which a copy of the store would change.
fn version_of_body(body: &[u8]) -> Version {
    Version(blake3::hash(body).to_hex().to_string())
}

/// A flushed temporary file that holds `body`.
fn write(tree: &Arc<Tree>, workers: &Arc<Workers>, path: &str, body: &[u8]) -> Result<Temporary> {
    let mut temporary = Temporary::create(tree, workers, path)?;
    tree.reach(crash::RECORD_TEMP_CREATED);
    let written = write_all(&temporary.file(), body, 0)
        .map_err(|errno| tree.error(&format!("write {} bytes to", body.len()), path, errno))
        .and_then(|()| {
            tree.reach(crash::RECORD_WRITTEN);
            temporary.sync()
        });
    if let Err(error) = written {
        let _ = temporary.remove();
        return Err(error);
    }
    tree.reach(crash::RECORD_SYNCED);
    Ok(temporary)
}

pub(super) fn create(
    tree: &Arc<Tree>,
    workers: &Arc<Workers>,
    name: &RecordName,
    body: &[u8],
) -> Result<Option<Version>> {
    let mut temporary = write(tree, workers, &name.to_string(), body)?;
    let publication = temporary.link();
    if matches!(publication, Ok(Publication::Published)) {
        tree.reach(crash::RECORD_LINKED);
    }
    let _ = temporary.remove(); // a sweep removes what is left
    match publication? {
        Publication::AlreadyExists => Ok(None),
        Publication::Published => {
            tree.reach(crash::RECORD_TEMP_REMOVED);
            temporary.sync_directory()?;
            Ok(Some(version_of_body(body)))
        }
    }
}

pub(super) fn replace(
    tree: &Arc<Tree>,
    workers: &Arc<Workers>,
    name: &RecordName,
    expected: &Version,
    body: &[u8],
) -> Result<Option<Version>> {
    if read(tree, name)?.is_none_or(|record| record.version != *expected) {
        return Ok(None);
    }
    let mut temporary = write(tree, workers, &name.to_string(), body)?;
    // Where a process of this host has the old record open, an NFS client keeps it under another name, and hosts that remember it
    // would go on reading it.
    temporary.mark_predecessor();
    temporary.replace()?;
    tree.reach(crash::RECORD_REPLACED);
    temporary.sync_directory()?;
    Ok(Some(version_of_body(body)))
}

pub(super) fn read(tree: &Tree, name: &RecordName) -> Result<Option<Record>> {
    let path = name.to_string();
    for _ in 0..=MOST_STALE {
        let Some((file, stat)) = tree.open_mutable(&path)? else {
            return Ok(None);
        };
        let len = usize::try_from(len_of(&stat)).unwrap_or(usize::MAX);
        if len > MAX_RECORD_BYTES {
            let message = format!("the record {path} has {len} bytes: expected at most {MAX_RECORD_BYTES}");
            return Err(Error::new(ErrorKind::Backend, tree, message));
        }
        let mut body = vec![0; len];
        match read_all(&file, &mut body, 0) {
            Ok(true) => {
                let version = version_of_body(&body);
                return Ok(Some(Record { body, version }));
            }
            Ok(false) => return Err(tree.error("read all of", &path, Errno::IO)),
            Err(errno) if tree.is_lost(errno) => {} // replaced by another host while it was read: open the new one
            Err(errno) => return Err(tree.error("read", &path, errno)),
        }
    }
    Ok(None)
}
