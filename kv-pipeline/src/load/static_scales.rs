//! Scales that are fixed for every token: an engine applies one value to all that its cache holds, so a load may not change it. What
//! the engine has is read once per load, and an object whose scales differ is not the engine's to use.

use std::collections::BTreeMap;
use std::sync::Arc;

use kv_device::TransferRequest;
use kv_format::{Checksum, ObjectHeader, TensorKind};

use super::LoadTask;
use super::failed::Failed;
use crate::parts::PlannedObject;
use crate::{Error, Result};

/// Checksums of the engine's fixed scales, by slice, layer and kind. Empty for an engine that has none.
#[derive(Debug, Default)]
pub(crate) struct StaticScales(BTreeMap<(u32, u32, TensorKind), u64>);

impl StaticScales {
    /// Whether an object was stored with the scales that the engine has.
    ///
    /// # Errors
    /// `Incompatible` naming the first layer in which they differ.
    pub(crate) fn check(&self, object: &PlannedObject, header: &ObjectHeader) -> kv_format::Result<()> {
        for (section, stored) in object.layout.sections.iter().zip(&header.checksums) {
            let key = (object.name.slice, section.layer, section.kind);
            if let Some(own) = self.0.get(&key).filter(|own| *own != stored) {
                return Err(kv_format::Error::new(
                    kv_format::ErrorKind::Incompatible,
                    format!(
                        "{:?} of layer {}: stored with scales of checksum {stored:016x}, the engine's have {own:016x}: give both engines the same calibration",
                        section.kind, section.layer
                    ),
                ));
            }
        }
        Ok(())
    }
}

impl LoadTask {
    /// The engine's fixed scales.
    pub(super) async fn static_scales(&self) -> Result<Arc<StaticScales>, Failed> {
        self.static_scales.get_or_try_init(|| self.read_static_scales()).await.map(Arc::clone)
    }

    async fn read_static_scales(&self) -> Result<Arc<StaticScales>, Failed> {
        let mut scales = StaticScales::default();
        if let Some(chunk) = self.chunks.first().filter(|_| self.registered.has_static_scales()) {
            for object in self.objects(chunk, &Arc::default())? {
                for batch in object.static_batches(self.core.pool.part_bytes()) {
                    self.read_batch(&object, &batch, &mut scales).await?;
                }
            }
        }
        Ok(Arc::new(scales))
    }

    /// Reads some sections, one behind the other in one staging part.
    async fn read_batch(
        &self,
        object: &PlannedObject,
        batch: &[usize],
        scales: &mut StaticScales,
    ) -> Result<(), Failed> {
        let limits = &self.limits;
        let staging = limits.run(self.core.pool.acquire()).await?;
        let (transfer, ranges) = object.transfer_of(&self.registered, batch)?;
        let mut staging = staging;
        staging.set_len(ranges.last().map_or(0, |range| range.end)).map_err(Error::from)?;
        let (after, fence_timeout) = (self.after.clone(), limits.remaining());
        let request = TransferRequest { transfer, staging, after, fence_timeout };
        let (staging, result) = limits.device(self.registered.memory().gather(request)).await?;
        result.map_err(Error::from)?;
        for (&section, range) in batch.iter().zip(ranges) {
            let bytes =
                staging.get(range).ok_or_else(|| Error::invalid("the device gave back a shorter buffer"))?;
            let section = &object.layout.sections[section];
            let key = (object.name.slice, section.layer, section.kind);
            scales.0.insert(key, Checksum::of(bytes));
        }
        Ok(())
    }
}
