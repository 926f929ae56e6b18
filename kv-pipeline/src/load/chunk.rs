//! Loading one chunk: read, verify, and write the engine's memory, either the whole chunk once all of it is verified, or part by part.

use std::ops::Range;
use std::pin::pin;
use std::sync::Arc;

use futures_util::stream::{self, FuturesUnordered};
use futures_util::{StreamExt, TryStreamExt, future};
use kv_device::TransferRequest;
use kv_format::{Chunk, ObjectName, Transfer};
use kv_memory::HostBuf;
use kv_storage::{ByteRange, ErrorKind as StorageKind, Setback};

use super::failed::Failed;
use super::held::{Held, VerifiedPart};
use super::rows::{streaming_parts, whole_chunk_parts};
use super::verifier::{State, Verified, Verifier, delivered};
use super::{ChunkFailure, Delivered, LoadTask, StaticScales, StopReason};
use crate::existing::quarantine;
use crate::parts::{Part, PlannedObject};
use crate::rows::together;
use crate::stats::count;
use crate::{Delivery, Error, Result};

/// Objects of one chunk that are read at a time.
const OBJECTS_AT_ONCE: usize = 4;

impl LoadTask {
    /// Parts of the staging pool that a chunk takes while it is on its way.
    pub(super) fn staging_parts(&self, chunk: &Chunk) -> usize {
        let Ok(objects) = self.objects(chunk, &Arc::default()) else { return 0 };
        if self.delivery == Delivery::AsVerified {
            let sets = together(&objects);
            return sets.iter().map(|set| streaming_parts(&objects, set)).max().unwrap_or(1);
        }
        whole_chunk_parts(&objects)
    }

    /// What this rank loads of a chunk.
    pub(super) fn objects(
        &self,
        chunk: &Chunk,
        scales: &Arc<StaticScales>,
    ) -> Result<Vec<Arc<PlannedObject>>> {
        let plan = |&slice| {
            let object = PlannedObject::new(&self.core, &self.registered, chunk, slice, &self.blocks)?;
            let object = object.expecting(scales);
            Ok(Arc::new(if self.is_done_with_parts_as_they_come(&object) {
                object.in_parts_of_store(&self.core)?
            } else {
                object
            }))
        };
        self.registered.slices().iter().map(plan).collect()
    }

    /// Delivers a chunk, or says why not.
    pub(super) async fn load_chunk(&self, number: usize) -> Result<Result<Delivered, ChunkFailure>> {
        let chunk = &self.chunks[number];
        let scales = match self.static_scales().await {
            Ok(scales) => scales,
            Err(failed) => return self.failure(chunk, &[], failed).await,
        };
        let objects = self.objects(chunk, &scales)?;
        loop {
            match self.load_objects(number, &objects).await {
                Ok(delivered) => return Ok(Ok(delivered)),
                // What one way to the store garbles another may give whole.
                Err(failed) if failed.corrupts().is_some_and(|name| self.another_way(name)) => {}
                Err(failed) => return self.failure(chunk, &objects, failed).await,
            }
        }
    }

    fn another_way(&self, name: &ObjectName) -> bool {
        let another = self.core.store.another_way(name, Setback::Corrupt);
        count(&self.core.counters.verify_failures, u64::from(another));
        count(&self.core.counters.objects_read_again, u64::from(another));
        another
    }

    async fn load_objects(&self, number: usize, objects: &[Arc<PlannedObject>]) -> Result<Delivered, Failed> {
        let all = whole_chunk_parts(objects);
        match self.delivery {
            Delivery::AsVerified => self.load_as_verified(number, objects).await,
            Delivery::WholeChunk if all > self.core.pool.parts() => {
                self.load_in_two_passes(number, objects).await
            }
            Delivery::WholeChunk if self.writes_where_it_reads(objects) => {
                self.load_held(number, objects, all).await
            }
            Delivery::WholeChunk => self.load_at_once(number, objects, all).await,
        }
    }

    /// What a chunk that was not delivered means for the load.
    async fn failure(
        &self,
        chunk: &Chunk,
        objects: &[Arc<PlannedObject>],
        failed: Failed,
    ) -> Result<Result<Delivered, ChunkFailure>> {
        match failed {
            Failed::Error(error) => Err(error.during(format!("loading chunk {}", chunk.index))),
            Failed::Reason { reason, message, object, corrupt } => {
                if let Some(meta) = corrupt {
                    // Best effort: the load's answer does not depend on it.
                    let _ = quarantine(&self.core, &self.limits, &meta).await;
                }
                let object = objects.get(object).map(|object| object.name);
                Ok(Err(ChunkFailure { chunk_index: chunk.index, object, reason, message }))
            }
        }
    }

    /// Whether the threads that read a chunk may write it: the store has some, the device copies on any, and no fence is to be awaited
    /// in between.
    fn writes_where_it_reads(&self, objects: &[Arc<PlannedObject>]) -> bool {
        self.after.is_none()
            && self.core.store.calls_back_on_own_threads()
            && self.registered.memory().copies_now()
            && objects.iter().all(|object| object.rows.is_none())
    }

