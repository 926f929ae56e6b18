//! Saving one object: gather, checksum while the bytes are hot, write, and publish with the header last.

use std::ops::Range;

use kv_device::TransferRequest;
use kv_format::{Checksum, Chunk, ObjectHeader};
use kv_memory::HostBuf;
use kv_storage::{Publication, Upload};

use super::SaveTask;
use crate::crash::{self, reach};
use crate::existing::{Existing, read_existing};
use crate::limits::Limits;
use crate::parts::{Part, PlannedObject};
use crate::stats::count;
use crate::{Error, ErrorKind, Result};

/// How an object came to be in the store.
pub(super) enum Stored {
    /// This save wrote it.
    Published {
        /// Bytes of its sections.
        bytes: u64,
    },
    /// It was there already, or somebody published the same payload meanwhile.
    Deduplicated,
    /// Somebody published another payload of the same identity meanwhile.
    FirstWins,
}

impl SaveTask {
    /// Makes sure that an object is in the store.
    pub(super) async fn save_object(&self, number: usize, chunk: &Chunk, slice: u32) -> Result<Stored> {
        let (limits, turns) = (&self.limits, &self.turns);
        let object = &PlannedObject::new(&self.core, &self.registered, chunk, slice, &self.blocks)?;
        // The first part is written last, since it holds the header; one more is enough to stream the others through.
        let mut staging = limits.run(self.core.pool.acquire_many(object.parts.len().min(2))).await?;
        let first = staging.pop().ok_or_else(|| Error::invalid("the staging pool has no parts"))?;
        let (first, existing) = read_existing(&self.core, limits, object, first).await?;
        if let Existing::Same(_) = existing {
            drop((first, staging));
            turns.wait(limits, number).await?;
            count(&self.core.counters.objects_deduplicated, 1);
            return Ok(Stored::Deduplicated);
        }
        let upload = limits.run(self.core.store.begin(&object.name, object.layout.object_len)).await??;
        reach(&self.core, crash::OBJECT_BEGUN);
        let filled = match self.fill(limits, object, &*upload, first, staging.pop()).await {
            // No staging is held while others take their turn.
            Ok(header) => turns.wait(limits, number).await.map(|()| header).map_err(Error::from),
            Err(error) => Err(error),
        };
        match filled {
            Ok(header) => self.publish(limits, object, upload, &header).await,
            Err(error) => {
                limits.clean_up(upload.abort()).await;
                Err(error)
            }
        }
    }

    /// Gathers and writes every part, the one with the header last.
    async fn fill(
        &self,
        limits: &Limits,
        object: &PlannedObject,
        upload: &dyn Upload,
        mut first: HostBuf,
        mut second: Option<HostBuf>,
    ) -> Result<ObjectHeader> {
        let mut checksums = vec![0; object.layout.sections.len()];
        let Some((head, others)) = object.parts.split_first() else {
            return Err(Error::invalid(format!("{} has no parts", object.name)));
        };
        for part in others {
            let buffer = second.take().ok_or_else(|| Error::invalid("a staging part is missing"))?;
            let buffer = self.gather(limits, object, part, buffer, &mut checksums).await?;
            second = Some(write(limits, upload, part, buffer).await?);
            reach(&self.core, crash::OBJECT_PART_WRITTEN);
        }
        first = self.gather(limits, object, head, first, &mut checksums).await?;
        let header = ObjectHeader {
            identity: object.identity.clone(),
            layout: object.layout.clone(),
            checksums,
            producer: self.core.producer_name.clone(),
        };
        header.encode(&mut first[..object.header_len()])?;
        write(limits, upload, head, first).await?;
        reach(&self.core, crash::OBJECT_HEADER_WRITTEN);
        Ok(header)
    }

    /// Copies a part's sections out of the engine's memory and computes their checksums.
    async fn gather(
        &self,
        limits: &Limits,
        object: &PlannedObject,
        part: &Part,
        mut buffer: HostBuf,
        checksums: &mut [u64],
    ) -> Result<HostBuf> {
        buffer.set_len(part.len)?;
        if part.sections.is_empty() {
            return Ok(buffer);
        }
        let transfer = object.transfer(&self.registered, part)?;
        let (after, fence_timeout) = (self.after.clone(), limits.remaining());
        let request = TransferRequest { transfer, staging: buffer, after, fence_timeout };
        let (mut buffer, result) = limits.device(self.registered.memory().gather(request)).await?;
        result?;
        if buffer.len() != part.len {
            let message = format!(
                "{} gave back another buffer than it got: run its conformance suite",
                self.core.device
            );
            return Err(Error::new(ErrorKind::Device, message));
        }
        let mut padding = if part.offset == 0 { object.header_len() } else { 0 };
        for section in part.sections.clone() {
            let range = object.range_in(part, section);
            clear(&mut buffer, padding..range.start);
            padding = range.end;
            checksums[section] = Checksum::of(&buffer[range]);
        }
        clear(&mut buffer, padding..part.len);
        Ok(buffer)
    }

    /// Makes the object visible, or learns who was first.
    async fn publish(
        &self,
        limits: &Limits,
        object: &PlannedObject,
        upload: Box<dyn Upload>,
        header: &ObjectHeader,
    ) -> Result<Stored> {
        let counters = &self.core.counters;
        let publication = limits.run(upload.commit()).await??;
        reach(&self.core, crash::OBJECT_COMMITTED);
        if publication == Publication::Published {
            let bytes = object.layout.sections.iter().map(|section| section.len).sum();
            count(&counters.objects_published, 1);
            count(&counters.bytes_saved, bytes);
            return Ok(Stored::Published { bytes });
        }
        let buffer = limits.run(self.core.pool.acquire()).await?;
        match read_existing(&self.core, limits, object, buffer).await?.1 {
            Existing::Same(other) if other.content_digest() == header.content_digest() => {
                count(&counters.objects_deduplicated, 1);
                Ok(Stored::Deduplicated)
            }
            Existing::Same(_) => {
                count(&counters.objects_first_wins, 1);
                Ok(Stored::FirstWins)
            }
            Existing::Nothing => Err(Error::new(
                ErrorKind::Storage,
                format!("{} was taken when it was to be published, and is gone now: save again", object.name),
            )),
        }
    }
}

/// Writes a part at its place.
async fn write(limits: &Limits, upload: &dyn Upload, part: &Part, buffer: HostBuf) -> Result<HostBuf> {
    let (buffer, result) = limits.run(upload.write(part.offset, buffer)).await?;
    result?;
    Ok(buffer)
}

/// Zeroes padding: a staging buffer holds what another object left in it.
fn clear(buffer: &mut HostBuf, range: Range<usize>) {
    if let Some(padding) = buffer.get_mut(range) {
        padding.fill(0);
    }
}
