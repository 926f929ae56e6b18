//! Spans that belong to no object: what is left of uploads and deletions that ended half-way.

use std::time::Duration;

use super::Striped;
use super::index::{END_BYTES, End, STRIPES_NAMESPACE};
use crate::{KvStore, ObjectMeta, ReadPart, Result};

/// Spans that are listed at a time.
const PAGE: usize = 1000;

impl Striped {
    /// Removes spans that were published longer ago than `older_than` (by the clocks of their writers) and that no index names; how many.
    /// The index of an upload comes right behind its spans, so a day spares whatever is still to become an object.
    ///
    /// # Errors
    /// As the members: what was not looked at is not removed.
    ///
    /// # Cancel safety
    /// Cancel safe; what was removed stays so.
    pub async fn sweep(&self, older_than: Duration) -> Result<u64> {
        let now = u128::from(self.environment.clock.unix_millis());
        let mut removed = 0;
        for member in self.members.iter() {
            let mut last = None;
            loop {
                let page = member.list(&STRIPES_NAMESPACE, last.as_ref(), PAGE).await?;
                let Some(behind) = page.last().map(|meta| meta.name) else { break };
                for meta in page {
                    let Some(end) = self.end_of(&**member, &meta).await? else { continue };
                    let young = u128::from(end.at) + older_than.as_millis() > now;
                    let named = self
                        .index(&end.name)
                        .await?
                        .is_some_and(|(index, _)| index.upload == meta.name.key.0);
                    if !young && !named {
                        removed += u64::from(member.delete(&meta.name).await?);
                    }
                }
                last = Some(behind);
            }
        }
        Ok(removed)
    }

    /// Whose a span is; `None` if it is gone or says nothing, which is left to a human.
    async fn end_of(&self, member: &dyn KvStore, meta: &ObjectMeta) -> Result<Option<End>> {
        let Some(offset) = meta.len.checked_sub(END_BYTES as u64) else { return Ok(None) };
        let outcome =
            member.read(&meta.name, vec![ReadPart { offset, buffer: self.scratch(END_BYTES)? }]).await;
        Ok(outcome.result?.and(outcome.buffers.first().and_then(|buffer| End::decode(buffer))))
    }
}
