//! Loading one chunk: read, verify everything, and only then write the engine's memory.
//!
//! A chunk that fails leaves the engine's blocks as they were. If the rank's part of a chunk fits the staging pool, it is read once and
//! held until all of it is verified. If not, it is read twice: once to verify all of it, once more, verified again, to deliver it.

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use kv_device::TransferRequest;
use kv_format::{Checksum, Chunk, ErrorKind as FormatKind, ObjectHeader};
use kv_memory::HostBuf;
use kv_storage::{ErrorKind as StorageKind, ObjectMeta, ReadPart, Version};

use super::{ChunkFailure, LoadTask, StopReason};
use crate::existing::quarantine;
use crate::limits::{Limits, Stop};
use crate::parts::{Part, PlannedObject};
use crate::stats::count;
use crate::{Error, Result};

/// What ended a chunk: a reason to stop the prefix here, or an error of the whole load.
enum Failed {
    Reason { reason: StopReason, message: String, object: usize, corrupt: Option<Box<ObjectMeta>> },
    Error(Error),
}

impl From<Stop> for Failed {
    fn from(stop: Stop) -> Self {
        match stop {
            Stop::Deadline => reason(StopReason::Deadline, 0, "the deadline passed".to_owned()),
            Stop::Cancelled => Self::Error(stop.into()),
        }
    }
}

impl From<Error> for Failed {
    fn from(error: Error) -> Self {
        if error.kind() == crate::ErrorKind::Deadline {
            return reason(StopReason::Deadline, 0, error.to_string());
        }
        Self::Error(error)
    }
}

/// What of a chunk was delivered.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Delivered {
    pub(super) sections: u64,
    pub(super) bytes: u64,
}

impl std::ops::Add for Delivered {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self { sections: self.sections + other.sections, bytes: self.bytes + other.bytes }
    }
}

impl LoadTask {
    /// Parts of the staging pool that a chunk takes while it is verified.
    pub(super) fn staging_parts(&self, chunk: &Chunk) -> usize {
        let plan = |&slice| PlannedObject::new(&self.core, &self.registered, chunk, slice, &self.blocks);
        self.registered
            .slices()
            .iter()
            .filter_map(|slice| plan(slice).ok())
            .map(|object| object.parts.len())
            .sum()
    }

    /// Delivers a chunk in its turn, or says why not.
    pub(super) async fn load_chunk(&self, number: usize) -> Result<Result<Delivered, ChunkFailure>> {
        let limits = &self.limits;
        let chunk = &self.chunks[number];
        let plan = |&slice| PlannedObject::new(&self.core, &self.registered, chunk, slice, &self.blocks);
        let objects = self.registered.slices().iter().map(plan).collect::<Result<Vec<_>>>()?;
        let all: usize = objects.iter().map(|object| object.parts.len()).sum();
        let result = if all <= self.core.pool.parts() {
            self.load_at_once(number, &objects, all).await
        } else {
            self.load_in_two_passes(number, &objects).await
        };
        match result {
            Ok(delivered) => Ok(Ok(delivered)),
            Err(Failed::Error(error)) => Err(error.during(format!("loading chunk {}", chunk.index))),
            Err(Failed::Reason { reason, message, object, corrupt }) => {
                if let Some(meta) = corrupt {
                    // Best effort: the load's answer does not depend on it.
                    let _ = quarantine(&self.core, limits, &meta).await;
                }
                let object = objects.get(object).map(|object| object.name);
                Ok(Err(ChunkFailure { chunk_index: chunk.index, object, reason, message }))
            }
        }
    }

