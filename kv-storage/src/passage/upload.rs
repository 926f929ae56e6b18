//! Every call of an upload, through the door of its store.

use std::future::Future;
use std::sync::Arc;

use async_trait::async_trait;
use kv_memory::HostBuf;

use super::{Passage, Rule, ranged};
use crate::{ByteRange, Operation, Publication, Result, Upload, WriteSource};

#[derive(Debug)]
pub(super) struct PassingUpload<R> {
    pub(super) passage: Passage<R>,
    pub(super) inner: Box<dyn Upload>,
}

impl<R: Rule> PassingUpload<R> {
    /// Makes a write of `bytes`, with its buffer.
    async fn write_passing<F>(
        &self,
        bytes: u64,
        buffer: HostBuf,
        call: impl FnOnce(HostBuf) -> F + Send,
    ) -> (HostBuf, Result<()>)
    where
        F: Future<Output = (HostBuf, Result<()>)> + Send,
    {
        let pass = match self.passage.enter(Operation::Write, bytes).await {
            Ok(pass) => pass,
            Err(error) => return (buffer, Err(error)),
        };
        let answer = self.passage.in_time(Operation::Write, call(buffer)).await;
        let (buffer, result) = answer.unwrap_or_else(|error| (HostBuf::empty(), Err(error)));
        self.passage.leave(pass, &result, bytes);
        (buffer, result)
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl<R: Rule> Upload for PassingUpload<R> {
    async fn write(&self, offset: u64, part: HostBuf) -> (HostBuf, Result<()>) {
        let bytes = part.len() as u64;
        self.write_passing(bytes, part, |part| self.inner.write(offset, part)).await
    }

    async fn write_from(
        &self,
        ranges: Vec<ByteRange>,
        buffer: HostBuf,
        source: Arc<dyn WriteSource>,
    ) -> (HostBuf, Result<()>) {
        let bytes = ranged(&ranges);
        self.write_passing(bytes, buffer, |buffer| self.inner.write_from(ranges, buffer, source)).await
    }

    async fn commit(self: Box<Self>) -> Result<Publication> {
        let Self { passage, inner } = *self;
        passage.pass(Operation::Commit, 0, inner.commit(), |_| 0).await
    }

    async fn abort(self: Box<Self>) -> Result<()> {
        let Self { passage, inner } = *self;
        passage.pass(Operation::Abort, 0, inner.abort(), |_| 0).await
    }
}
