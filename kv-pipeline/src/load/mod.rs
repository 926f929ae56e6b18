//! Loading: storage to device, the longest verified prefix, and a reason where it stops.

mod chunk;
mod failed;
mod held;
mod outcome;
mod rows;
mod static_scales;
mod verifier;

use std::sync::Arc;
use std::time::Duration;

use kv_device::Fence;
use kv_device::parts::InFlight;
use kv_format::Chunk;
use tokio::sync::{OnceCell, watch};
use tokio::task::JoinError;

use crate::blocks::SequenceBlocks;
use crate::in_order::{Turns, side_by_side};
use crate::limits::{Limits, Stop};
use crate::operation::{Canceller, Operation};
use crate::pipeline::Core;
use crate::request::planned_chunks;
use crate::stats::count;
use crate::{Delivery, Error, ErrorKind, LoadPolicy, LoadRequest, Registered, Result};
pub use outcome::{ChunkFailure, Loaded, StopReason};
pub(crate) use static_scales::StaticScales;

/// Pause before a waiting load looks again.
const WAIT_PAUSE: Duration = Duration::from_millis(20);

/// The role `kv_consumer`: looks up, waits for requests, loads. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Consumer {
    pub(crate) core: Arc<Core>,
}

/// A load on its way. Dropping it starts no new work; a transfer that runs goes on until [`Registered::close`], so end it by
/// [`finish`](Self::finish) or [`cancel`](Self::cancel) before the engine gives the blocks to anybody else.
#[derive(Debug)]
#[must_use = "a dropped load stops: call finish().await"]
pub struct Load {
    operation: Operation<Loaded>,
    progress: watch::Receiver<Progress>,
    next_layer: u32,
}

/// How far a load is.
#[derive(Debug, Clone, Copy, Default)]
struct Progress {
    /// Layers below are complete.
    ready_below: u32,
    /// No more layers will come.
    ended: bool,
}

impl Consumer {
    /// Starts loading. The tokens and block ids are copied as far as they are needed.
    ///
    /// # Errors
    /// [`Invalid`](ErrorKind::Invalid) at once if the request contradicts itself: too few blocks, a block id out of range or given
    /// twice. Everything else is told by [`Load::finish`].
    pub fn load(&self, registered: &Registered, request: LoadRequest<'_>) -> Result<Load> {
        let namespace = &self.core.namespace;
        let tail = request.handoff.and_then(|handoff| handoff.tail);
        let sequence = (request.tokens, request.extras, &request.blocks);
        let chunks = planned_chunks(namespace, registered, sequence, |last| Some(last.key) == tail)?;
        let (progress, receiver) = watch::channel(Progress::default());
        let layers = registered.layers();
        let (core, registered) = (Arc::clone(&self.core), registered.clone());
        let (blocks, policy, delivery, after) =
            (request.blocks.to_owned(), request.policy, request.delivery, request.after);
        let requested = u32::try_from(request.tokens.len()).unwrap_or(u32::MAX);
        let operation = Operation::start(&self.core.runtime, |cancelled| {
            let limits = Limits::new(&core.environment, request.timeout, core.device_grace, cancelled);
            let (turns, verified, gate) = (Turns::new(), Arc::new(Turns::new()), InFlight::new());
            LoadTask {
                core,
                registered,
                chunks,
                requested,
                blocks,
                policy,
                delivery,
                after,
                progress,
                limits,
                turns,
                verified,
                gate,
                static_scales: OnceCell::new(),
            }
            .run()
        });
        Ok(Load { operation, progress: receiver, next_layer: layers.start })
    }
}