    /// Holds the whole chunk in staging.
    async fn load_at_once(
        &self,
        number: usize,
        objects: &[PlannedObject],
        parts: usize,
    ) -> Result<Delivered, Failed> {
        let limits = &self.limits;
        let mut staging = limits.run(self.core.pool.acquire_many(parts)).await?;
        let mut verified = Vec::with_capacity(objects.len());
        for (index, object) in objects.iter().enumerate() {
            let buffers = staging.split_off(staging.len().saturating_sub(object.parts.len()));
            let (meta, buffers) = self.read(limits, index, object, &object.parts, buffers).await?;
            let header =
                verified_header(index, object, &meta, buffers.first().map_or(&[], |buffer| &**buffer))?;
            for (part, buffer) in object.parts.iter().zip(&buffers) {
                self.verify(index, object, part, &header, &meta, buffer)?;
            }
            verified.push(buffers);
        }
        self.turns.wait(limits, number).await?;
        // All at once into the device's queue; every one of them has ended before the chunk has.
        let mut transfers = FuturesUnordered::new();
        for (object, buffers) in objects.iter().zip(verified) {
            for (part, buffer) in object.parts.iter().zip(buffers) {
                transfers.push(self.deliver(object, part, buffer));
            }
        }
        let mut result = Ok(Delivered::default());
        while let Some(delivered) = transfers.next().await {
            result = result.and_then(|sum: Delivered| delivered.map(|one| sum + one));
        }
        result
    }

    /// Verifies the whole chunk through one staging part, then reads it again to deliver it.
    async fn load_in_two_passes(
        &self,
        number: usize,
        objects: &[PlannedObject],
    ) -> Result<Delivered, Failed> {
        let limits = &self.limits;
        let mut versions = Vec::with_capacity(objects.len());
        for (index, object) in objects.iter().enumerate() {
            let mut version = None;
            self.stream(limits, index, object, &mut version, None).await?;
            versions.push(version);
        }
        self.turns.wait(limits, number).await?;
        let mut delivered = Delivered::default();
        for (index, (object, version)) in objects.iter().zip(&mut versions).enumerate() {
            self.stream(limits, index, object, version, Some(&mut delivered)).await?;
        }
        Ok(delivered)
    }

    /// Reads an object part by part and verifies each, provided that all are parts of the `version` that was seen first; delivers
    /// them if there is a `deliver`.
    async fn stream(
        &self,
        limits: &Limits,
        index: usize,
        object: &PlannedObject,
        version: &mut Option<Version>,
        mut deliver: Option<&mut Delivered>,
    ) -> Result<(), Failed> {
        let mut header: Option<ObjectHeader> = None;
        for part in &object.parts {
            let staging = limits.run(self.core.pool.acquire_many(1)).await?;
            let (meta, buffers) =
                self.read(limits, index, object, std::slice::from_ref(part), staging).await?;
            if *version.get_or_insert_with(|| meta.version.clone()) != meta.version {
                let message = format!("{} was replaced while it was read", object.name);
                return Err(reason(StopReason::Unavailable, index, message));
            }
            let Some(buffer) = buffers.into_iter().next() else { continue };
            let header = match &mut header {
                Some(header) => header,
                none => none.insert(verified_header(index, object, &meta, &buffer)?),
            };
            self.verify(index, object, part, header, &meta, &buffer)?;
            if let Some(delivered) = &mut deliver {
                **delivered = **delivered + self.deliver(object, part, buffer).await?;
            }
        }
        Ok(())
    }

    /// Reads parts of an object.
    async fn read(
        &self,
        limits: &Limits,
        index: usize,
        object: &PlannedObject,
        parts: &[Part],
        buffers: Vec<HostBuf>,
    ) -> Result<(ObjectMeta, Vec<HostBuf>), Failed> {
        let mut reads = Vec::with_capacity(parts.len());
        for (part, mut buffer) in parts.iter().zip(buffers) {
            buffer.set_len(part.len).map_err(Error::from)?;
            reads.push(ReadPart { offset: part.offset, buffer });
        }
        let outcome = limits.run(self.core.store.read(&object.name, reads)).await?;
        let failed = |kind, message| Err(reason(kind, index, message));
        match outcome.result {
            Ok(Some(meta)) if same_lengths(parts, &outcome.buffers) => Ok((meta, outcome.buffers)),
            Ok(Some(_)) => {
                let message = format!(
                    "{} gave back other buffers than it got: run its conformance suite",
                    self.core.store
                );
                failed(StopReason::Unavailable, message)
            }
            Ok(None) => failed(StopReason::NotFound, format!("{} is not stored", object.name)),
            Err(error) if error.kind() == StorageKind::OutOfRange => {
                drop(outcome.buffers);
                let meta = limits.run(self.core.store.head(&object.name)).await?.ok().flatten();
                let len = object.layout.object_len;
                let short = meta.filter(|meta| meta.len < len);
                Err(corrupt(
                    index,
                    format!("{} is truncated: expected {len} bytes ({error})", object.name),
                    short,
                ))
            }
            Err(error) if error.kind() == StorageKind::PermissionDenied => {
                failed(StopReason::Denied, error.to_string())
            }
            Err(error) => failed(StopReason::Unavailable, error.to_string()),
        }
    }

