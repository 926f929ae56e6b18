//! Random geometries for property tests.

use std::ops::Range;

use proptest::prelude::*;

use crate::*;

/// What of the model a geometry covers.
#[derive(Debug, Clone)]
pub struct Shape {
    /// Layers of the model.
    pub layers: Range<u32>,
    /// KV heads of the model.
    pub heads: Range<u32>,
    /// Elements of a head, K and V.
    pub dim: u32,
    /// Type of an element.
    pub dtype: Dtype,
}

/// An affine layout with any order of dims, optional splits of token, head and dim, and optional gaps between steps.
pub fn paging(block_tokens: u32, heads: u32, dim: u32) -> impl Strategy<Value = PagingLayout> {
    let divisor = |n: u32| prop::sample::select((1..=n).filter(|d| n.is_multiple_of(*d)).collect::<Vec<_>>());
    (
        divisor(block_tokens),
        divisor(heads),
        divisor(dim),
        Just([0, 1, 2, 3, 4, 5]).prop_shuffle(),
        prop::array::uniform7(0..3_u64),
    )
        .prop_map(move |(t, h, d, order, gaps)| {
            // Six inner dims: token, head and dim, each as (group, within the group); strides are handed out innermost first.
            let counts = [block_tokens / t, t, heads / h, h, dim / d, d];
            let (mut strides, mut span) = ([0; 6], 1);
            for (position, which) in order.into_iter().enumerate() {
                strides[which] = span + if counts[which] > 1 { gaps[position] } else { 0 };
                span += strides[which] * u64::from(counts[which] - 1);
            }
            let axis = |inner: u32, outer: usize| Axis::split(inner, strides[outer], strides[outer + 1]);
            PagingLayout {
                block_stride: span + gaps[6],
                token: axis(t, 0),
                head: axis(h, 2),
                dim: axis(d, 4),
            }
        })
}

/// A rank's geometry and the blocks of its sequence.
pub type Engine = (Geometry, Vec<u32>);

/// A random rank geometry of plain attention with its blocks in random places, each tensor in a region of its own behind a random
/// offset.
pub fn geometry(shape: Shape, tokens: u32) -> impl Strategy<Value = Engine> {
    let rule = GroupRule::FullAttention { key_dim: shape.dim, value_dim: shape.dim };
    let group = KvGroup { dtype: Some(shape.dtype), ..KvGroup::new(rule, shape.layers, shape.heads.end) };
    group_geometry(0, group, shape.heads, 16, tokens)
}

/// As [`geometry`], of any KV group, in the group's dtype (bf16 unless given): `heads` are the rank's. A state follows every
/// `chunk_tokens`.
pub fn group_geometry(
    index: u32,
    group: KvGroup,
    heads: Range<u32>,
    chunk_tokens: u32,
    tokens: u32,
) -> impl Strategy<Value = Engine> {
    let is_state = matches!(group.rule, GroupRule::RecurrentState { .. });
    let sizes = if is_state { vec![chunk_tokens] } else { vec![1, 2, 3, 8, 16, 24, 128] };
    prop::sample::select(sizes)
        .prop_flat_map(move |block_tokens| {
            let needed = tokens.div_ceil(block_tokens);
            let ids = Just((0..needed + 3).collect::<Vec<u32>>()).prop_shuffle();
            let granularity = group.scales.map(|scales| scales.granularity);
            let count = u32::try_from(heads.len()).unwrap();
            let layouts: Vec<_> = group
                .tensors()
                .into_iter()
                .map(|(kind, dim)| {
                    let [rows, heads, dim] = kind.shape(granularity, block_tokens, count, dim);
                    (Just(kind), paging(rows, heads, dim))
                })
                .collect();
            (Just(group.clone()), Just(heads.clone()), Just(block_tokens), layouts, ids, 0..64_u64)
        })
        .prop_map(move |(group, heads, block_tokens, layouts, ids, offset)| {
            let blocks = tokens.div_ceil(block_tokens) + 3;
            let dtype = group.dtype.unwrap_or(Dtype::Bf16);
            let mut regions = Vec::new();
            let dims = group.tensors();
            let tensors = layouts.into_iter().zip(dims).map(|((kind, paging), (_, dim))| {
                let bytes = match group.scales {
                    Some(scales) if kind.is_scale() => scales.dtype.bytes(),
                    _ => dtype.bytes(),
                };
                let place = |_| {
                    regions.push(offset + (paging.block_stride * u64::from(blocks) + 1) * u64::from(bytes));
                    TensorBase { region: u32::try_from(regions.len() - 1).unwrap(), offset }
                };
                TensorGeometry { kind, dim, paging, bases: group.layers.iter().map(place).collect() }
            });
            let tensors = tensors.collect();
            let geometry = Geometry::new(GeometryParts {
                group: index,
                dtype,
                rope: RopePairing::RotateHalf,
                layers: group.layers.clone(),
                heads,
                replica: Replica::ONLY,
                block_tokens,
                blocks,
                scales: group.scales,
                tensors,
                regions,
            });
            (geometry.unwrap(), ids)
        })
}

/// One rank's memory for several KV groups, each in regions behind those of the groups before.
pub fn together(engines: Vec<Engine>) -> (Vec<Geometry>, Vec<Vec<u32>>) {
    let regions: Vec<u64> = engines.iter().flat_map(|(geometry, _)| geometry.regions.clone()).collect();
    let mut first = 0;
    let mut rank = (Vec::new(), Vec::new());
    for (geometry, blocks) in engines {
        let mut parts = (*geometry).clone();
        for base in parts.tensors.iter_mut().flat_map(|tensor| &mut tensor.bases) {
            base.region += first;
        }
        first += u32::try_from(parts.regions.len()).unwrap();
        rank.0.push(Geometry::new(GeometryParts { regions: regions.clone(), ..parts }).unwrap());
        rank.1.push(blocks);
    }
    Geometry::check_together(&rank.0).unwrap();
    rank
}
