//! Lookup: how much of a sequence the store seems to hold. A hint: objects may go before a load reads them, and none was verified.

use std::sync::Arc;
use std::time::Duration;

use kv_format::{Chunk, ObjectName, chunks};
use kv_storage::ErrorKind as StorageKind;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::limits::{Limits, Stop};
use crate::{Consumer, LookupRequest, Result, StopReason};

/// Answer of a lookup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Lookup {
    /// Tokens from the start of the sequence, in full chunks, of which every slice was found.
    pub tokens: u32,
    /// Why it ends there; `None` if every full chunk was found.
    pub stopped: Option<StopReason>,
}

impl Consumer {
    /// Looks for the full chunks of a sequence, all slices of each: what every rank together can load.
    ///
    /// # Errors
    /// [`Invalid`](crate::ErrorKind::Invalid) for a sequence of 2^32 tokens or more, or extras that are out of order. A store that fails, or a deadline that passes,
    /// is told in the answer.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn lookup(&self, request: LookupRequest<'_>) -> Result<Lookup> {
        let (_open, cancelled) = watch::channel(false);
        let limits = Limits::new(&self.core.environment, request.timeout, Duration::ZERO, cancelled);
        let mut found = Lookup { tokens: 0, stopped: None };
        let mut planned = chunks(&self.core.namespace, request.tokens, request.extras)?;
        planned.pop_if(|last| last.tail);
        for chunk in planned {
            match limits.run(self.probe(&chunk)).await {
                Ok(None) => found.tokens = chunk.tokens.end,
                Ok(stopped) => return Ok(Lookup { stopped, ..found }),
                Err(Stop::Deadline | Stop::Cancelled) => {
                    return Ok(Lookup { stopped: Some(StopReason::Deadline), ..found });
                }
            }
        }
        Ok(found)
    }

    /// Why a chunk cannot be loaded, `None` if all its slices are there.
    async fn probe(&self, chunk: &Chunk) -> Option<StopReason> {
        let mut probes = JoinSet::new();
        let concurrency = self.core.store.capabilities().concurrency.max(1);
        let mut slices = 0..u32::try_from(self.core.namespace.slices().slices().len()).unwrap_or(u32::MAX);
        let namespace = self.core.namespace.digest();
        loop {
            for slice in slices.by_ref().take(concurrency - probes.len()) {
                let store = Arc::clone(&self.core.store);
                let name = ObjectName { namespace, key: chunk.key, chunk_index: chunk.index, slice };
                probes.spawn_on(async move { store.head(&name).await }, &self.core.runtime);
            }
            let answer = probes.join_next().await?;
            match answer {
                Ok(Ok(Some(_))) => {}
                Ok(Ok(None)) => return Some(StopReason::NotFound),
                Ok(Err(error)) if error.kind() == StorageKind::PermissionDenied => {
                    return Some(StopReason::Denied);
                }
                Ok(Err(_)) | Err(_) => return Some(StopReason::Unavailable),
            }
        }
    }
}