    /// Verifies the sections of a part.
    fn verify(
        &self,
        index: usize,
        object: &PlannedObject,
        part: &Part,
        header: &ObjectHeader,
        meta: &ObjectMeta,
        buffer: &HostBuf,
    ) -> Result<(), Failed> {
        for section in part.sections.clone() {
            let computed = Checksum::of(&buffer[object.range_in(part, section)]);
            let stored = header.checksums.get(section).copied();
            if Some(computed) != stored {
                let (layer, kind) =
                    (object.layout.sections[section].layer, object.layout.sections[section].kind);
                let message = format!(
                    "{}: {kind:?} of layer {layer}: checksum {computed:016x}, the header says {:016x}",
                    object.name,
                    stored.unwrap_or_default()
                );
                return Err(corrupt(index, message, Some(meta.clone())));
            }
        }
        Ok(())
    }

    /// Copies verified sections into the engine's memory.
    async fn deliver(
        &self,
        object: &PlannedObject,
        part: &Part,
        staging: HostBuf,
    ) -> Result<Delivered, Failed> {
        if part.sections.is_empty() {
            return Ok(Delivered::default());
        }
        let limits = &self.limits;
        let transfer = object.transfer(&self.registered, part)?;
        let (after, fence_timeout) = (self.after.clone(), limits.remaining());
        let request = TransferRequest { transfer, staging, after, fence_timeout };
        let (_, result) = limits.device(self.registered.memory().scatter(request)).await?;
        result.map_err(Error::from)?;
        let bytes = part.sections.clone().map(|section| object.layout.sections[section].len).sum::<u64>();
        let sections = part.sections.len() as u64;
        count(&self.core.counters.sections_verified, sections);
        count(&self.core.counters.bytes_loaded, bytes);
        Ok(Delivered { sections, bytes })
    }
}

/// Decodes the header and checks that it is the wanted object's.
fn verified_header(
    index: usize,
    object: &PlannedObject,
    meta: &ObjectMeta,
    first: &[u8],
) -> Result<ObjectHeader, Failed> {
    let decoded = ObjectHeader::decode(first.get(..object.header_len()).unwrap_or_default(), meta.len)
        .and_then(|header| header.expect(&object.identity, &object.layout).map(|()| header));
    decoded.map_err(|error| {
        let message = format!("{}: {error}", object.name);
        match error.kind() {
            FormatKind::Incompatible => reason(StopReason::Incompatible, index, message),
            _ => corrupt(index, message, Some(meta.clone())),
        }
    })
}

/// Whether a store gave back the buffers that it got.
fn same_lengths(parts: &[Part], buffers: &[HostBuf]) -> bool {
    parts.iter().map(|part| part.len).eq(buffers.iter().map(|buffer| buffer.len()))
}

fn reason(reason: StopReason, object: usize, message: String) -> Failed {
    Failed::Reason { reason, message, object, corrupt: None }
}

fn corrupt(object: usize, message: String, meta: Option<ObjectMeta>) -> Failed {
    Failed::Reason { reason: StopReason::Corrupt, message, object, corrupt: meta.map(Box::new) }
}