impl Load {
    /// Waits for the next layer of the model whose KV, of every group, is in the engine's memory for every token that
    /// [`finish`](Self::finish) will report; `None` when no more will come, be it that all have or that the load stopped early.
    ///
    /// # Errors
    /// None today; a device that fails meanwhile is told by [`finish`](Self::finish).
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn next_layer(&mut self) -> Result<Option<u32>> {
        let wanted = self.next_layer;
        // An error means that the task is gone, and with it all layers that will ever come.
        let reached =
            self.progress.wait_for(|progress| progress.ready_below > wanted || progress.ended).await;
        match reached {
            Ok(progress) if progress.ready_below > wanted => {
                self.next_layer += 1;
                Ok(Some(wanted))
            }
            _ => Ok(None),
        }
    }

    /// Waits for the end of the load. Afterwards no transfer touches the engine's blocks.
    ///
    /// # Errors
    /// `Incomplete` if the policy is [`Fail`](LoadPolicy::Fail) and something is missing; `Device` if the device failed, `Cancelled`
    /// if the runtime ends. A miss, a corrupt object, a dead store are no errors: they are the reason in [`Loaded::failures`].
    ///
    /// # Cancel safety
    /// Dropping it is dropping the load.
    pub async fn finish(self) -> Result<Loaded> {
        self.operation.finish().await
    }

    /// Lets others stop this load while its owner waits in [`finish`](Self::finish).
    pub fn canceller(&self) -> Canceller {
        self.operation.canceller()
    }

    /// Stops the load and waits until no transfer touches the engine's blocks, which the engine may then give to another request.
    ///
    /// # Errors
    /// [`Device`](ErrorKind::Device) if the device still holds blocks when its time is up; keep them until [`Registered::close`].
    ///
    /// # Cancel safety
    /// Dropping it is dropping the load.
    pub async fn cancel(self) -> Result<()> {
        self.operation.cancel().await
    }
}

/// Everything that the task of a load owns.
struct LoadTask {
    core: Arc<Core>,
    registered: Registered,
    chunks: Vec<Chunk>,
    requested: u32,
    blocks: SequenceBlocks,
    policy: LoadPolicy,
    delivery: Delivery,
    after: Option<Arc<dyn Fence>>,
    progress: watch::Sender<Progress>,
    limits: Limits,
    /// Passed by each chunk that is delivered.
    turns: Turns,
    /// Passed by each chunk that is verified: the next one may be written, since nothing before it can fail verification any more.
    verified: Arc<Turns>,
    /// What the store's threads write into the engine's memory; closed when the load ends.
    gate: Arc<InFlight>,
    /// Of the engine; read when the first chunk is loaded.
    static_scales: OnceCell<Arc<StaticScales>>,
}

impl Drop for LoadTask {
    fn drop(&mut self) {
        // Its runtime may have ended it before its end.
        self.gate.shut();
    }
}

/// What of a chunk was delivered.
#[derive(Debug, Clone, Copy, Default)]
struct Delivered {
    sections: u64,
    bytes: u64,
}

impl std::ops::Add for Delivered {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self { sections: self.sections + other.sections, bytes: self.bytes + other.bytes }
    }
}

/// Most chunks of one load that are read and verified at a time, beside the one that is delivered meanwhile.
const CHUNKS_IN_FLIGHT: usize = 4;

/// Bytes of one load that are read and verified at a time, if that leaves two chunks: what was read is verified and delivered before it
/// has left a last-level cache of common size.
const BYTES_IN_FLIGHT: usize = 32 << 20;

