//! Geometries in which elements lie in every way that engines place them, and what is moved of each.

use std::ops::Range;

use kv_format::{
    AttentionParts, Axis, Dtype, Geometry, PagingLayout, Replica, RopePairing, TensorBase, TensorKind,
};

use super::report::Failure;

/// Layers and heads of the model that the rank holds: not from 0, so that nobody mistakes a model's number for a rank's.
const LAYERS: Range<u32> = 3..5;
const FIRST_HEAD: u32 = 4;

/// A geometry with a name.
#[derive(Debug)]
pub(super) struct Layout {
    pub(super) name: &'static str,
    pub(super) geometry: Geometry,
}

/// What one transfer moves.
#[derive(Debug, Clone)]
pub(super) struct Portion {
    /// Block ids of the sequence, in order, scattered.
    pub(super) blocks: Vec<u32>,
    pub(super) tokens: Range<u32>,
    /// Heads of the model.
    pub(super) heads: Range<u32>,
}

/// Extents of a layout.
#[derive(Debug, Clone, Copy)]
struct Extents {
    dtype: Dtype,
    heads: u32,
    key_dim: u32,
    value_dim: u32,
    block_tokens: u32,
    blocks: u32,
}

/// Every layout of the suite.
pub(super) fn all() -> Result<Vec<Layout>, Failure> {
    let gaudi = extents(Dtype::Bf16, 2, 32, 128);
    let rocm = extents(Dtype::Bf16, 4, 32, 16);
    let fp8 = extents(Dtype::E4m3Fnuz, 2, 64, 16);
    let uneven = Extents { value_dim: 16, ..extents(Dtype::F32, 3, 24, 8) };
    let nhd = |e: Extents, dim| PagingLayout::token_major(e.block_tokens, e.heads, dim);
    let hnd = |e: Extents, dim| PagingLayout::head_major(e.block_tokens, e.heads, dim);
    let packed = |e: Extents, x| PagingLayout::x_packed(e.block_tokens, e.heads, e.key_dim, x);
    let transposed = |e: Extents| PagingLayout::transposed(e.block_tokens, e.heads, e.value_dim);
    Ok(vec![
        own_regions("token-major, block 128", gaudi, nhd(gaudi, 32), nhd(gaudi, 32))?,
        own_regions("head-major, block 16", rocm, hnd(rocm, 32), hnd(rocm, 32))?,
        own_regions("x-packed K and transposed V, 2 bytes", rocm, packed(rocm, 8), transposed(rocm))?,
        own_regions("x-packed K and transposed V, 1 byte", fp8, packed(fp8, 16), transposed(fp8))?,
        own_regions("K and V of different dims, 4 bytes", uneven, nhd(uneven, 24), transposed(uneven))?,
        own_regions("split axes", rocm, split_axes(rocm), split_axes(rocm))?,
        fused("K and V interleaved by block", rocm)?,
    ])
}

/// Whole blocks, parts of blocks, one token, some of the heads.
pub(super) fn portions(geometry: &Geometry) -> Vec<Portion> {
    let heads = geometry.heads.clone();
    let per_block = geometry.block_tokens;
    let blocks = vec![4, 0, 3, 1];
    let portion = |tokens, heads| Portion { blocks: blocks.clone(), tokens, heads };
    vec![
        portion(0..3 * per_block, heads.clone()),
        portion(per_block / 2 + 1..3 * per_block + 3, heads.clone()),
        portion(per_block + 2..per_block + 3, heads.clone()),
        portion(per_block - 3..2 * per_block + 1, heads.start + 1..heads.end),
        portion(3..per_block, heads.start..heads.start + 1),
    ]
}

fn extents(dtype: Dtype, heads: u32, dim: u32, block_tokens: u32) -> Extents {
    Extents { dtype, heads, key_dim: dim, value_dim: dim, block_tokens, blocks: 5 }
}

/// Tokens in groups of 4 and heads in groups of 2, with a gap after each block.
fn split_axes(e: Extents) -> PagingLayout {
    let (heads, dim, tokens) = (u64::from(e.heads), u64::from(e.key_dim), u64::from(e.block_tokens));
    // [block][token / 4][head / 2][token % 4][head % 2][dim], and 32 unused elements.
    PagingLayout {
        block_stride: tokens * heads * dim + 32,
        token: Axis::split(4, 4 * heads * dim, 2 * dim),
        head: Axis::split(2, 8 * dim, dim),
        dim: Axis::strided(1),
    }
}

/// Each tensor in a region of its own, behind some bytes that are not its own, and before some.
fn own_regions(
    name: &'static str,
    e: Extents,
    key: PagingLayout,
    value: PagingLayout,
) -> Result<Layout, Failure> {
    let (mut tensors, mut regions) = (Vec::new(), Vec::new());
    for (region, kind) in (0..).zip(LAYERS.flat_map(|_| TensorKind::BOTH)) {
        let stride = if kind == TensorKind::Key { key.block_stride } else { value.block_stride };
        let offset = 256 * (u64::from(region) + 1);
        let bytes = u64::from(e.blocks) * stride * u64::from(e.dtype.bytes());
        tensors.push(TensorBase { region, offset });
        regions.push(offset + bytes + 512);
    }
    layout(name, e, key, value, tensors, regions)
}

/// A region per layer: `[block][K, V][token][head][dim]`.
fn fused(name: &'static str, e: Extents) -> Result<Layout, Failure> {
    let mut paging = PagingLayout::token_major(e.block_tokens, e.heads, e.key_dim);
    let half = paging.block_stride * u64::from(e.dtype.bytes());
    paging.block_stride *= 2;
    let mut tensors = Vec::new();
    for (region, _) in (0..).zip(LAYERS) {
        tensors.extend([0, half].map(|offset| TensorBase { region, offset }));
    }
    let regions = vec![2 * half * u64::from(e.blocks); LAYERS.len()];
    layout(name, e, paging, paging, tensors, regions)
}

fn layout(
    name: &'static str,
    e: Extents,
    key: PagingLayout,
    value: PagingLayout,
    tensors: Vec<TensorBase>,
    regions: Vec<u64>,
) -> Result<Layout, Failure> {
    let geometry = Geometry::new(AttentionParts {
        dtype: e.dtype,
        rope: RopePairing::RotateHalf,
        layers: LAYERS,
        heads: FIRST_HEAD..FIRST_HEAD + e.heads,
        replica: Replica::ONLY,
        key_dim: e.key_dim,
        value_dim: e.value_dim,
        block_tokens: e.block_tokens,
        blocks: e.blocks,
        key,
        value,
        tensors,
        regions,
    })?;
    Ok(Layout { name, geometry })
}
