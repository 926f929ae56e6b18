//! The engines that are enumerated: a named layout, the KV groups of a model, and what each rank holds of them.

use std::ops::Range;

use kv_format::reference::{builder, together};
use kv_format::*;

use crate::{CHUNK, DTYPE, TOKENS};

/// A layout as one engine has it, with all KV groups of a model.
#[derive(Debug, Clone)]
pub(crate) struct Engine {
    pub(crate) layout: EngineLayout,
    pub(crate) groups: Vec<KvGroup>,
    pub(crate) padded: bool,
}

/// The ranks of one engine that share a model.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Parallelism {
    pub(crate) tensor: u32,
    pub(crate) pipeline: u32,
}

/// One of these ranks: its pipeline stage, and its place in the stage.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place {
    stage: u32,
    rank: u32,
}

impl Parallelism {
    /// Every one that shards or replicates the heads of all groups.
    pub(crate) fn all(groups: &[KvGroup]) -> Vec<Self> {
        let legal = (1..=16_u32).filter(|tensor| {
            let of = |heads: u32| heads.is_multiple_of(*tensor) || tensor.is_multiple_of(heads);
            groups.iter().all(|group| of(group.kv_heads))
        });
        legal.flat_map(|tensor| [1, 2, 4].map(|pipeline| Self { tensor, pipeline })).collect()
    }

    pub(crate) fn ranks(self) -> Vec<Place> {
        (0..self.pipeline).flat_map(|stage| (0..self.tensor).map(move |rank| Place { stage, rank })).collect()
    }

    /// KV heads of a group that a rank holds, and which of those with the same heads it is.
    fn share(self, group: &KvGroup, place: Place) -> (Range<u32>, Replica) {
        let (count, heads) = (self.tensor.div_ceil(group.kv_heads), group.kv_heads.div_ceil(self.tensor));
        let first = place.rank * group.kv_heads / self.tensor;
        (first..first + heads, Replica { index: place.rank % count, count })
    }
}

impl Engine {
    /// A model with one KV group of four layers.
    pub(crate) fn of_one_group(layout: EngineLayout, rule: GroupRule, kv_heads: u32, padded: bool) -> Self {
        Self { layout, groups: vec![KvGroup::new(rule, 0..4, kv_heads)], padded }
    }

    fn layers(&self) -> u32 {
        self.groups.iter().map(|group| group.layers.bounds().end).max().unwrap()
    }

    pub(crate) fn namespace(&self, parallelism: Parallelism) -> Namespace {
        let mut model = builder(1, 1, 1).build().unwrap().model().clone();
        model.groups = self.groups.clone();
        let stages: Vec<u32> =
            (0..parallelism.pipeline).map(|stage| stage * self.layers() / parallelism.pipeline).collect();
        Namespace::builder(model)
            .dtype(DTYPE)
            .chunk_tokens(CHUNK)
            .tensor_parallel(&[parallelism.tensor])
            .pipeline_stages(&stages)
            .build()
            .unwrap()
    }

    /// A rank's geometries, one for each group, with the blocks of a sequence in each.
    pub(crate) fn rank(
        &self,
        parallelism: Parallelism,
        place: Place,
    ) -> Result<(Vec<Geometry>, Vec<Vec<u32>>)> {
        let per_stage = self.layers() / parallelism.pipeline;
        let stage = place.stage * per_stage..(place.stage + 1) * per_stage;
        let groups = (0..).zip(&self.groups).map(|(index, group)| {
            let (heads, replica) = parallelism.share(group, place);
            let geometry = self.memory(index, group.layers.within(stage.clone()), heads, replica)?;
            let blocks = blocks(&geometry);
            Ok((geometry, blocks))
        });
        Ok(together(groups.collect::<Result<_>>()?))
    }

    /// Whether the engine can have these extents at all.
    pub(crate) fn is_possible(&self) -> bool {
        self.memory(0, LayerSet::from(0..1), 0..1, Replica::ONLY).is_ok()
    }

    fn memory(&self, index: u32, layers: LayerSet, heads: Range<u32>, replica: Replica) -> Result<Geometry> {
        let group = &self.groups[index as usize];
        let dtype = group.dtype.unwrap_or(DTYPE);
        // Gaudi's blocks are larger than a chunk, the others' smaller (of 1-byte elements as large, since 16 bytes are one group of
        // tokens), and neither divides what is stored.
        let block_tokens = match self.layout {
            EngineLayout::VllmGaudi | EngineLayout::VllmGaudiMla => 32,
            _ if dtype.bytes() == 1 => 16,
            _ => 8,
        };
        let elements: u32 =
            group.tensors().iter().filter(|(kind, _)| !kind.is_scale()).map(|(_, dim)| dim).sum();
        let content = u64::from(block_tokens * elements * dtype.bytes()) * heads.len() as u64;
        let rank = RankShape {
            group: index,
            rule: group.rule,
            dtype,
            rope: RopePairing::RotateHalf,
            layers,
            heads,
            replica,
            block_tokens,
            blocks: TOKENS.div_ceil(block_tokens) + 2 + index,
            page_bytes: self.padded.then_some(content + 48),
        };
        let geometry = self.layout.memory(&rank)?.geometry;
        group.scales.map_or(Ok(geometry.clone()), |scales| with_scales(&geometry, scales))
    }
}

/// The same with a scale for each (token, head), each layer's in regions of their own: those of K token by token, those of V head by
/// head.
fn with_scales(geometry: &Geometry, scales: Scales) -> Result<Geometry> {
    assert_eq!(scales.granularity, ScaleGranularity::PerTokenHead);
    let mut parts: GeometryParts = (**geometry).clone();
    let (tokens, heads) = (parts.block_tokens, geometry.head_count());
    for (kind, paging) in [
        (TensorKind::KeyScale, PagingLayout::token_major(tokens, heads, 1)),
        (TensorKind::ValueScale, PagingLayout::head_major(tokens, heads, 1)),
    ] {
        let bytes = u64::from(parts.blocks) * paging.block_stride * u64::from(scales.dtype.bytes());
        let first = u32::try_from(parts.regions.len()).unwrap();
        let bases = (first..).zip(parts.layers.iter()).map(|(region, _)| TensorBase { region, offset: 0 });
        let bases: Vec<TensorBase> = bases.collect();
        parts.regions.extend(bases.iter().map(|_| bytes));
        parts.tensors.push(TensorGeometry { kind, dim: 1, paging, bases });
    }
    parts.scales = Some(scales);
    Geometry::new(parts)
}

/// Ids of a sequence's blocks: not in order, not from the first.
fn blocks(geometry: &Geometry) -> Vec<u32> {
    (0..TOKENS.div_ceil(geometry.block_tokens))
        .map(|index| geometry.blocks - 1 - index * 2 % geometry.blocks)
        .collect()
}
