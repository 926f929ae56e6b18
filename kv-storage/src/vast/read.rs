//! Reading: by one path, and where it fails, the rest by another.

use std::sync::Arc;

use kv_format::ObjectName;
use kv_memory::HostBuf;

use super::identity::Identity;
use super::path::{Path, key_of};
use super::setbacks::PathSet;
use super::sink::Handing;
use super::{Vast, may_differ};
use crate::{
    ByteRange, Error, ErrorKind, KvStore, ObjectMeta, Operation, ReadOutcome, ReadPart, ReadSink, Result,
    Version,
};

/// What is known of the object that one read is about, and which paths have failed it.
struct Attempts<'a> {
    vast: &'a Vast,
    name: &'a ObjectName,
    bytes: u64,
    tried: PathSet,
    /// Where paths differ in their marks; else the first answer decides.
    identity: Option<Identity>,
    last: Option<Error>,
}

impl<'a> Attempts<'a> {
    /// `Ok(None)`: no such object.
    async fn begin(vast: &'a Vast, name: &'a ObjectName, bytes: u64) -> Result<Option<Self>> {
        let tried = vast.shared.setbacks.avoided(name, vast.now());
        let identity = match vast.has_kinds() {
            false => None,
            true => match vast.identify(name).await? {
                None => return Ok(None),
                identity => identity,
            },
        };
        Ok(Some(Self { vast, name, bytes, tried, identity, last: None }))
    }

    /// The next path that shows this very object.
    fn next(&mut self) -> Option<&'a Path> {
        loop {
            let path = self.vast.choose_to_read(key_of(self.name), self.bytes, self.tried)?;
            let shows = self.identity.as_ref().is_none_or(|identity| identity.known_to(path.kind).is_some());
            self.tried.add(path.number);
            if shows {
                return Some(path);
            }
        }
    }

    /// What the path has to answer, if that is known.
    fn expected(&self, path: &Path) -> Option<&Version> {
        self.identity.as_ref().and_then(|identity| identity.known_to(path.kind))
    }

    /// How this store shows what the path shows.
    fn showing(&self, path: &Path) -> impl Fn(&ObjectMeta) -> ObjectMeta + Send + Sync + 'static {
        let (vast, kind) = (self.vast.clone(), path.kind);
        let identified = self.identity.as_ref().map(|identity| identity.meta.clone());
        move |meta| identified.clone().unwrap_or_else(|| vast.shown(kind, meta.clone()))
    }

    fn failed(&mut self, path: &Path, error: Error) {
        path.fails_over();
        self.last = Some(error);
    }

    fn exhausted(self) -> Error {
        self.vast.exhausted(Operation::Read, self.last)
    }
}

