//! Copies on their way into the tier.

use kv_format::ObjectName;
use kv_memory::HostBuf;

use super::Tiered;
use crate::parts::Coverage;
use crate::{ObjectMeta, Publication, Upload, Version};

/// A copy on its way in; dropped, its room is free again.
pub(super) struct Filling {
    tier: Tiered,
    name: ObjectName,
    coverage: Coverage,
    upload: Option<Box<dyn Upload>>,
}

impl Filling {
    /// Begins a copy, if there is room for it.
    pub(super) async fn begin(tier: &Tiered, name: &ObjectName, len: u64) -> Option<Self> {
        if !tier.make_room(name, len).await {
            return None;
        }
        let coverage = Coverage::new(tier.front.to_string(), name.to_string(), len);
        let mut filling = Self { tier: tier.clone(), name: *name, coverage, upload: None };
        filling.upload = Some(tier.front.begin(name, len).await.ok()?);
        Some(filling)
    }

    /// Copies a part that was read or written; gives the buffer back as it was. A copy that fails gives up.
    pub(super) async fn put(&mut self, offset: u64, part: HostBuf) -> HostBuf {
        let (Some(upload), Ok(writing)) = (&self.upload, self.coverage.writing(offset, part.len())) else {
            return part;
        };
        let (part, result) = upload.write(offset, part).await;
        match result {
            Ok(()) => writing.done(),
            Err(_) => {
                writing.failed();
                self.upload = None;
            }
        }
        part
    }

    /// Whether every byte is there.
    pub(super) fn is_complete(&self) -> bool {
        self.upload.is_some() && self.coverage.complete().is_ok()
    }

    /// Keeps the copy as that of `version`, which the store behind had at a time that was not before `asked`.
    pub(super) async fn keep(mut self, version: Version, asked: std::time::Duration) {
        let Some(upload) = self.upload.take().filter(|_| self.coverage.complete().is_ok()) else { return };
        match upload.commit().await {
            Ok(Publication::Published) => self.tier.contents().came(&self.name, version, asked),
            // Something that is not ours: the front is not used by us alone. It is not believed.
            Ok(Publication::AlreadyExists) => drop(self.tier.front.delete(&self.name).await),
            Err(_) => {}
        }
    }
}

impl Drop for Filling {
    fn drop(&mut self) {
        self.tier.contents().gave_up(&self.name);
    }
}

impl std::fmt::Debug for Filling {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Filling")
            .field("name", &self.name)
            .field("upload", &self.upload)
            .finish_non_exhaustive()
    }
}

impl Tiered {
    /// Copies what one read gave, if it was the whole object.
    pub(super) async fn fill(
        &self,
        meta: &ObjectMeta,
        offsets: &[u64],
        buffers: Vec<HostBuf>,
        asked: std::time::Duration,
    ) -> Vec<HostBuf> {
        let whole: u64 = buffers.iter().map(|buffer| buffer.len() as u64).sum();
        if whole < meta.len || self.contents().has(&meta.name) {
            return buffers;
        }
        let Some(mut filling) = Filling::begin(self, &meta.name, meta.len).await else { return buffers };
        let mut back = Vec::with_capacity(buffers.len());
        for (offset, buffer) in offsets.iter().zip(buffers) {
            back.push(filling.put(*offset, buffer).await);
        }
        if filling.is_complete() {
            filling.keep(meta.version.clone(), asked).await;
        }
        back
    }
}
