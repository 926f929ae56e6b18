//! What builds a named layout on a rank, and what comes out: extents in, a geometry and the regions to register out.

use std::ops::Range;

use crate::{Dtype, Geometry, GroupRule, LayerSet, Replica, RopePairing, TensorKind};

/// What of a rank its layout does not say: extents, and which part of the model it holds. One KV group; a rank with several has one for
/// each.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct RankShape {
    /// Index of the KV group in the namespace.
    pub group: u32,
    /// What the group's tensors are: attention of either kind for layouts of K and V, a latent for those of a latent.
    pub rule: GroupRule,
    /// Type of an element.
    pub dtype: Dtype,
    /// Which elements of a head are rotated together.
    pub rope: RopePairing,
    /// Layers of the model that this rank holds of the group (pipeline parallelism).
    pub layers: LayerSet,
    /// KV heads of the model that this rank holds (tensor parallelism); of a latent the one that there is.
    pub heads: Range<u32>,
    /// Which of the ranks with these heads this one is.
    pub replica: Replica,
    /// Tokens of a block: of a kernel's block where an engine cuts its own blocks further, and ids are then of those.
    pub block_tokens: u32,
    /// Blocks that the engine hands out, without a spare one that it allocates for padding.
    pub blocks: u32,
    /// Bytes from page to page where vLLM pads them (`page_size_padded`); `None` where it does not, and for other engines.
    pub page_bytes: Option<u64>,
}

/// An engine's memory of one KV group as it is registered and read.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct RankMemory {
    /// Where every element is. Its blocks are all ids that may hold tokens: with SGLang's page 0, without Gaudi's last block.
    pub geometry: Geometry,
    /// What to register, in the order of [`GeometryParts::regions`](crate::GeometryParts::regions).
    pub regions: Vec<RankRegion>,
}

/// One allocation of an engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RankRegion {
    /// What it holds.
    pub contents: RegionContents,
    /// Its length, spare blocks and padding included.
    pub bytes: u64,
}

/// What one allocation of an engine holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RegionContents {
    /// Every tensor of all layers of the rank.
    Rank,
    /// Every tensor of this layer of the model.
    Layer(u32),
    /// One tensor of this layer of the model.
    Tensor(u32, TensorKind),
}
