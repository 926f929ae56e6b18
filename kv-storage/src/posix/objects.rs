//! Objects that are published: read, examine, list, delete, quarantine. Everything here blocks.

use std::collections::BTreeSet;
use std::os::fd::OwnedFd;

use kv_format::{NamespaceDigest, ObjectName};
use rustix::fs::{AtFlags, Dir, FileType, RenameFlags, linkat};
use rustix::io::{Errno, pread, retry_on_intr};

use super::temporary::split;
use super::tree::{Tree, len_of, type_of, version_of};
use crate::parts::{Stream, out_of_range};
use crate::{ByteRange, Error, ErrorKind, ObjectMeta, ReadPart, Result, Version};

/// Where objects go that failed verification, beside `v1`.
pub(super) const QUARANTINE: &str = "quarantine";

impl Tree {
    /// Fills every part from one open file. A file that another host deletes under the reader answers `ESTALE`: it is opened again
    /// once, and then it is a miss.
    pub(super) fn read_object(
        &self,
        name: &ObjectName,
        parts: &mut [ReadPart],
    ) -> Result<Option<ObjectMeta>> {
        for _ in 0..2 {
            let Some(object) = self.open_object(name)? else { return Ok(None) };
            let mut filled = parts.iter_mut().map(|part| object.fill(self, part.offset, &mut part.buffer));
            match filled.find(|filled| !matches!(filled, Ok(Reading::Filled))) {
                None => return Ok(Some(object.meta)),
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(error),
            }
        }
        Ok(None)
    }

    /// Reads range after range from one open file, and hands each over while it is in this core's cache.
    pub(super) fn stream_object(
        &self,
        name: &ObjectName,
        ranges: &[ByteRange],
        stream: &mut Stream<'_>,
    ) -> Result<Option<ObjectMeta>> {
        let mut next = 0;
        for _ in 0..2 {
            let Some(object) = self.open_object(name)? else { return Ok(None) };
            // A range behind the end is refused before anything is handed over.
            for range in ranges {
                object.check(self, range.offset, range.len)?;
            }
            while let Some(range) = ranges.get(next).filter(|_| !stream.stopped()) {
                let mut buffer = stream.buffer(self, *range)?;
                match object.fill(self, range.offset, &mut buffer)? {
                    Reading::Filled => stream.filled(&object.meta, next, buffer),
                    Reading::Stale if next == 0 => {
                        stream.give_back(buffer);
                        break;
                    }
                    Reading::Stale => {
                        let message = format!("{name} was deleted while it was read: read it again");
                        return Err(Error::new(ErrorKind::Unavailable, self, message));
                    }
                }
                next += 1;
            }
            if stream.stopped() || next == ranges.len() {
                return Ok(Some(object.meta));
            }
        }
        Ok(None)
    }

    fn open_object(&self, name: &ObjectName) -> Result<Option<OpenObject>> {
        let path = name.to_string();
        let (parent, file_name) = split(&path);
        let Some(directory) = self.directory(parent)? else {
            return Ok(None);
        };
        let opened = self.file(&directory, file_name, &path)?;
        Ok(opened.map(|(file, stat)| OpenObject {
            file,
            meta: ObjectMeta { name: *name, len: len_of(&stat), version: version_of(&stat) },
        }))
    }

    pub(super) fn head_object(&self, name: &ObjectName) -> Result<Option<ObjectMeta>> {
        let path = name.to_string();
        let (parent, file_name) = split(&path);
        let Some(directory) = self.directory(parent)? else {
            return Ok(None);
        };
        let stat = self.examine(&directory, file_name, &path)?;
        Ok(stat.map(|stat| ObjectMeta { name: *name, len: len_of(&stat), version: version_of(&stat) }))
    }

    /// Reads one fan-out directory after another, in the order of the names, until `limit` objects are found.
    pub(super) fn list_objects(
        &self,
        namespace: &NamespaceDigest,
        after: Option<&ObjectName>,
        limit: usize,
    ) -> Result<Vec<ObjectMeta>> {
        let mut found = Vec::new();
        let after = match after {
            Some(after) if after.namespace > *namespace => return Ok(found),
            Some(after) if after.namespace == *namespace => Some(after),
            _ => None,
        };
        let first = after.map_or(0, |after| after.key.0[0]);
        for fan_out in first..=u8::MAX {
            if found.len() >= limit {
                break;
            }
            let parent = format!("v1/{namespace}/{fan_out:02x}");
            let Some(directory) = self.directory(&parent)? else {
                continue;
            };
            let mut behind = after.copied();
            loop {
                let wanted = limit - found.len();
                let names = self.names_in(&directory, &parent, behind.as_ref(), wanted)?;
                let complete = names.len() < wanted;
                behind = names.last().copied().or(behind);
                for name in names {
                    let path = name.to_string();
                    let (_, file_name) = split(&path);
                    // What is deleted meanwhile is skipped, and so is what an intruder put there: reading it says why.
                    let stat = self.stat(&directory, file_name, &path)?;
                    if let Some(stat) = stat.filter(|stat| type_of(stat) == FileType::RegularFile) {
                        found.push(ObjectMeta { name, len: len_of(&stat), version: version_of(&stat) });
                    }
                }
                if complete || found.len() >= limit {
                    break;
                }
            }
        }
        Ok(found)
    }