impl Vast {
    pub(super) async fn read_parts(&self, name: &ObjectName, parts: Vec<ReadPart>) -> ReadOutcome {
        let of_part = |part: &ReadPart| (part.offset, part.buffer.len(), part.buffer.capacity());
        let asked: Vec<(u64, usize, usize)> = parts.iter().map(of_part).collect();
        let bytes = asked.iter().map(|(_, len, _)| *len as u64).sum();
        let mut buffers: Vec<HostBuf> = parts.into_iter().map(|part| part.buffer).collect();
        // Twice: an object that was replaced before anything was read of it is read as what it is now.
        for look in 0..2 {
            let mut attempts = match Attempts::begin(self, name, bytes).await {
                Ok(Some(attempts)) => attempts,
                Ok(None) => return ReadOutcome { buffers, result: Ok(None) },
                Err(error) => return ReadOutcome { buffers, result: Err(error) },
            };
            let mut replaced = false;
            while let Some(path) = attempts.next() {
                while buffers.len() < asked.len() {
                    let (_, len, capacity) = asked[buffers.len()];
                    match self.spare(len, capacity) {
                        Ok(buffer) => buffers.push(buffer),
                        Err(error) => return ReadOutcome { buffers: Vec::new(), result: Err(error) },
                    }
                }
                let whole = asked.iter().zip(std::mem::take(&mut buffers));
                let parts = whole.map(|(&(offset, ..), buffer)| ReadPart { offset, buffer }).collect();
                let running = self.begin_transfer(path, bytes);
                self.shared.setbacks.goes_by(name, path.number, self.now());
                let outcome = path.gate.read(name, parts).await;
                buffers = outcome.buffers;
                match outcome.result {
                    Ok(Some(meta)) => {
                        running.end(bytes);
                        if attempts.expected(path).is_none_or(|expected| *expected == meta.version) {
                            return ReadOutcome { buffers, result: Ok(Some(attempts.showing(path)(&meta))) };
                        }
                        replaced = true;
                        break;
                    }
                    Ok(None) => {
                        running.end(0);
                        return ReadOutcome { buffers, result: Ok(None) };
                    }
                    Err(error) if may_differ(&error) => {
                        running.end(0);
                        attempts.failed(path, error);
                    }
                    Err(error) => return ReadOutcome { buffers, result: Err(error) },
                }
            }
            if !replaced {
                return ReadOutcome { buffers, result: Err(attempts.exhausted()) };
            }
            if look > 0 {
                break;
            }
        }
        ReadOutcome { buffers, result: Err(self.replaced(name)) }
    }

    pub(super) async fn stream_parts(
        &self,
        name: &ObjectName,
        ranges: Vec<ByteRange>,
        buffers: Vec<HostBuf>,
        sink: Arc<dyn ReadSink>,
    ) -> Result<Option<ObjectMeta>> {
        let bytes = ranges.iter().map(|range| range.len as u64).sum();
        let Some(mut attempts) = Attempts::begin(self, name, bytes).await? else { return Ok(None) };
        let capacities = buffers.iter().map(HostBuf::capacity).collect();
        let handing = Handing::new(ranges, capacities, sink);
        let mut buffers = Some(buffers);
        while let Some(path) = attempts.next() {
            let rest = handing.rest();
            let buffers = buffers.take().map_or_else(|| self.spares(&handing, &rest), Ok)?;
            let ranges = rest.iter().map(|index| handing.range(*index)).collect();
            let attempt = handing.attempt(rest, attempts.expected(path).cloned(), attempts.showing(path));
            let running = self.begin_transfer(path, bytes);
            self.shared.setbacks.goes_by(name, path.number, self.now());
            let read = path.gate.read_into(name, ranges, buffers, attempt.sink()).await;
            running.end(attempt.close().await);
            if attempt.replaced() {
                return Err(self.replaced(name));
            }
            let complete = handing.stopped() || handing.rest().is_empty();
            match (read, handing.meta()) {
                // Also if the path failed behind the last range.
                (_, Some(meta)) if complete => return Ok(Some(meta)),
                // Nothing was asked for.
                (Ok(Some(meta)), None) if complete => return Ok(Some(attempts.showing(path)(&meta))),
                (Ok(Some(_)), _) => {
                    let message =
                        format!("{} has not handed every range over: run its conformance suite", path.gate);
                    return Err(Error::new(ErrorKind::Backend, self, message));
                }
                (Ok(None), None) => return Ok(None),
                (Ok(None), Some(_)) => return Err(self.replaced(name)),
                (Err(error), _) if may_differ(&error) => attempts.failed(path, error),
                (Err(error), _) => return Err(error),
            }
        }
        Err(attempts.exhausted())
    }

    /// Buffers like those that the reader gave, which are the failed path's now; no more than there are ranges left.
    fn spares(&self, handing: &Handing, rest: &[usize]) -> Result<Vec<HostBuf>> {
        let longest = rest.iter().map(|index| handing.range(*index).len).max().unwrap_or_default();
        let like = handing.capacities().iter().take(rest.len());
        like.map(|capacity| self.spare(longest.min(*capacity), *capacity)).collect()
    }
}
