//! Reading from an object's open file, with as many transfers under way as the engine likes. Everything here blocks.

use std::sync::Arc;

use rustix::io::Errno;

use super::io::{DataFile, Direction, Engine, Flight, Moved};
use super::tree::Tree;
use crate::parts::{Stream, out_of_range};
use crate::{ByteRange, Error, ErrorKind, ObjectMeta, ReadPart, Result};

/// An object's file.
pub(super) struct OpenObject {
    pub(super) file: Arc<DataFile>,
    pub(super) meta: ObjectMeta,
}

/// One attempt at what was asked for.
pub(super) enum Reading {
    Filled,
    /// The file was deleted on another host while it was read.
    Stale,
}

impl OpenObject {
    /// Fails unless the range lies in the object.
    pub(super) fn check(&self, tree: &Tree, offset: u64, len: usize) -> Result<()> {
        let end = offset.checked_add(len as u64);
        if end.is_none_or(|end| end > self.meta.len) {
            return Err(out_of_range(tree, &self.meta.name, (offset, len), self.meta.len));
        }
        Ok(())
    }

    /// What has come of a transfer of the range.
    fn reading(&self, tree: &Tree, (offset, len): (u64, usize), moved: Moved) -> Result<Reading> {
        let name = &self.meta.name;
        match moved {
            Ok(true) => Ok(Reading::Filled),
            // Published objects never shrink: somebody else truncated it.
            Ok(false) => Err(out_of_range(tree, name, (offset, len), self.meta.len).with_source(Errno::IO)),
            Err(errno) if tree.is_lost(errno) => Ok(Reading::Stale),
            Err(errno) => Err(tree.error("read", &name.to_string(), errno)),
        }
    }

    /// Fills the parts' buffers, and leaves all of them in their places, whatever happens.
    pub(super) fn fill_all(
        &self,
        tree: &Tree,
        engine: &dyn Engine,
        parts: &mut Vec<ReadPart>,
    ) -> Result<Reading> {
        let mut flight = Flight::new(engine, &self.file, Direction::Read);
        let mut result = Ok(Reading::Filled);
        let offsets: Vec<u64> = parts.iter().map(|part| part.offset).collect();
        let mut filled = Vec::new();
        filled.resize_with(parts.len(), || None);
        let mut waiting = parts.drain(..).enumerate();
        loop {
            while flight.has_room() && matches!(result, Ok(Reading::Filled)) {
                let Some((index, part)) = waiting.next() else { break };
                flight.start(index, part.offset, part.buffer);
            }
            let Some((index, buffer, moved)) = flight.next() else { break };
            let offset = offsets.get(index).copied().unwrap_or_default();
            let reading = self.reading(tree, (offset, buffer.len()), moved);
            if matches!(result, Ok(Reading::Filled)) {
                result = reading;
            }
            if let Some(place) = filled.get_mut(index) {
                *place = Some(ReadPart { offset, buffer });
            }
        }
        for (index, part) in waiting {
            if let Some(place) = filled.get_mut(index) {
                *place = Some(part);
            }
        }
        parts.extend(filled.into_iter().flatten());
        result
    }

    /// Fills range after range and hands them over, the first one first. `Stale`: nothing was handed over, and every buffer is back in
    /// the stream.
    pub(super) fn stream(
        &self,
        tree: &Tree,
        engine: &dyn Engine,
        ranges: &[ByteRange],
        stream: &mut Stream<'_>,
    ) -> Result<Reading> {
        let mut flight = Flight::new(engine, &self.file, Direction::Read);
        let mut waiting = ranges.iter().enumerate();
        // Ranges that came before the first one.
        let mut early = Vec::new();
        let mut first = true;
        let mut stale = false;
        loop {
            while flight.has_room() && !stream.stopped() && !stale {
                let none_to_come = flight.is_empty() && early.is_empty();
                if !stream.has_buffer() && !none_to_come {
                    break; // the sink may give one back; if it keeps them all, a later turn says so
                }
                let Some((index, range)) = waiting.next() else { break };
                let buffer = stream.buffer(tree, *range)?;
                flight.start(index, range.offset, buffer);
            }
            let Some((index, buffer, moved)) = flight.next() else { break };
            if stream.stopped() || stale {
                stream.give_back(buffer);
                continue;
            }
            let range = ranges.get(index).map_or((0, 0), |range| (range.offset, range.len));
            match self.reading(tree, range, moved)? {
                Reading::Stale if first => {
                    stale = true;
                    stream.give_back(buffer);
                }
                Reading::Stale => {
                    let message = format!("{} was deleted while it was read: read it again", self.meta.name);
                    return Err(Error::new(ErrorKind::Unavailable, tree, message));
                }
                Reading::Filled if first && index > 0 => early.push((index, buffer)),
                Reading::Filled => {
                    first = false;
                    stream.filled(&self.meta, index, buffer);
                    for (index, buffer) in early.drain(..) {
                        if stream.stopped() {
                            stream.give_back(buffer);
                        } else {
                            stream.filled(&self.meta, index, buffer);
                        }
                    }
                }
            }
        }
        for (_, buffer) in early {
            stream.give_back(buffer);
        }
        Ok(if stale { Reading::Stale } else { Reading::Filled })
    }
}
