//! An upload: a span in each member, and the index last.

use std::sync::Arc;

use async_trait::async_trait;
use kv_format::ObjectName;
use kv_memory::HostBuf;

use super::Striped;
use super::index::{End, Index};
use super::pieces::pieces;
use super::together::{Call, together};
use crate::health::random;
use crate::parts::{Coverage, write_in_turns};
use crate::{ByteRange, Error, ErrorKind, Publication, Result, Upload, WriteSource};

#[derive(Debug)]
pub(super) struct StripedUpload {
    store: Striped,
    name: ObjectName,
    index: Index,
    spans: Vec<Box<dyn Upload>>,
    coverage: Coverage,
}

impl Striped {
    pub(super) async fn begin_upload(&self, name: &ObjectName, len: u64) -> Result<Box<dyn Upload>> {
        let index = Index::new(len, self.members.len(), self.home(name), random(&self.environment));
        let calls = (0..index.spans()).map(|span| {
            let (member, name) = (&self.members[index.member(span)], index.name(span));
            let bytes = index.span_len(span) + super::index::END_BYTES as u64;
            Box::pin(async move { member.begin(&name, bytes).await }) as Call<'_, Result<Box<dyn Upload>>>
        });
        // Those that began are dropped, and so aborted, if another did not.
        let spans: Result<Vec<_>> = together(calls.collect()).await.into_iter().collect();
        let coverage = Coverage::new(self.to_string(), name.to_string(), len);
        Ok(Box::new(StripedUpload { store: self.clone(), name: *name, index, spans: spans?, coverage }))
    }

    /// Removes spans that no index names; what cannot be removed a sweep finds.
    pub(super) async fn remove_spans(&self, index: &Index) {
        let calls = (0..index.spans()).map(|span| {
            let (member, name) = (&self.members[index.member(span)], index.name(span));
            Box::pin(async move { drop(member.delete(&name).await) }) as Call<'_, ()>
        });
        together(calls.collect()).await;
    }

    /// Publishes the index, which makes the object visible.
    async fn publish_index(&self, name: &ObjectName, index: &Index) -> Result<Publication> {
        let home = &self.members[self.home(name)];
        let bytes = index.encode();
        let mut buffer = self.scratch(bytes.len())?;
        buffer.copy_from_slice(&bytes);
        let upload = home.begin(name, bytes.len() as u64).await?;
        upload.write(0, buffer).await.1?;
        match upload.commit().await {
            Ok(answer) => Ok(answer),
            // The answer may be lost. Whose index is there now tells, but if none is, ours may still come.
            Err(error) => match self.index(name).await {
                Ok(Some((found, _))) if found == *index => Ok(Publication::Published),
                Ok(Some(_)) => Ok(Publication::AlreadyExists),
                _ => Err(error),
            },
        }
    }
}

impl StripedUpload {
    /// Writes the end of each span and publishes it under its own name, where nobody looks yet.
    async fn publish_spans(&mut self) -> Result<()> {
        let end = End { name: self.name, at: self.store.environment.clock.unix_millis() }.encode();
        let mut calls: Vec<Call<'_, Result<Publication>>> = Vec::new();
        for (span, upload) in std::mem::take(&mut self.spans).into_iter().enumerate() {
            let mut buffer = self.store.scratch(end.len())?;
            buffer.copy_from_slice(&end);
            let len = self.index.span_len(span);
            calls.push(Box::pin(async move {
                upload.write(len, buffer).await.1?;
                upload.commit().await
            }));
        }
        for published in together(calls).await {
            if published? != Publication::Published {
                let message = format!(
                    "a span of {} has a name that is taken: its random name is not random",
                    self.name
                );
                return Err(Error::new(ErrorKind::Backend, &self.store, message));
            }
        }
        Ok(())
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl Upload for StripedUpload {
    async fn write(&self, offset: u64, part: HostBuf) -> (HostBuf, Result<()>) {
        let writing = match self.coverage.writing(offset, part.len()) {
            Ok(writing) => writing,
            Err(error) => return (part, Err(error)),
        };
        let cut = pieces(&self.index, offset, part.len());
        if let [one] = cut[..] {
            let (part, result) = self.spans[one.span].write(one.offset, part).await;
            match result {
                Ok(()) => writing.done(),
                Err(_) => writing.failed(),
            }
            return (part, result);
        }
        let mut calls: Vec<Call<'_, Result<()>>> = Vec::new();
        for piece in cut {
            let mut buffer = match self.store.scratch(piece.len) {
                Ok(buffer) => buffer,
                Err(error) => {
                    writing.failed();
                    return (part, Err(error));
                }
            };
            buffer.copy_from_slice(&part[piece.at..piece.at + piece.len]);
            let upload = &self.spans[piece.span];
            calls.push(Box::pin(async move { upload.write(piece.offset, buffer).await.1 }));
        }
        let result: Result<()> = together(calls).await.into_iter().collect();
        match result {
            Ok(()) => writing.done(),
            Err(_) => writing.failed(),
        }
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

    async fn commit(mut self: Box<Self>) -> Result<Publication> {
        self.coverage.complete()?;
        if let Err(error) = self.publish_spans().await {
            self.store.remove_spans(&self.index).await;
            return Err(error);
        }
        let published = self.store.publish_index(&self.name, &self.index).await;
        // After an error the index may come to be: then its spans have to be there.
        if matches!(published, Ok(Publication::AlreadyExists)) {
            self.store.remove_spans(&self.index).await;
        }
        published
    }

    async fn abort(self: Box<Self>) -> Result<()> {
        let Self { spans, .. } = *self;
        let calls = spans.into_iter().map(|upload| Box::pin(upload.abort()) as Call<'_, Result<()>>);
        together(calls.collect()).await.into_iter().collect()
    }
}