    /// The first `limit` object names of a directory behind `after`; holds no more than that in memory.
    fn names_in(
        &self,
        directory: &OwnedFd,
        parent: &str,
        after: Option<&ObjectName>,
        limit: usize,
    ) -> Result<BTreeSet<ObjectName>> {
        let mut names = BTreeSet::new();
        self.entries(directory, parent, |entry| {
            let Ok(name) = format!("{parent}/{entry}").parse::<ObjectName>() else {
                return; // temporaries, `.nfs*`, and whatever else is no object
            };
            if after.is_none_or(|after| name > *after) {
                names.insert(name);
                if names.len() > limit {
                    names.pop_last();
                }
            }
        })?;
        Ok(names)
    }

    /// Visits the names in a directory, except `.` and `..`.
    pub(super) fn entries(&self, directory: &OwnedFd, path: &str, mut visit: impl FnMut(&str)) -> Result<()> {
        let fail = |errno| self.error("list", path, errno);
        for entry in Dir::read_from(directory).map_err(fail)? {
            match entry {
                Ok(entry) => match entry.file_name().to_str() {
                    Ok("." | "..") | Err(_) => {}
                    Ok(name) => visit(name),
                },
                Err(Errno::NOENT | Errno::STALE) => return Ok(()), // the directory was removed
                Err(errno) => return Err(fail(errno)),
            }
        }
        Ok(())
    }

    pub(super) fn delete_file(&self, path: &str) -> Result<bool> {
        let (parent, file_name) = split(path);
        match self.directory(parent)? {
            Some(directory) => self.remove(&directory, file_name, path),
            None => Ok(false),
        }
    }

    /// Moves an object into the quarantine if it is still `version`.
    pub(super) fn quarantine_object(&self, name: &ObjectName, version: &Version) -> Result<bool> {
        let path = name.to_string();
        let (parent, file_name) = split(&path);
        let Some(directory) = self.directory(parent)? else {
            return Ok(false);
        };
        let stat = self.examine(&directory, file_name, &path)?;
        if stat.is_none_or(|stat| version_of(&stat) != *version) {
            return Ok(false);
        }
        let quarantine = self.ensure_directory(QUARANTINE)?;
        let random = self.environment.entropy.next_u64();
        let place = format!("{}.{file_name}.{random:016x}", name.namespace);
        let renamed = self.names.rename((&directory, file_name), (&quarantine, &place), RenameFlags::empty());
        let moved = self.examine(&quarantine, &place, &format!("{QUARANTINE}/{place}"))?;
        match renamed {
            Ok(()) => {}
            // Nobody else knows the place: the file there is the one that we moved, and the answer was lost.
            Err(_) if moved.is_some() => {}
            Err(Errno::NOENT | Errno::STALE) => return Ok(false),
            Err(errno) => return Err(self.error("quarantine", &path, errno)),
        }
        if moved.is_some_and(|stat| version_of(&stat) != *version) {
            // Between the check and the move another object took the name: it goes back, unless a third one came.
            let back = retry_on_intr(|| linkat(&quarantine, &place, &directory, file_name, AtFlags::empty()));
            return match back {
                Ok(()) | Err(Errno::EXIST) => self.remove(&quarantine, &place, &path).map(|_| false),
                Err(errno) => Err(self.error("put back", &path, errno)),
            };
        }
        self.sync_directory(&directory)
            .map_err(|errno| self.error("flush the directory of", &path, errno))?;
        Ok(true)
    }
}

/// An object's file.
struct OpenObject {
    file: OwnedFd,
    meta: ObjectMeta,
}

/// One attempt at a range.
enum Reading {
    Filled,
    /// The file was deleted on another host while it was read.
    Stale,
}

impl OpenObject {
    /// Fails unless the range lies in the object.
    fn check(&self, tree: &Tree, offset: u64, len: usize) -> Result<()> {
        let end = offset.checked_add(len as u64);
        if end.is_none_or(|end| end > self.meta.len) {
            return Err(out_of_range(tree, &self.meta.name, (offset, len), self.meta.len));
        }
        Ok(())
    }

    fn fill(&self, tree: &Tree, offset: u64, buffer: &mut [u8]) -> Result<Reading> {
        self.check(tree, offset, buffer.len())?;
        let ObjectMeta { name, len, .. } = &self.meta;
        let asked = (offset, buffer.len());
        match read_all(&self.file, buffer, offset) {
            Ok(true) => Ok(Reading::Filled),
            // Published objects never shrink: somebody else truncated it.
            Ok(false) => Err(out_of_range(tree, name, asked, *len).with_source(Errno::IO)),
            Err(Errno::STALE) => Ok(Reading::Stale),
            Err(errno) => Err(tree.error("read", &name.to_string(), errno)),
        }
    }
}

/// Fills `buffer` from `offset`; `false` if the file ends before.
pub(super) fn read_all(file: &OwnedFd, buffer: &mut [u8], offset: u64) -> rustix::io::Result<bool> {
    let mut filled = 0;
    while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match retry_on_intr(|| pread(file, &mut *rest, offset + filled as u64))? {
            0 => return Ok(false),
            read => filled += read,
        }
    }
    Ok(true)
}