impl LoadTask {
    async fn run(self) -> Result<Loaded> {
        let started = self.core.environment.clock.now();
        let mut loaded = Loaded { requested: self.requested, ..Loaded::default() };
        let mut failed = None;
        let task = Arc::new(self);
        let start = |number| {
            let task = Arc::clone(&task);
            async move { task.load_in_turn(number).await }
        };
        let take = |number: usize, result: Result<Result<Result<Delivered, ChunkFailure>>, JoinError>| {
            match result.unwrap_or_else(|error| Err(task.limits.panicked(&error))) {
                // What comes behind a failure was ended by it.
                _ if failed.is_some() || !loaded.failures.is_empty() => {}
                Ok(Ok(delivered)) => {
                    loaded.tokens = task.chunks[number].tokens.end;
                    loaded.verified_sections += delivered.sections;
                    loaded.bytes += delivered.bytes;
                }
                Ok(Err(failure)) => loaded.failures.push(failure),
                Err(error) => failed = Some(error),
            }
        };
        side_by_side(&task.core.runtime, task.width(), task.chunks.len(), start, take).await;
        // A store's thread whose read was given up may be about to write the engine's memory: from here on it may not.
        if let Err(error) = task.limits.let_go(task.gate.close()).await {
            failed = Some(error);
        }
        loaded.elapsed = task.core.environment.clock.now().saturating_sub(started);
        count(&task.core.counters.tokens_loaded, u64::from(loaded.tokens));
        let complete = loaded.failures.is_empty();
        let refused = failed.is_some() || !complete && task.policy == LoadPolicy::Fail;
        let ready_below = if refused { 0 } else { task.registered.layers().end };
        task.progress.send_replace(Progress { ready_below, ended: true });
        if let Some(error) = failed {
            return Err(error);
        }
        if refused {
            count(&task.core.counters.loads_failed, 1);
            return Err(incomplete(&loaded));
        }
        if !complete {
            count(&task.core.counters.loads_recomputed, 1);
        }
        Ok(loaded)
    }

    /// How many chunks are on their way at a time. Each holds all its staging until it is delivered in its turn, so they must fit the
    /// pool together; and one that waits for an object that is not there yet must not find the pool held by those behind it.
    fn width(&self) -> usize {
        if self.policy == LoadPolicy::Wait {
            return 1;
        }
        let parts = self.chunks.first().map_or(0, |chunk| self.staging_parts(chunk)).max(1);
        let cached = (BYTES_IN_FLIGHT / (parts * self.core.pool.part_bytes())).clamp(2, CHUNKS_IN_FLIGHT);
        // One more waits, so that while one is written no thread of the store waits for a chunk.
        (self.core.pool.parts() / parts).clamp(1, cached + 1)
    }

    /// Loads a chunk and delivers it in its turn; a chunk that fails ends those behind it.
    async fn load_in_turn(&self, number: usize) -> Result<Result<Delivered, ChunkFailure>> {
        let (limits, turns) = (&self.limits, &self.turns);
        let result = self.load_or_wait(number).await;
        if matches!(result, Ok(Ok(_))) {
            self.verified.pass(number);
            turns.pass(number);
        } else {
            // What comes before may still be delivered. What comes behind is ended, and its turn never comes.
            let _ = turns.wait(limits, number).await;
            limits.end();
        }
        result
    }

    /// Loads a chunk; under the policy `Wait`, again and again until it is there.
    async fn load_or_wait(&self, number: usize) -> Result<Result<Delivered, ChunkFailure>> {
        let limits = &self.limits;
        let mut missing = None;
        loop {
            let failure = match self.load_chunk(number).await? {
                Ok(delivered) => return Ok(Ok(delivered)),
                Err(failure) => failure,
            };
            let failure = match failure.reason {
                StopReason::NotFound if self.policy == LoadPolicy::Wait => failure,
                // What was missing until the deadline is what the caller wants to know.
                StopReason::Deadline => return Ok(Err(missing.unwrap_or(failure))),
                _ => return Ok(Err(failure)),
            };
            count(&self.core.counters.load_waits, 1);
            match limits.pause(WAIT_PAUSE).await {
                Ok(()) => missing = Some(failure),
                Err(Stop::Deadline) => return Ok(Err(failure)),
                Err(stop) => return Err(stop.into()),
            }
        }
    }
}

/// The error of a load whose policy is to fail.
fn incomplete(loaded: &Loaded) -> Error {
    let reasons: Vec<String> = loaded.failures.iter().map(ToString::to_string).collect();
    let Loaded { tokens, requested, .. } = loaded;
    Error::new(
        ErrorKind::Incomplete,
        format!("{tokens} of {requested} tokens were loaded: {}", reasons.join("; ")),
    )
}
