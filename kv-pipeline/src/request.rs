//! What callers ask for: which tokens, in which blocks, until when, and what to do when the store cannot serve.

use std::sync::Arc;
use std::time::Duration;

use kv_device::Fence;
use kv_format::{Chunk, Extra, Geometry, Namespace, chunks};

use crate::blocks::GroupBlocks;
use crate::{Error, Handoff, Registered, Result};

/// Deadline of a save or a load unless the request says otherwise.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(30);

/// A save: the KV of `tokens`, which lies in `blocks`.
#[derive(Debug, Clone)]
#[must_use]
pub struct SaveRequest<'a> {
    pub(crate) tokens: &'a [u32],
    pub(crate) extras: &'a [Extra],
    pub(crate) blocks: GroupBlocks<'a>,
    pub(crate) tail: bool,
    pub(crate) after: Option<Arc<dyn Fence>>,
    pub(crate) timeout: Duration,
}

impl<'a> SaveRequest<'a> {
    /// A save of a sequence from its first token. Full chunks are saved; see [`with_tail`](Self::with_tail) for the rest.
    pub fn new(tokens: &'a [u32]) -> Self {
        Self {
            tokens,
            extras: &[],
            blocks: GroupBlocks::default(),
            tail: false,
            after: None,
            timeout: DEFAULT_TIMEOUT,
        }
    }

    /// Block ids of the sequence in KV group 0: token `t` lies in block `blocks[t / block size]`.
    pub fn blocks(self, blocks: &'a [u32]) -> Self {
        self.group_blocks(0, blocks)
    }

    /// Block ids of the sequence in one KV group. In a group of recurrent states, the state after chunk `i` lies in block `blocks[i]`.
    pub fn group_blocks(mut self, group: u32, blocks: &'a [u32]) -> Self {
        self.blocks.set(group, blocks);
        self
    }

    /// Inputs that the token ids do not determine, in order of position.
    pub fn extras(mut self, extras: &'a [Extra]) -> Self {
        self.extras = extras;
        self
    }

    /// Saves the short last chunk too. Only a request record leads a consumer to it.
    pub fn with_tail(mut self) -> Self {
        self.tail = true;
        self
    }

    /// Waits until the engine has reached this fence before its memory is read.
    pub fn after(mut self, fence: Arc<dyn Fence>) -> Self {
        self.after = Some(fence);
        self
    }

    /// Time after which the save gives up; 30 s unless given.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }
}

/// What a load does when it cannot deliver everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum LoadPolicy {
    /// Deliver the longest verified prefix; the engine computes the rest.
    #[default]
    Recompute,
    /// Fail with [`Incomplete`](crate::ErrorKind::Incomplete) unless everything was delivered.
    Fail,
    /// Wait for objects that are not there yet until the deadline, then deliver the longest verified prefix.
    Wait,
}

/// When a load writes the engine's blocks. Whatever is written was verified before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Delivery {
    /// A chunk's blocks are written once all of the chunk was verified: those of a chunk that fails hold what they held before. Staging
    /// holds the chunk meanwhile; if it cannot, the chunk is read twice.
    #[default]
    WholeChunk,
    /// A part of a chunk is written as soon as it was verified, by the thread that read it where store and device allow: fastest, and
    /// staging holds a part or two. Blocks of a chunk that fails, and of those behind it, may hold some of their (verified) KV.
    AsVerified,
}

/// A load: the KV of `tokens` into `blocks`.
#[derive(Debug, Clone)]
#[must_use]
pub struct LoadRequest<'a> {
    pub(crate) tokens: &'a [u32],
    pub(crate) extras: &'a [Extra],
    pub(crate) blocks: GroupBlocks<'a>,
    pub(crate) handoff: Option<&'a Handoff>,
    pub(crate) policy: LoadPolicy,
    pub(crate) delivery: Delivery,
    pub(crate) after: Option<Arc<dyn Fence>>,
    pub(crate) timeout: Duration,
}

impl<'a> LoadRequest<'a> {
    /// A load of a sequence from its first token. Full chunks are loaded; see [`handoff`](Self::handoff) for the rest.
    pub fn new(tokens: &'a [u32]) -> Self {
        let (policy, delivery) = (LoadPolicy::default(), Delivery::default());
        Self {
            tokens,
            extras: &[],
            blocks: GroupBlocks::default(),
            handoff: None,
            policy,
            delivery,
            after: None,
            timeout: DEFAULT_TIMEOUT,
        }
    }

