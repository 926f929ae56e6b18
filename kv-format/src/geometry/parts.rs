//! What a [`Geometry`](super::Geometry) is made of, and the short form for plain attention.

use std::ops::Range;

use super::PagingLayout;
use crate::{Dtype, LayerSet, RopePairing, Scales, TensorKind};

/// Which of several ranks that hold the same KV heads this one is (tensor parallelism above the number of KV heads).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Replica {
    /// From 0, below `count`.
    pub index: u32,
    /// 1 if no other rank holds these heads.
    pub count: u32,
}

impl Replica {
    /// The only holder.
    pub const ONLY: Self = Self { index: 0, count: 1 };

    /// Whether this replica writes a slice of the chunk: one of them does, in turns.
    pub fn writes(&self, chunk_index: u32) -> bool {
        chunk_index % self.count == self.index
    }
}

/// Where one tensor of one layer begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TensorBase {
    /// Index of the registered region.
    pub region: u32,
    /// Byte offset of element (block 0, token 0, head 0, dim 0).
    pub offset: u64,
}

/// The tensors of one kind, one in each layer.
///
/// How many rows and heads a block of it has follows from the kind: a row per token; for a recurrent state one row per block, which is
/// a chunk's; for scales that do not depend on the token one row that belongs to no block, of all heads or of one for all.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct TensorGeometry {
    /// What the tensors hold.
    pub kind: TensorKind,
    /// Elements of a head; 1 for scales.
    pub dim: u32,
    /// How each of them is paged.
    pub paging: PagingLayout,
    /// Where each begins, in the order of the geometry's layers.
    pub bases: Vec<TensorBase>,
}

/// The parts of a [`Geometry`](super::Geometry): one KV group on one rank.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct GeometryParts {
    /// Index of the KV group in the namespace.
    pub group: u32,
    /// Type of an element.
    pub dtype: Dtype,
    /// Which elements of a head are rotated together.
    pub rope: RopePairing,
    /// Layers of the model that this rank holds of the group (pipeline parallelism).
    pub layers: LayerSet,
    /// KV heads of the model that this rank holds (tensor parallelism).
    pub heads: Range<u32>,
    /// Which of the ranks with these heads this one is.
    pub replica: Replica,
    /// Tokens of a block; for a recurrent state, tokens from one state to the next: the namespace's chunk.
    pub block_tokens: u32,
    /// Blocks of every tensor; block ids are below.
    pub blocks: u32,
    /// Scales that the engine keeps beside the elements.
    pub scales: Option<Scales>,
    /// The tensors, in the order of their kinds.
    pub tensors: Vec<TensorGeometry>,
    /// Length in bytes of each region that the engine registers; the same for all geometries of a rank.
    pub regions: Vec<u64>,
}

/// The parts of a geometry of plain attention: KV group 0, K and V, no scales.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct AttentionParts {
    /// Type of an element.
    pub dtype: Dtype,
    /// Which elements of a head are rotated together.
    pub rope: RopePairing,
    /// Layers of the model that this rank holds (pipeline parallelism).
    pub layers: Range<u32>,
    /// KV heads of the model that this rank holds (tensor parallelism).
    pub heads: Range<u32>,
    /// Which of the ranks with these heads this one is.
    pub replica: Replica,
    /// Elements of a head of K.
    pub key_dim: u32,
    /// Elements of a head of V.
    pub value_dim: u32,
    /// Tokens of a block.
    pub block_tokens: u32,
    /// Blocks of every tensor; block ids are below.
    pub blocks: u32,
    /// How each K is paged.
    pub key: PagingLayout,
    /// How each V is paged.
    pub value: PagingLayout,
    /// For each layer of `layers` its K, then its V.
    pub tensors: Vec<TensorBase>,
    /// Length in bytes of each region that the engine registers.
    pub regions: Vec<u64>,
}

impl From<AttentionParts> for GeometryParts {
    fn from(parts: AttentionParts) -> Self {
        let bases = |skip| parts.tensors.iter().skip(skip).step_by(2).copied().collect();
        let (keys, values) = (bases(0), bases(1));
        let tensors = vec![
            TensorGeometry { kind: TensorKind::Key, dim: parts.key_dim, paging: parts.key, bases: keys },
            TensorGeometry {
                kind: TensorKind::Value,
                dim: parts.value_dim,
                paging: parts.value,
                bases: values,
            },
        ];
        Self {
            group: 0,
            dtype: parts.dtype,
            rope: parts.rope,
            layers: parts.layers.into(),
            heads: parts.heads,
            replica: parts.replica,
            block_tokens: parts.block_tokens,
            blocks: parts.blocks,
            scales: None,
            tensors,
            regions: parts.regions,
        }
    }
}