    /// Whether each part is verified and written by the thread that reads it.
    fn is_done_with_parts_as_they_come(&self, object: &PlannedObject) -> bool {
        self.delivery == Delivery::AsVerified && object.moves_on_store_threads(&self.core, &self.registered)
    }

    /// Holds the whole chunk in staging until all of it is verified; the thread that verified the last of it goes on to write it, and the
    /// device's own thread helps.
    async fn load_held(
        &self,
        number: usize,
        objects: &[Arc<PlannedObject>],
        parts: usize,
    ) -> Result<Delivered, Failed> {
        let limits = &self.limits;
        let mut staging = limits.run(self.core.pool.acquire_many(parts)).await?;
        let held =
            Held::new(number, objects.len(), &self.verified, (&self.core, &self.registered, &self.gate));
        let mut reads = Vec::with_capacity(objects.len());
        for (index, object) in objects.iter().enumerate() {
            let buffers = staging.split_off(staging.len().saturating_sub(object.parts.len()));
            let (parts, then) = (0..object.parts.len(), Verified::Hold(Arc::clone(&held)));
            reads.push(self.read(index, object, parts, State::default(), then, buffers));
        }
        let reads = stream::iter(reads).buffered(OBJECTS_AT_ONCE).try_for_each(|_| future::ready(Ok(())));
        let mut reads = pin!(reads);
        let read = tokio::select! {
            biased;
            read = &mut reads => Some(read),
            () = held.begun() => None,
        };
        let reading = read.is_none();
        let ready = match read {
            Some(Ok(())) => self.verified.wait(limits, number).await.map_err(Failed::from),
            Some(Err(failed)) => Err(failed),
            None => Ok(()),
        };
        match ready {
            // If the chunk is being written all of it is verified, whatever a late answer says.
            Err(failed) if held.give_up() => return Err(failed),
            _ => held.begin(),
        };
        while let Some(VerifiedPart { object, part, buffer }) = held.take() {
            held.written(self.deliver(&object, &object.parts[part], buffer).await);
        }
        let delivered = limits.let_go(held.finished()).await??;
        if reading {
            // The thread that wrote is about to end its read.
            let _ = limits.run(reads).await?;
        }
        self.turns.wait(limits, number).await?;
        Ok(delivered)
    }

    /// Holds the whole chunk in staging until all of it is verified; the device writes it.
    async fn load_at_once(
        &self,
        number: usize,
        objects: &[Arc<PlannedObject>],
        parts: usize,
    ) -> Result<Delivered, Failed> {
        let limits = &self.limits;
        let mut staging = limits.run(self.core.pool.acquire_many(parts)).await?;
        let mut verified = Vec::with_capacity(objects.len());
        for (index, object) in objects.iter().enumerate() {
            let buffers = staging.split_off(staging.len().saturating_sub(object.parts.len()));
            let (parts, seen) = (0..object.parts.len(), State::default());
            verified.push(self.read(index, object, parts, seen, Verified::Keep, buffers).await?.kept);
        }
        self.turns.wait(limits, number).await?;
        // What is left of the staging is for rows.
        let mut sum = Delivered::default();
        for set in together(objects).into_iter().filter(|set| objects[set[0]].rows.is_some()) {
            let kept: Vec<(&PlannedObject, &[HostBuf])> =
                set.iter().map(|&index| (&*objects[index], verified[index].as_slice())).collect();
            staging = self.deliver_rows(&kept, 0..kept[0].0.parts.len(), staging).await?;
        }
        // All at once into the device's queue; every one of them has ended before the chunk has.
        let mut transfers = FuturesUnordered::new();
        for (object, buffers) in objects.iter().zip(verified) {
            for (part, buffer) in object.parts.iter().zip(buffers) {
                transfers.push(self.deliver(object, part, buffer));
            }
        }
        let mut result = Ok(());
        while let Some(delivered) = transfers.next().await {
            match delivered {
                Ok(one) => sum = sum + one,
                Err(failed) => result = result.and(Err(failed)),
            }
        }
        result.map(|()| sum)
    }

    /// Verifies the whole chunk through one staging part, then reads it again to deliver it.
    async fn load_in_two_passes(
        &self,
        number: usize,
        objects: &[Arc<PlannedObject>],
    ) -> Result<Delivered, Failed> {
        let mut seen = Vec::with_capacity(objects.len());
        for (index, object) in objects.iter().enumerate() {
            let staging = self.limits.run(self.core.pool.acquire_many(1)).await?;
            let (parts, nothing) = (0..object.parts.len(), State::default());
            seen.push(self.read(index, object, parts, nothing, Verified::Drop, staging).await?);
        }
        self.turns.wait(&self.limits, number).await?;
        let mut sum = Delivered::default();
        let mut seen: Vec<Option<State>> = seen.into_iter().map(Some).collect();
        for set in together(objects) {
            let seen = set.iter().map(|&index| seen[index].take().unwrap_or_default()).collect();
            sum = sum + self.stream_together(&set, objects, seen).await?;
        }
        Ok(sum)
    }

