//! Uploads: each goes by one path, from its begin to its commit.
//!
//! What was written by a path that fails is with that path, and its buffers went back to whoever owns them, so there is nothing to write
//! again from. Keeping a copy of every object until its commit would cost each save a pass over its bytes for a fault that is rare. So a
//! begin goes on by another path, and a write that fails ends the upload: the caller, who has the bytes, asks
//! [`another_way`](crate::KvStore::another_way) and begins again, on another path.

use std::sync::Arc;

use async_trait::async_trait;
use kv_format::ObjectName;
use kv_memory::HostBuf;

use super::path::{Running, key_of};
use super::{Vast, may_differ};
use crate::{ByteRange, ErrorKind, KvStore, Operation, Publication, Result, Upload, WriteSource};

pub(super) struct VastUpload {
    vast: Vast,
    name: ObjectName,
    len: u64,
    path: usize,
    inner: Box<dyn Upload>,
    running: Running,
}

impl std::fmt::Debug for VastUpload {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("VastUpload")
            .field("name", &self.name)
            .field("path", &self.path)
            .field("inner", &self.inner)
            .finish_non_exhaustive()
    }
}

impl Vast {
    pub(super) async fn begin_upload(&self, name: &ObjectName, len: u64) -> Result<Box<dyn Upload>> {
        let mut tried = self.shared.setbacks.avoided(name, self.now());
        let mut last = None;
        while let Some(path) = self.choose_to_write(key_of(name), len, tried) {
            tried.add(path.number);
            let running = self.begin_transfer(path, len);
            self.shared.setbacks.goes_by(name, path.number, self.now());
            match path.gate.begin(name, len).await {
                Ok(inner) => {
                    let (vast, name, path) = (self.clone(), *name, path.number);
                    return Ok(Box::new(VastUpload { vast, name, len, path, inner, running }));
                }
                Err(error) if may_differ(&error) => last = Some(error),
                Err(error) => return Err(error),
            }
            path.fails_over();
        }
        Err(self.exhausted(Operation::Begin, last))
    }

    /// Whether the object is there, by any path but one.
    async fn is_there(&self, name: &ObjectName, without: usize) -> bool {
        let mut tried = super::setbacks::PathSet::default();
        tried.add(without);
        for path in self.order(key_of(name), tried) {
            if let Ok(meta) = path.gate.head(name).await {
                return meta.is_some();
            }
        }
        false
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl Upload for VastUpload {
    async fn write(&self, offset: u64, part: HostBuf) -> (HostBuf, Result<()>) {
        self.inner.write(offset, part).await
    }

    async fn write_from(
        &self,
        ranges: Vec<ByteRange>,
        buffer: HostBuf,
        source: Arc<dyn WriteSource>,
    ) -> (HostBuf, Result<()>) {
        self.inner.write_from(ranges, buffer, source).await
    }

    async fn commit(self: Box<Self>) -> Result<Publication> {
        let Self { vast, name, len, path, inner, running } = *self;
        match inner.commit().await {
            Ok(answer) => {
                running.end(len);
                Ok(answer)
            }
            // The answer is lost, and with one namespace any path can say whether the object is there; it may be another writer's.
            Err(error) if error.kind() == ErrorKind::Unavailable => {
                drop(running);
                vast.shared.paths[path].fails_over();
                if vast.is_there(&name, path).await { Ok(Publication::AlreadyExists) } else { Err(error) }
            }
            Err(error) => Err(error),
        }
    }

    async fn abort(self: Box<Self>) -> Result<()> {
        self.inner.abort().await
    }
}
