//! Saving one object: gather, checksum while the bytes are hot, write, and publish with the header last.

use std::sync::Arc;

use kv_device::TransferRequest;
use kv_format::{Chunk, ObjectHeader, Transfer};
use kv_memory::HostBuf;
use kv_storage::{Publication, Setback, Upload};

use super::SaveTask;
use super::filling::Filling;
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
        let object = PlannedObject::new(&self.core, &self.registered, chunk, slice, &self.blocks)?;
        let object = Arc::new(if object.moves_on_store_threads(&self.core, &self.registered) {
            object.in_parts_of_store(&self.core)?
        } else {
            object
        });
        loop {
            let error = match self.save_planned(number, &object).await {
                Err(error) if error.kind() == ErrorKind::Storage => error,
                result => return result,
            };
            // The engine still has the bytes, so that what one way to the store lost goes by another.
            if !self.core.store.another_way(&object.name, Setback::Upload) {
                return Err(error);
            }
            count(&self.core.counters.objects_saved_again, 1);
        }
    }

    async fn save_planned(&self, number: usize, object: &Arc<PlannedObject>) -> Result<Stored> {
        let (limits, turns) = (&self.limits, &self.turns);
        // With the buffer for rows in one step: two objects that each waited for their second would wait for each other.
        let buffers = 1 + usize::from(object.rows.is_some());
        let mut staging = limits.run(self.core.pool.acquire_many(buffers)).await?;
        let rows = staging.split_off(1).pop();
        let Some(staging) = staging.pop() else { return Err(Error::invalid("the pool lent nothing")) };
        let (staging, existing) = read_existing(&self.core, limits, object, staging).await?;
        if let Existing::Same(_) = existing {
            drop((staging, rows));
            self.make_no_upload(number).await?;
            count(&self.core.counters.objects_deduplicated, 1);
            return Ok(Stored::Deduplicated);
        }
        let upload = self.begin(number, object).await?;
        reach(&self.core, crash::OBJECT_BEGUN);
        let filled = match self.fill(object, &*upload, staging, rows).await {
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

    /// Gathers and writes every part through one staging buffer, the header last: on the store's threads where it has
    /// some and the device copies on any, so that a part stays in one core's cache; else one step after the other.
    async fn fill(
        &self,
        object: &Arc<PlannedObject>,
        upload: &dyn Upload,
        mut buffer: HostBuf,
        mut rows: Option<HostBuf>,
    ) -> Result<ObjectHeader> {
        let filling = Filling::new(&self.core, object, &self.registered, &self.gate);
        if object.moves_on_store_threads(&self.core, &self.registered) {
            buffer = self.reach_fence(object, buffer).await?;
            let source = Arc::<Filling>::clone(&filling);
            let written = self.limits.run(upload.write_from(filling.ranges(), buffer, source)).await?;
            if let Some(error) = filling.failed() {
                return Err(error);
            }
            written.1?;
        } else {
            for (number, part) in filling.parts().iter().enumerate() {
                buffer.set_len(part.len)?;
                buffer = self.gather(object, part, buffer).await?;
                if let Some(row_buffer) = rows.take() {
                    rows = Some(self.gather_rows(object, part, row_buffer, &mut buffer).await?);
                }
                filling.complete(number, &mut buffer)?;
                let written = self.limits.run(upload.write(part.offset, buffer)).await?;
                written.1?;
                buffer = written.0;
                if part.offset > 0 {
                    reach(&self.core, crash::OBJECT_PART_WRITTEN);
                }
            }
        }
        reach(&self.core, crash::OBJECT_HEADER_WRITTEN);
        filling.header().ok_or_else(|| Error::invalid(format!("{} has no parts", object.name)))
    }

    /// Copies a part's sections out of the engine's memory, but for those that move in rows.
    async fn gather(&self, object: &PlannedObject, part: &Part, staging: HostBuf) -> Result<HostBuf> {
        let transfer = object.transfer(&self.registered, part)?;
        if transfer.sections.is_empty() {
            return Ok(staging);
        }
        self.transfer(transfer, staging).await
    }

    /// Copies the rows of a part's sections, with all heads of the rank, and picks the object's out of them.
    async fn gather_rows(
        &self,
        object: &PlannedObject,
        part: &Part,
        mut rows: HostBuf,
        buffer: &mut HostBuf,
    ) -> Result<HostBuf> {
        let sections = part.sections.clone().filter(|section| object.in_rows(*section));
        for batch in object.row_batches(sections, rows.capacity()) {
            rows = self.transfer(object.row_transfer(&self.registered, &batch)?, rows).await?;
            object.pick(part, &batch, &rows, buffer);
        }
        Ok(rows)
    }

    /// Waits until the engine lets its blocks be read.
    async fn reach_fence(&self, object: &PlannedObject, staging: HostBuf) -> Result<HostBuf> {
        match self.after {
            Some(_) => self.transfer(object.nothing(), staging).await,
            None => Ok(staging),
        }
    }

    async fn transfer(&self, transfer: Transfer, staging: HostBuf) -> Result<HostBuf> {
        let (after, fence_timeout, len) = (self.after.clone(), self.limits.remaining(), staging.len());
        let request = TransferRequest { transfer, staging, after, fence_timeout };
        let (buffer, result) = self.limits.device(self.registered.memory().gather(request)).await?;
        result?;
        if buffer.len() != len {
            let message = format!(
                "{} gave back another buffer than it got: run its conformance suite",
                self.core.device
            );
            return Err(Error::new(ErrorKind::Device, message));
        }
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