    /// Delivers every part as soon as it is verified.
    async fn load_as_verified(
        &self,
        number: usize,
        objects: &[Arc<PlannedObject>],
    ) -> Result<Delivered, Failed> {
        let sets = together(objects);
        let nothing = |set: &[usize]| set.iter().map(|_| State::default()).collect();
        let streams: Vec<_> =
            sets.iter().map(|set| self.stream_together(set, objects, nothing(set))).collect();
        // Each is run to its end, also if another fails: a device may be about to write the engine's blocks for it.
        let ended: Vec<_> = stream::iter(streams).buffered(OBJECTS_AT_ONCE).collect().await;
        let sum = ended.into_iter().try_fold(Delivered::default(), |sum, one| Ok::<_, Failed>(sum + one?))?;
        self.turns.wait(&self.limits, number).await?;
        Ok(sum)
    }

    /// Reads an object, provided that it is the version that was `seen` before, and delivers each part as soon as it is verified: on
    /// the thread that reads it where the store has threads and the device copies on any; else one after the other.
    pub(super) async fn stream(
        &self,
        index: usize,
        object: &Arc<PlannedObject>,
        seen: State,
    ) -> Result<Delivered, Failed> {
        let (limits, memory) = (&self.limits, self.registered.memory());
        let parts = object.parts.len();
        if self.core.store.calls_back_on_own_threads() && memory.copies_now() {
            self.reach_fence(object).await?;
            let staging = limits.run(self.core.pool.acquire_many(1)).await?;
            let (core, registered, gate) =
                (Arc::clone(&self.core), self.registered.clone(), Arc::clone(&self.gate));
            let then = Verified::Deliver { core, registered, gate };
            return Ok(self.read(index, object, 0..parts, seen, then, staging).await?.delivered);
        }
        let (mut seen, mut sum) = (seen, Delivered::default());
        for (number, part) in object.parts.iter().enumerate() {
            let staging = limits.run(self.core.pool.acquire_many(1)).await?;
            seen = self.read(index, object, number..number + 1, seen, Verified::Keep, staging).await?;
            for buffer in seen.kept.drain(..) {
                sum = sum + self.deliver(object, part, buffer).await?;
            }
        }
        Ok(sum)
    }

    /// Reads some parts of an object through a verifier; what was `seen` is of an earlier read of it.
    pub(super) async fn read(
        &self,
        index: usize,
        object: &Arc<PlannedObject>,
        parts: Range<usize>,
        seen: State,
        then: Verified,
        staging: Vec<HostBuf>,
    ) -> Result<State, Failed> {
        let (limits, store) = (&self.limits, &self.core.store);
        let asked = object.parts[parts.clone()].iter();
        let ranges = asked.map(|part| ByteRange { offset: part.offset, len: part.len }).collect();
        let verifier = Verifier::new(index, object, parts, seen, then);
        let sink = Arc::<Verifier>::clone(&verifier);
        match limits.run(store.read_into(&object.name, ranges, staging, sink)).await? {
            Ok(Some(_)) => verifier.finish(store),
            Ok(None) => {
                let message = format!("{} is not stored", object.name);
                Err(Failed::reason(StopReason::NotFound, index, message))
            }
            Err(error) if error.kind() == StorageKind::OutOfRange => {
                let meta = limits.run(store.head(&object.name)).await?.ok().flatten();
                let len = object.layout.object_len;
                let short = meta.filter(|meta| meta.len < len);
                let message = format!("{} is truncated: expected {len} bytes ({error})", object.name);
                Err(Failed::corrupt(index, message, short))
            }
            Err(error) => Err(Failed::store(index, &error)),
        }
    }

    /// Copies verified sections into the engine's memory, but for those that move in rows, and counts them all.
    pub(super) async fn deliver(
        &self,
        object: &PlannedObject,
        part: &Part,
        staging: HostBuf,
    ) -> Result<Delivered, Failed> {
        if part.sections.is_empty() {
            return Ok(Delivered::default());
        }
        let transfer = object.delivery(&self.registered, part)?;
        if !transfer.sections.is_empty() || object.rows.is_none() {
            self.scatter(transfer, staging).await.1?;
        }
        Ok(delivered(&self.core, object, part))
    }

    /// Waits until the engine lets its blocks be written.
    async fn reach_fence(&self, object: &PlannedObject) -> Result<(), Failed> {
        if self.after.is_some() {
            let staging = self.limits.run(self.core.pool.acquire()).await?;
            self.scatter(object.nothing(), staging).await.1?;
        }
        Ok(())
    }

    /// The buffer comes back unless the device holds it beyond the deadline, or the load is to end.
    pub(super) async fn scatter(
        &self,
        transfer: Transfer,
        staging: HostBuf,
    ) -> (Option<HostBuf>, Result<(), Failed>) {
        let (after, fence_timeout) = (self.after.clone(), self.limits.remaining());
        let request = TransferRequest { transfer, staging, after, fence_timeout };
        match self.limits.device(self.registered.memory().scatter(request)).await {
            Ok((staging, result)) => (Some(staging), result.map_err(|error| Error::from(error).into())),
            Err(error) => (None, Err(error.into())),
        }
    }
}
