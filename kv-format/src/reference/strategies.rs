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

/// A random rank geometry with its blocks in random places, each tensor in a region of its own behind a random offset.
pub fn geometry(shape: Shape, tokens: u32) -> impl Strategy<Value = Engine> {
    let heads = u32::try_from(shape.heads.len()).unwrap();
    prop::sample::select(vec![1, 2, 3, 8, 16, 24, 128])
        .prop_flat_map(move |block_tokens| {
            let needed = tokens.div_ceil(block_tokens);
            let ids = Just((0..needed + 3).collect::<Vec<u32>>()).prop_shuffle();
            (
                Just(block_tokens),
                paging(block_tokens, heads, shape.dim),
                paging(block_tokens, heads, shape.dim),
                ids,
                0..64_u64,
            )
        })
        .prop_map(move |(block_tokens, key, value, ids, offset)| {
            let blocks = tokens.div_ceil(block_tokens) + 3;
            let bytes = u64::from(shape.dtype.bytes());
            let tensors = 2 * u32::try_from(shape.layers.len()).unwrap();
            let len = |layout: &PagingLayout| offset + (layout.block_stride * u64::from(blocks) + 1) * bytes;
            let geometry = Geometry::new(GeometryParts {
                dtype: shape.dtype,
                rope: RopePairing::RotateHalf,
                layers: shape.layers.clone(),
                heads: shape.heads.clone(),
                replica: Replica::ONLY,
                key_dim: shape.dim,
                value_dim: shape.dim,
                block_tokens,
                blocks,
                key,
                value,
                tensors: (0..tensors).map(|region| TensorBase { region, offset }).collect(),
                regions: (0..tensors).map(|i| if i % 2 == 0 { len(&key) } else { len(&value) }).collect(),
            });
            (geometry.unwrap(), ids)
        })
}
