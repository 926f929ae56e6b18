//! Saving: device to storage, chunk by chunk, so that a reader never finds a chunk whose predecessor is still on its way.

mod filling;
mod object;

use std::sync::Arc;
use std::time::Duration;

use kv_device::Fence;
use kv_device::parts::InFlight;
use kv_format::{Chunk, ChunkKey};
use kv_storage::{Upload, WriteOrder};
use tokio::task::JoinError;

use crate::blocks::SequenceBlocks;
use crate::in_order::{Turns, side_by_side};
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
    operation: Operation<Saved>,
}

impl Producer {
    /// Starts saving. The tokens and block ids are copied as far as they are needed.
    ///
    /// # Errors
    /// [`Invalid`](crate::ErrorKind::Invalid) at once if the request contradicts itself: too few blocks, a block id out of range or
    /// given twice. Everything else is told by [`Save::finish`].
    pub fn save(&self, registered: &Registered, request: SaveRequest<'_>) -> Result<Save> {
        let namespace = &self.core.namespace;
        let sequence = (request.tokens, request.extras, &request.blocks);
        let chunks = planned_chunks(namespace, registered, sequence, |_| request.tail)?;
        let (core, registered) = (Arc::clone(&self.core), registered.clone());
        let (blocks, after, turns) = (request.blocks.to_owned(), request.after, Turns::new());
        let operation = Operation::start(&self.core.runtime, |cancelled| {
            let limits = Limits::new(&core.environment, request.timeout, core.device_grace, cancelled);
            let gate = InFlight::new();
            let begun = Turns::new();
            SaveTask { core, registered, chunks, blocks, after, limits, begun, turns, gate }.run()
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
    pub async fn finish(self) -> Result<Saved> {
        self.operation.finish().await
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
    pub async fn cancel(self) -> Result<()> {
        self.operation.cancel().await
    }
}

/// Everything that the task of a save owns.
struct SaveTask {
    core: Arc<Core>,
    registered: Registered,
    chunks: Vec<Chunk>,
    blocks: SequenceBlocks,
    after: Option<Arc<dyn Fence>>,
    limits: Limits,
    /// Passed by each piece whose upload has begun, or that makes none.
    begun: Turns,
    turns: Turns,
    /// What the store's threads read of the engine's memory; closed when the save ends.
    gate: Arc<InFlight>,
}

impl Drop for SaveTask {
    fn drop(&mut self) {
        // Its runtime may have ended it before its end.
        self.gate.shut();
    }
}

/// Objects of one save that are on their way at a time: one is gathered while others are checksummed and written.
const OBJECTS_IN_FLIGHT: usize = 8;

impl SaveTask {
    async fn run(self) -> Result<Saved> {
        let (core, started) = (Arc::clone(&self.core), self.core.environment.clock.now());
        let mut saved = Saved::default();
        let mut failure = None;
        let task = Arc::new(self);
        let slices = task.registered.slices().len();
        let start = |number| {
            let task = Arc::clone(&task);
            async move { task.save_slice(number).await }
        };
        let take = |number: usize, result: Result<Result<Option<Stored>>, JoinError>| {
            let chunk = &task.chunks[number / slices];
            match result.unwrap_or_else(|error| Err(task.limits.panicked(&error))) {
                _ if failure.is_some() => {}
                Ok(stored) => {
                    saved.add(stored);
                    if number % slices == slices - 1 {
                        saved.tokens = chunk.tokens.end;
                        saved.tail = chunk.tail.then_some(chunk.key);
                    }
                }
                Err(error) => {
                    failure = Some(error.during(format!("saving chunk {} ({})", chunk.index, chunk.key)))
                }
            }
        };
        side_by_side(&core.runtime, OBJECTS_IN_FLIGHT, task.chunks.len() * slices, start, take).await;
        // A store's thread whose write was given up may be about to read the engine's memory: from here on it may not.
        if let Err(error) = task.limits.let_go(task.gate.close()).await {
            failure = Some(error);
        }
        saved.elapsed = core.environment.clock.now().saturating_sub(started);
        failure.map_or(Ok(saved), Err)
    }

    /// Saves one slice of a chunk if this rank is to write it, and publishes it in its turn: a reader that finds a chunk finds all
    /// before it. `None` if another replica writes it.
    async fn save_slice(&self, number: usize) -> Result<Option<Stored>> {
        let (limits, turns) = (&self.limits, &self.turns);
        let slices = self.registered.slices();
        let (chunk, slice) = (&self.chunks[number / slices.len()], slices[number % slices.len()]);
        let writes = self.registered.replica(&self.core.namespace, slice).writes(chunk.index);
        let stored = if writes {
            self.save_object(number, chunk, slice).await.map(Some)
        } else {
            self.make_no_upload(number).await.map(|()| None)
        };
        match &stored {
            Ok(_) => turns.pass(number),
            // What comes before may still succeed. What comes behind is ended, and its turn never comes.
            Err(_) => {
                let _ = turns.wait(limits, number).await;
                limits.end();
            }
        }
        stored
    }

    /// Begins an upload. A store that keeps whole objects until their commit has room for so many: there they begin in their order, or
    /// one that is published late would have the room that one before it waits for.
    async fn begin(&self, number: usize, object: &PlannedObject) -> Result<Box<dyn Upload>> {
        let (limits, store) = (&self.limits, &self.core.store);
        if store.capabilities().write_order == WriteOrder::Whole {
            self.begun.wait(limits, number).await?;
        }
        let upload = limits.run(store.begin(&object.name, object.layout.object_len)).await??;
        self.begun.pass(number);
        Ok(upload)
    }

    /// Waits for the turn of a piece that has nothing to upload.
    async fn make_no_upload(&self, number: usize) -> Result<()> {
        self.begun.wait(&self.limits, number).await?;
        self.begun.pass(number);
        Ok(self.turns.wait(&self.limits, number).await?)
    }
}

impl Saved {
    fn add(&mut self, stored: Option<Stored>) {
        self.objects += u64::from(stored.is_some());
        match stored {
            Some(Stored::Published { bytes }) => self.bytes += bytes,
            Some(Stored::Deduplicated) => self.deduplicated += 1,
            Some(Stored::FirstWins) => self.first_wins += 1,
            None => {}
        }
    }
}
