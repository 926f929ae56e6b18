//! The upload of a faulty store.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use kv_format::ObjectName;
use kv_memory::HostBuf;

use super::Fault;
use crate::parts::write_in_turns;
use crate::{ByteRange, Error, ErrorKind, Operation, Publication, Result, Upload, WriteSource};

#[derive(Debug)]
pub(super) struct FaultUpload {
    fault: Fault,
    name: ObjectName,
    /// Shared with writes that hang.
    inner: Arc<Box<dyn Upload>>,
    abandoned: AtomicBool,
}

/// Notices a write whose future is dropped.
struct Writing<'a> {
    abandoned: Option<&'a AtomicBool>,
}

impl Drop for Writing<'_> {
    fn drop(&mut self) {
        if let Some(abandoned) = self.abandoned {
            abandoned.store(true, Ordering::SeqCst);
        }
    }
}

impl FaultUpload {
    pub(super) fn new(fault: Fault, name: ObjectName, inner: Box<dyn Upload>) -> Self {
        Self { fault, name, inner: Arc::new(inner), abandoned: AtomicBool::new(false) }
    }

    fn write_dropped(fault: &Fault, name: &ObjectName) -> Error {
        let message =
            format!("a write of {name} was dropped before it ended: abort the upload and begin again");
        Error::new(ErrorKind::Invalid, fault, message)
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl Upload for FaultUpload {
    async fn write(&self, offset: u64, part: HostBuf) -> (HostBuf, Result<()>) {
        let mut writing = Writing { abandoned: Some(&self.abandoned) };
        let inner = Arc::clone(&self.inner);
        let answer = self
            .fault
            .drive(Operation::Write, Some(self.name), None, part, move |part, _| async move {
                inner.write(offset, part).await
            })
            .await;
        writing.abandoned = None;
        answer
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
        let Self { fault, name, inner, abandoned } = *self;
        let inner = Arc::into_inner(inner).filter(|_| !abandoned.into_inner());
        let Some(inner) = inner else {
            return Err(Self::write_dropped(&fault, &name));
        };
        fault.drive_unheld(Operation::Commit, Some(name), None, move |_| inner.commit()).await
    }

    async fn abort(self: Box<Self>) -> Result<()> {
        let Self { fault, name, inner, .. } = *self;
        fault
            .drive_unheld(Operation::Abort, Some(name), None, move |_| async move {
                match Arc::into_inner(inner) {
                    Some(inner) => inner.abort().await,
                    None => Ok(()), // the write that hangs removes it when it ends
                }
            })
            .await
    }
}
