//! The upload of a store that tries again. Its commit is made once: the second of two could publish something else.

use std::sync::Arc;

use async_trait::async_trait;
use kv_format::ObjectName;
use kv_memory::HostBuf;

use super::Retrying;
use crate::parts::write_in_turns;
use crate::{ByteRange, ErrorKind, KvStore, Publication, Result, Upload, WriteSource};

#[derive(Debug)]
pub(super) struct RetryingUpload {
    store: Retrying,
    name: ObjectName,
    inner: Box<dyn Upload>,
}

impl RetryingUpload {
    pub(super) fn new(store: Retrying, name: ObjectName, inner: Box<dyn Upload>) -> Self {
        Self { store, name, inner }
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl Upload for RetryingUpload {
    async fn write(&self, offset: u64, mut part: HostBuf) -> (HostBuf, Result<()>) {
        let len = part.len();
        let mut attempts = self.store.attempts();
        loop {
            let (back, result) = self.inner.write(offset, part).await;
            part = back;
            let error = match result {
                Err(error) if part.len() == len => error,
                result => return (part, result),
            };
            if let Err(error) = attempts.again_after(error).await {
                return (part, Err(error));
            }
        }
    }

    async fn write_from(
        &self,
        ranges: Vec<ByteRange>,
        buffer: HostBuf,
        source: Arc<dyn WriteSource>,
    ) -> (HostBuf, Result<()>) {
        if self.store.calls_back_on_own_threads() {
            return self.inner.write_from(ranges, buffer, source).await;
        }
        write_in_turns(self, ranges, buffer, source).await
    }

    async fn commit(self: Box<Self>) -> Result<Publication> {
        let Self { store, name, inner } = *self;
        let error = match inner.commit().await {
            Err(error) if error.kind() == ErrorKind::Unavailable => error,
            answer => return answer,
        };
        // Published or not? An object that is there now may be another writer's, so the caller compares. Nothing there: the upload is
        // gone, or a commit that hangs comes later; the error says as much.
        match store.look_after(&name, &error).await {
            Some(_) => Ok(Publication::AlreadyExists),
            None => Err(error),
        }
    }

    async fn abort(self: Box<Self>) -> Result<()> {
        self.inner.abort().await // made once; what it leaves is not visible, and a sweep removes it
    }
}
