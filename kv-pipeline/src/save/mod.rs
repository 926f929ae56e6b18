//! Saving: device to storage, chunk by chunk, so that a reader never finds a chunk whose predecessor is still on its way.

mod object;

use std::sync::Arc;
use std::time::Duration;

use kv_device::Fence;
use kv_format::{Chunk, ChunkKey};

use crate::limits::Limits;
use crate::operation::{Canceller, Operation};
use crate::parts::PlannedObject;
use crate::pipeline::Core;
use crate::request::planned_chunks;
use crate::{Registered, Result, SaveRequest};
use object::Stored;

/// The role `kv_producer`: saves, and hands requests over. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Producer {
    pub(crate) core: Arc<Core>,
}

/// What a save did.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Saved {
    /// Tokens from the start of the sequence whose KV this rank's slices now hold in the store.
    pub tokens: u32,
    /// Key of the tail, if one was asked for and the sequence has one.
    pub tail: Option<ChunkKey>,
    /// Objects of this rank: published, deduplicated and first-wins together.
    pub objects: u64,
    /// Objects that were stored already and were not written again.
    pub deduplicated: u64,
    /// Objects that another producer published meanwhile with another payload of the same identity; theirs stays.
    pub first_wins: u64,
    /// Bytes of KV in the objects that this save published.
    pub bytes: u64,
    /// From the call to the last publication.
    pub elapsed: Duration,
}

/// A save on its way. Dropping it starts no new work; what the engine's blocks are needed for goes on until
/// [`Registered::close`], so end it by [`finish`](Self::finish) or [`cancel`](Self::cancel).
#[derive(Debug)]
#[must_use = "a dropped save stops: call finish().await"]
pub struct Save {
    operation: Operation<Result<Saved>>,
}

impl Producer {
    /// Starts saving. The tokens and block ids are copied as far as they are needed.
    ///
    /// # Errors
    /// [`Invalid`](crate::ErrorKind::Invalid) at once if the request contradicts itself: too few blocks, a block id out of range or
    /// given twice. Everything else is told by [`Save::finish`].
    pub fn save(&self, registered: &Registered, request: SaveRequest<'_>) -> Result<Save> {
        let namespace = &self.core.namespace;
        let sequence = (request.tokens, request.extras, request.blocks);
        let chunks = planned_chunks(namespace, registered, sequence, |_| request.tail)?;
        let task = SaveTask {
            core: Arc::clone(&self.core),
            registered: registered.clone(),
            chunks,
            blocks: request.blocks.to_vec(),
            after: request.after,
        };
        let (environment, timeout, grace) =
            (self.core.environment.clone(), request.timeout, self.core.device_grace);
        let operation = Operation::start(&self.core.runtime, |cancelled| {
            let limits = Limits::new(&environment, timeout, grace, cancelled);
            async move { task.run(&limits).await }
        });
        Ok(Save { operation })
    }
}

impl Save {
    /// Waits for the end of the save. Afterwards no transfer touches the engine's blocks.
    ///
    /// # Errors
    /// `Deadline`, `Cancelled`, `Conflict`, `Storage`, `Device`; what was published before stays and is found by lookups.
    ///
    /// # Cancel safety
    /// Dropping it is dropping the save.
    pub async fn finish(mut self) -> Result<Saved> {
        self.operation.join().await?
    }

    /// Lets others stop this save while its owner waits in [`finish`](Self::finish).
    pub fn canceller(&self) -> Canceller {
        self.operation.canceller()
    }

    /// Stops the save and waits until no transfer touches the engine's blocks. Nothing partial is visible.
    ///
    /// # Errors
    /// [`Device`](crate::ErrorKind::Device) if the device still holds blocks when its time is up; keep them until
    /// [`Registered::close`].
    ///
    /// # Cancel safety
    /// Dropping it is dropping the save.
    pub async fn cancel(mut self) -> Result<()> {
        self.operation.cancel();
        match self.operation.join().await? {
            Err(error) if error.kind() == crate::ErrorKind::Device => Err(error),
            _ => Ok(()),
        }
    }
}

/// Everything that the task of a save owns.
struct SaveTask {
    core: Arc<Core>,
    registered: Registered,
    chunks: Vec<Chunk>,
    blocks: Vec<u32>,
    after: Option<Arc<dyn Fence>>,
}

impl SaveTask {
    async fn run(self, limits: &Limits) -> Result<Saved> {
        let started = self.core.environment.clock.now();
        let mut saved = Saved::default();
        for chunk in &self.chunks {
            self.save_chunk(limits, chunk, &mut saved)
                .await
                .map_err(|error| error.during(format!("saving chunk {} ({})", chunk.index, chunk.key)))?;
            saved.tokens = chunk.tokens.end;
            if chunk.tail {
                saved.tail = Some(chunk.key);
            }
        }
        saved.elapsed = self.core.environment.clock.now().saturating_sub(started);
        Ok(saved)
    }

    /// Saves the slices of a chunk that this rank is to write.
    async fn save_chunk(&self, limits: &Limits, chunk: &Chunk, saved: &mut Saved) -> Result<()> {
        if !self.registered.geometry().replica.writes(chunk.index) {
            return Ok(());
        }
        for &slice in self.registered.slices() {
            let object = PlannedObject::new(&self.core, &self.registered, chunk, slice, &self.blocks)?;
            saved.objects += 1;
            match self.save_object(limits, &object).await? {
                Stored::Published { bytes } => saved.bytes += bytes,
                Stored::Deduplicated => saved.deduplicated += 1,
                Stored::FirstWins => saved.first_wins += 1,
            }
        }
        Ok(())
    }
}