    /// Block ids of the sequence in KV group 0: token `t` goes to block `blocks[t / block size]`.
    pub fn blocks(self, blocks: &'a [u32]) -> Self {
        self.group_blocks(0, blocks)
    }

    /// Block ids of the sequence in one KV group. In a group of recurrent states, the state after chunk `i` goes to block `blocks[i]`.
    pub fn group_blocks(mut self, group: u32, blocks: &'a [u32]) -> Self {
        self.blocks.set(group, blocks);
        self
    }

    /// Inputs that the token ids do not determine, in order of position.
    pub fn extras(mut self, extras: &'a [Extra]) -> Self {
        self.extras = extras;
        self
    }

    /// The hand-off that this load completes: its tail is loaded too.
    pub fn handoff(mut self, handoff: &'a Handoff) -> Self {
        self.handoff = Some(handoff);
        self
    }

    /// What to do when not everything can be delivered.
    pub fn policy(mut self, policy: LoadPolicy) -> Self {
        self.policy = policy;
        self
    }

    /// When the engine's blocks are written.
    pub fn delivery(mut self, delivery: Delivery) -> Self {
        self.delivery = delivery;
        self
    }

    /// Waits until the engine has reached this fence before its memory is written.
    pub fn after(mut self, fence: Arc<dyn Fence>) -> Self {
        self.after = Some(fence);
        self
    }

    /// Time after which the load gives up; 30 s unless given.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }
}

/// A lookup: how much of `tokens` the store seems to hold.
#[derive(Debug, Clone)]
#[must_use]
pub struct LookupRequest<'a> {
    pub(crate) tokens: &'a [u32],
    pub(crate) extras: &'a [Extra],
    pub(crate) timeout: Duration,
}

impl<'a> LookupRequest<'a> {
    /// A lookup of the full chunks of a sequence.
    pub fn new(tokens: &'a [u32]) -> Self {
        Self { tokens, extras: &[], timeout: DEFAULT_TIMEOUT }
    }

    /// Inputs that the token ids do not determine, in order of position.
    pub fn extras(mut self, extras: &'a [Extra]) -> Self {
        self.extras = extras;
        self
    }

    /// Time after which the lookup answers with what it has found; 30 s unless given.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }
}

/// Chunks of a sequence, checked against the blocks that were given for it. The tail is kept if `keep_tail` says so.
pub(crate) fn planned_chunks(
    namespace: &Namespace,
    registered: &Registered,
    (tokens, extras, blocks): (&[u32], &[Extra], &GroupBlocks<'_>),
    keep_tail: impl FnOnce(&Chunk) -> bool,
) -> Result<Vec<Chunk>> {
    let mut planned = chunks(namespace, tokens, extras)?;
    planned.pop_if(|last| last.tail && !keep_tail(last));
    let covered = planned.last().map_or(0, |last| last.tokens.end);
    for geometry in registered.geometries() {
        check_blocks(geometry, blocks.of(geometry.group), covered)?;
    }
    Ok(planned)
}

/// Whether the blocks can hold `covered` tokens of a sequence.
fn check_blocks(geometry: &Geometry, blocks: &[u32], covered: u32) -> Result<()> {
    let (group, per_block) = (geometry.group, geometry.block_tokens);
    let needed = covered.div_ceil(per_block) as usize;
    let Some(used) = blocks.get(..needed) else {
        return Err(Error::invalid(format!(
            "{covered} tokens of KV group {group} need {needed} blocks of {per_block} tokens, but {} block ids were given",
            blocks.len()
        )));
    };
    let mut used = used.to_vec();
    used.sort_unstable();
    if let Some(id) = used.last().filter(|id| **id >= geometry.blocks) {
        let blocks = geometry.blocks;
        return Err(Error::invalid(format!(
            "block id {id}: the geometry of KV group {group} has {blocks} blocks"
        )));
    }
    if let Some(pair) = used.windows(2).find(|pair| pair[0] == pair[1]) {
        return Err(Error::invalid(format!(
            "block id {} is given twice for one sequence in KV group {group}",
            pair[0]
        )));
    }
    Ok(())
}
