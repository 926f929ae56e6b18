//! Loading in rows: the slices of one KV group and of the same layers, verified, laid side by side, and written by the device as rows.

use std::future::poll_fn;
use std::ops::Range;
use std::sync::Arc;
use std::task::Poll;

use futures_util::StreamExt;
use futures_util::future::try_join_all;
use futures_util::stream::FuturesUnordered;
use kv_memory::HostBuf;

use super::failed::Failed;
use super::verifier::{State, Verified};
use super::{Delivered, LoadTask};
use crate::Error;
use crate::parts::PlannedObject;
use crate::rows::Batch;

/// Row buffers of a chunk: one is written by the device while the next is laid out.
const ROW_BUFFERS: usize = 2;

/// Staging parts of a chunk that is held whole.
pub(super) fn whole_chunk_parts(objects: &[Arc<PlannedObject>]) -> usize {
    let rows = objects.iter().any(|object| object.rows.is_some());
    let parts: usize = objects.iter().map(|object| object.parts.len()).sum();
    parts + if rows { ROW_BUFFERS } else { 0 }
}

/// Staging parts of objects that are delivered together part by part.
pub(super) fn streaming_parts(objects: &[Arc<PlannedObject>], set: &[usize]) -> usize {
    let rows = set.first().is_some_and(|&first| objects[first].rows.is_some());
    set.len() + usize::from(rows)
}

impl LoadTask {
    /// Reads objects that move together, each provided that it is the version that was `seen` before, and delivers part after part of
    /// them as soon as it is verified.
    pub(super) async fn stream_together(
        &self,
        set: &[usize],
        objects: &[Arc<PlannedObject>],
        mut seen: Vec<State>,
    ) -> Result<Delivered, Failed> {
        let Some(&first) = set.first() else { return Ok(Delivered::default()) };
        if objects[first].rows.is_none() {
            return self.stream(first, &objects[first], seen.pop().unwrap_or_default()).await;
        }
        let (needed, pool) = (streaming_parts(objects, set), &self.core.pool);
        if needed > pool.parts() {
            return Err(Failed::Error(Error::invalid(format!(
                "{} slices are written together as rows, which takes {needed} staging parts, but there are {}: give staging_bytes({}) or more",
                set.len(),
                pool.parts(),
                needed * pool.part_bytes()
            ))));
        }
        let mut sum = Delivered::default();
        for number in 0..objects[first].parts.len() {
            let mut staging = self.limits.run(pool.acquire_many(needed)).await?;
            let rows = staging.split_off(set.len());
            let reads = set.iter().zip(seen).zip(staging).map(|((&index, seen), buffer)| {
                self.read(index, &objects[index], number..number + 1, seen, Verified::Keep, vec![buffer])
            });
            seen = try_join_all(reads).await?;
            let kept: Vec<Vec<HostBuf>> =
                seen.iter_mut().map(|seen| std::mem::take(&mut seen.kept)).collect();
            let together: Vec<(&PlannedObject, &[HostBuf])> =
                set.iter().zip(&kept).map(|(&index, kept)| (&*objects[index], kept.as_slice())).collect();
            drop(self.deliver_rows(&together, number..number + 1, rows).await?);
            for (&index, buffer) in set.iter().zip(kept.into_iter().flatten()) {
                sum = sum + self.deliver(&objects[index], &objects[index].parts[number], buffer).await?;
            }
        }
        Ok(sum)
    }

    /// Lays some parts of objects side by side as rows, and lets the device write them, a batch after the other; gives the row buffers
    /// back. `objects` are those of one set, each with the buffers of its parts.
    ///
    /// Every transfer has ended when it returns.
    pub(super) async fn deliver_rows(
        &self,
        objects: &[(&PlannedObject, &[HostBuf])],
        parts: Range<usize>,
        mut free: Vec<HostBuf>,
    ) -> Result<Vec<HostBuf>, Failed> {
        let Some((first, _)) = objects.first() else { return Ok(free) };
        let heads: usize = objects.iter().map(|(object, _)| object.identity.slice.heads.len()).sum();
        let held = self.registered.geometry(first.identity.slice.group).map_or(0, |held| held.heads.len());
        if heads != held || objects.iter().any(|(object, _)| object.parts != first.parts) {
            return Err(Failed::Error(Error::invalid(format!(
                "{heads} of the rank's {held} heads would be written as rows: its slices do not lie side by side"
            ))));
        }
        let mut under_way = FuturesUnordered::new();
        let mut result = Ok(());
        for number in parts.clone() {
            let part = &first.parts[number];
            let sections = first.moving(part).filter(|section| first.in_rows(*section));
            let bytes = self.core.pool.part_bytes();
            for batch in first.row_batches(sections, bytes) {
                if free.is_empty()
                    && let Some((buffer, ended)) = under_way.next().await
                {
                    free.extend(buffer);
                    result = result.and(ended);
                }
                let Some(mut rows) = free.pop().filter(|_| result.is_ok()) else { break };
                lay_out(objects, number - parts.start, number, &batch, &mut rows);
                match first.row_transfer(&self.registered, &batch) {
                    Ok(transfer) => under_way.push(self.scatter(transfer, rows)),
                    Err(error) => {
                        result = Err(error.into());
                        break;
                    }
                }
                // A transfer is queued when it is first polled.
                let polled = poll_fn(|context| Poll::Ready(under_way.poll_next_unpin(context))).await;
                if let Poll::Ready(Some((buffer, ended))) = polled {
                    free.extend(buffer);
                    result = result.and(ended);
                }
            }
        }
        while let Some((buffer, ended)) = under_way.next().await {
            free.extend(buffer);
            result = result.and(ended);
        }
        result.map(|()| free)
    }
}

/// Fills the rows of a batch from every object's buffer number `buffer`, which holds its part number `part`.
fn lay_out(
    objects: &[(&PlannedObject, &[HostBuf])],
    buffer: usize,
    part: usize,
    batch: &Batch,
    rows: &mut [u8],
) {
    for (section, area) in batch {
        for (object, buffers) in objects {
            object.lay(&object.parts[part], *section, &buffers[buffer], &mut rows[area.clone()]);
        }
    }
}
