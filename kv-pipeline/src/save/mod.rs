//! Saving: device to storage, chunk by chunk, so that a reader never finds a chunk whose predecessor is still on its way.

mod object;

use std::sync::Arc;
use std::time::Duration;

use kv_device::Fence;
use kv_format::{Chunk, ChunkKey};

use crate::in_order::{Turns, side_by_side};
use crate::limits::Limits;
use crate::operation::{Canceller, Operation};
use crate::pipeline::Core;
use crate::request::planned_chunks;
use crate::{Error, Registered, Result, SaveRequest};
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
    blocks: Vec<u32>,
    after: Option<Arc<dyn Fence>>,
}

/// Objects of one save that are on their way at a time: one is gathered while others are checksummed and written.
const OBJECTS_IN_FLIGHT: usize = 4;

impl SaveTask {
    async fn run(self, limits: &Limits) -> Result<Saved> {
        let started = self.core.environment.clock.now();
        let mut saved = Saved::default();
        let mut failure = None;
        let turns = Turns::new();
        let slices = self.registered.slices().len();
        let start = |number| self.save_slice(limits, &turns, number);
        side_by_side(OBJECTS_IN_FLIGHT, self.chunks.len() * slices, start, |number, result| match result {
            _ if failure.is_some() => {}
            Ok(stored) => {
                saved.add(stored);
                if number % slices == slices - 1 {
                    let chunk = &self.chunks[number / slices];
                    saved.tokens = chunk.tokens.end;
                    saved.tail = chunk.tail.then_some(chunk.key);
                }
            }
            Err(error) => {
                let chunk = &self.chunks[number / slices];
                failure = Some(error.during(format!("saving chunk {} ({})", chunk.index, chunk.key)));
            }
        })
        .await;
        saved.elapsed = self.core.environment.clock.now().saturating_sub(started);
        failure.map_or(Ok(saved), Err)
    }

    /// Saves one slice of a chunk if this rank is to write it, and publishes it in its turn: a reader that finds a chunk finds all
    /// before it. `None` if another replica writes it.
    async fn save_slice(&self, limits: &Limits, turns: &Turns, number: usize) -> Result<Option<Stored>> {
        let slices = self.registered.slices();
        let (chunk, slice) = (&self.chunks[number / slices.len()], slices[number % slices.len()]);
        let stored = if self.registered.geometry().replica.writes(chunk.index) {
            self.save_object(limits, turns, number, chunk, slice).await.map(Some)
        } else {
            turns.wait(limits, number).await.map(|()| None).map_err(Error::from)
        };
        if stored.is_err() {
            // What comes before may still succeed; what comes behind would wait for this turn in vain.
            let _ = turns.wait(limits, number).await;
            limits.end();
        }
        turns.pass(number);
        stored
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
