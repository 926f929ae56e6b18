//! Objects that are published: read, examine, list, delete, quarantine. Everything here blocks.

use std::collections::BTreeSet;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use kv_format::{NamespaceDigest, ObjectName};
use rustix::fs::{AtFlags, Dir, FileType, RenameFlags, Stat, linkat};
use rustix::io::{Errno, retry_on_intr};

use super::io::{Direction, Engine};
use super::reading::{OpenObject, Reading};
use super::temporary::split;
use super::tree::{Tree, len_of, type_of, version_of};
use crate::parts::Stream;
use crate::{ByteRange, ObjectMeta, ReadPart, Result, Version};

/// Where objects go that failed verification, beside `v1`.
pub(super) const QUARANTINE: &str = "quarantine";

impl Tree {
    /// Fills every part from one open file, as many at a time as the engine likes. A file that another host deletes under the reader
    /// answers `ESTALE`: it is opened again once, and then it is a miss.
    pub(super) fn read_object(
        &self,
        engine: &dyn Engine,
        name: &ObjectName,
        parts: &mut Vec<ReadPart>,
    ) -> Result<Option<ObjectMeta>> {
        for _ in 0..2 {
            let Some(object) = self.open_object(engine, name)? else { return Ok(None) };
            for part in &*parts {
                object.check(self, part.offset, part.buffer.len())?;
            }
            match object.fill_all(self, engine, parts)? {
                Reading::Filled => return Ok(Some(object.meta)),
                Reading::Stale => {}
            }
        }
        Ok(None)
    }

    /// Reads the ranges from one open file, and hands each over as it comes: with threads one after the other, while it is in this
    /// core's cache.
    pub(super) fn stream_object(
        &self,
        engine: &dyn Engine,
        name: &ObjectName,
        ranges: &[ByteRange],
        stream: &mut Stream<'_>,
    ) -> Result<Option<ObjectMeta>> {
        for _ in 0..2 {
            let Some(object) = self.open_object(engine, name)? else { return Ok(None) };
            // A range behind the end is refused before anything is handed over.
            for range in ranges {
                object.check(self, range.offset, range.len)?;
            }
            match object.stream(self, engine, ranges, stream)? {
                Reading::Filled => return Ok(Some(object.meta)),
                Reading::Stale => {}
            }
        }
        Ok(None)
    }

    fn open_object(&self, engine: &dyn Engine, name: &ObjectName) -> Result<Option<OpenObject>> {
        let path = name.to_string();
        let Some((file, stat)) = self.open_file(&path)? else { return Ok(None) };
        let file = match engine.open(Arc::new(file), Direction::Read) {
            Ok(file) => Arc::new(file),
            Err(Errno::STALE) => return Ok(None),
            Err(errno) => return Err(self.error("open for reading", &path, errno)),
        };
        Ok(Some(OpenObject { file, meta: meta_of(name, &stat) }))
    }

    /// Opens it, since a network file system may answer anything less from memory.
    pub(super) fn head_object(&self, name: &ObjectName) -> Result<Option<ObjectMeta>> {
        Ok(self.open_file(&name.to_string())?.map(|(_, stat)| meta_of(name, &stat)))
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
                        found.push(meta_of(&name, &stat));
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
        self.mark_as_moved(&quarantine, &place);
        self.sync_directory(&directory)
            .map_err(|errno| self.error("flush the directory of", &path, errno))?;
        Ok(true)
    }
}

fn meta_of(name: &ObjectName, stat: &Stat) -> ObjectMeta {
    ObjectMeta { name: *name, len: len_of(stat), version: version_of(stat) }
}
