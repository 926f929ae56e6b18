//! Uploads: to the store behind, with a copy on the way.

use std::sync::Arc;

use async_trait::async_trait;
use kv_format::ObjectName;
use kv_memory::HostBuf;
use tokio::sync::Mutex;

use super::Tiered;
use super::filling::Filling;
use crate::parts::{Coverage, write_in_turns};
use crate::{ByteRange, Publication, Result, Upload, WriteSource};

#[derive(Debug)]
pub(super) struct TieredUpload {
    tier: Tiered,
    name: ObjectName,
    back: Box<dyn Upload>,
    coverage: Coverage,
    filling: Mutex<Option<Filling>>,
}

impl Tiered {
    pub(super) async fn begin_upload(&self, name: &ObjectName, len: u64) -> Result<Box<dyn Upload>> {
        let back = self.back.begin(name, len).await?;
        let filling = Mutex::new(Filling::begin(self, name, len).await);
        let coverage = Coverage::new(self.to_string(), name.to_string(), len);
        Ok(Box::new(TieredUpload { tier: self.clone(), name: *name, back, coverage, filling }))
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl Upload for TieredUpload {
    async fn write(&self, offset: u64, part: HostBuf) -> (HostBuf, Result<()>) {
        let writing = match self.coverage.writing(offset, part.len()) {
            Ok(writing) => writing,
            Err(error) => return (part, Err(error)),
        };
        let (mut part, result) = self.back.write(offset, part).await;
        if result.is_err() {
            writing.failed();
            return (part, result);
        }
        if let Some(filling) = self.filling.lock().await.as_mut() {
            part = filling.put(offset, part).await;
        }
        writing.done();
        (part, result)
    }

    async fn write_from(
        &self,
        ranges: Vec<ByteRange>,
        buffer: HostBuf,
        source: Arc<dyn WriteSource>,
    ) -> (HostBuf, Result<()>) {
        write_in_turns(self, ranges, buffer, source).await
    }

    async fn commit(self: Box<Self>) -> Result<Publication> {
        self.coverage.complete()?;
        let Self { tier, name, back, filling, .. } = *self;
        let published = back.commit().await?;
        let filling = filling.into_inner().filter(Filling::is_complete);
        if let (Publication::Published, Some(filling)) = (published, filling) {
            let asked = tier.options.environment.clock.now();
            // Without its version the copy could not be told from another's object: then there is none.
            if let Ok(Some(meta)) = tier.back.head(&name).await {
                filling.keep(meta.version, asked).await;
            }
        }
        Ok(published)
    }

    async fn abort(self: Box<Self>) -> Result<()> {
        let Self { back, filling, .. } = *self;
        drop(filling);
        back.abort().await
    }
}
