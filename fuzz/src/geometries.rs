//! Geometries from a stream of numbers: plain attention, tensors of any kinds, and the engines' layouts by name.

use super::groups::{dtype, layers, rule, scales};
use super::numbers::Numbers;
use kv_format::*;

fn axis(numbers: &mut Numbers<'_>) -> Axis {
    let stride = numbers.u64();
    match numbers.byte() % 3 {
        0 => Axis::split(numbers.u32(), numbers.u64(), stride),
        _ => Axis::strided(stride),
    }
}

/// Free strides, or one of the engines' layouts.
fn paging(numbers: &mut Numbers<'_>, tokens: u32, heads: u32, dim: u32) -> PagingLayout {
    // The constructors' products are the caller's to keep within u64.
    let (tokens, heads, dim) = (tokens.min(1 << 20), heads.min(1 << 20), dim.min(1 << 20));
    let mut layout = match numbers.byte() % 8 {
        0 => PagingLayout::token_major(tokens, heads, dim),
        1 => PagingLayout::head_major(tokens, heads, dim),
        2 => PagingLayout::x_packed(tokens, heads, dim, 1 << (numbers.byte() % 5)),
        3 => PagingLayout::transposed(tokens, heads, dim),
        _ => {
            let block_stride = numbers.u64();
            let (token, head, dim) = (axis(numbers), axis(numbers), axis(numbers));
            PagingLayout { block_stride, token, head, dim }
        }
    };
    if numbers.byte() % 4 == 1 {
        layout.block_stride = numbers.u64();
    }
    layout
}

fn replica(numbers: &mut Numbers<'_>) -> Replica {
    Replica { index: numbers.u32(), count: numbers.u32().max(1) }
}

/// K and V of one range of layers.
pub fn attention(numbers: &mut Numbers<'_>) -> Result<Geometry> {
    let layers = numbers.u32()..numbers.u32();
    let heads = numbers.u32()..numbers.u32();
    let (key_dim, value_dim, block_tokens, blocks) =
        (numbers.u32(), numbers.u32(), numbers.u32(), numbers.u32());
    let count = heads.end.saturating_sub(heads.start);
    let key = paging(numbers, block_tokens, count, key_dim);
    let value = paging(numbers, block_tokens, count, value_dim);
    let regions: Vec<u64> = (0..numbers.byte() % 5).map(|_| numbers.u64()).collect();
    let one_each = numbers.byte().is_multiple_of(2);
    let wanted = 2 * u32::try_from(layers.len().min(8)).unwrap_or_default() + u32::from(numbers.byte() == 1);
    let tensors = (0..wanted).map(|index| {
        let region = if one_each { index } else { u32::from(numbers.byte() % 5) };
        TensorBase { region, offset: numbers.u64() }
    });
    Geometry::new(AttentionParts {
        tensors: tensors.collect(),
        dtype: dtype(numbers),
        rope: RopePairing::RotateHalf,
        layers,
        heads,
        replica: replica(numbers),
        key_dim,
        value_dim,
        block_tokens,
        blocks,
        key,
        value,
        regions,
    })
}

/// The kinds of one family with or without scales, or any.
fn kinds(numbers: &mut Numbers<'_>, scaled: bool) -> Vec<TensorKind> {
    let family: &[TensorKind] = match numbers.byte() % 8 {
        0 | 1 => &TensorKind::BOTH,
        2 | 3 => &[TensorKind::Latent],
        4 => &[TensorKind::Index],
        5 | 6 => &[TensorKind::State],
        _ => {
            let any = |numbers: &mut Numbers<'_>| TensorKind::ALL[usize::from(numbers.byte() % 9)];
            return (0..numbers.byte() % 5).map(|_| any(numbers)).collect();
        }
    };
    let scales = family.iter().filter_map(|kind| kind.scale()).filter(|_| scaled);
    family.iter().copied().chain(scales).collect()
}

/// A KV group of any kinds, on layers that need not be neighbours, in memory that groups may share.
pub fn group(numbers: &mut Numbers<'_>, regions: &[u64]) -> Result<Geometry> {
    let (layers, heads, scales) = (layers(numbers), numbers.u32()..numbers.u32(), scales(numbers));
    let (block_tokens, blocks) = (numbers.u32(), numbers.u32());
    let count = heads.end.saturating_sub(heads.start);
    let bases = layers.count().min(8) + u32::from(numbers.byte() == 1);
    let one_each = numbers.byte().is_multiple_of(2);
    let mut region = 0;
    let mut tensors = Vec::new();
    for kind in kinds(numbers, scales.is_some()) {
        let dim = if kind.is_scale() && numbers.byte() != 1 { 1 } else { numbers.u32() };
        let rows = if kind == TensorKind::State { 1 } else { block_tokens };
        let paging = paging(numbers, rows, count, dim);
        let mut base = || {
            region = if one_each { region + 1 } else { u32::from(numbers.byte() % 5) };
            TensorBase { region: region.saturating_sub(1), offset: numbers.u64() }
        };
        let bases = (0..bases).map(|_| base()).collect();
        tensors.push(TensorGeometry { kind, dim, paging, bases });
    }
    Geometry::new(GeometryParts {
        group: u32::from(numbers.byte() % 3),
        dtype: dtype(numbers),
        rope: RopePairing::Interleaved,
        layers,
        heads,
        replica: replica(numbers),
        block_tokens,
        blocks,
        scales,
        tensors,
        regions: regions.to_vec(),
    })
}

/// An engine's layout by name, for a rank of any extents.
pub fn named(numbers: &mut Numbers<'_>) -> Result<Geometry> {
    let layout = EngineLayout::ALL[usize::from(numbers.byte()) % EngineLayout::ALL.len()];
    let rule = match (numbers.byte() % 4, layout.kinds()) {
        (0, _) => rule(numbers),
        (_, [TensorKind::Latent]) => {
            GroupRule::MlaLatent { latent_dim: numbers.u32(), rope_dim: numbers.u32() }
        }
        _ => GroupRule::FullAttention { key_dim: numbers.u32(), value_dim: numbers.u32() },
    };
    let layers = layers(numbers);
    let (group, dtype) = (numbers.u32(), dtype(numbers));
    let (heads, replica) = (numbers.u32()..numbers.u32(), replica(numbers));
    let (block_tokens, blocks, choice) = (numbers.u32(), numbers.u32(), numbers.byte());
    // That tensors which take turns are apart is proved token by token and head by head: mostly of few, so that many are tried.
    let few = choice < 250;
    let most = |extent: u32, most: u32| if few { extent % most } else { extent };
    let shape = RankShape {
        group,
        rule,
        dtype,
        rope: RopePairing::RotateHalf,
        // Bases and regions are listed one by one: how many is the caller's to choose.
        layers: layers.iter().take(if few { 3 } else { 16 }).collect(),
        heads: heads.start..heads.start.saturating_add(most(heads.end.saturating_sub(heads.start), 9)),
        replica,
        block_tokens: most(block_tokens, 33),
        blocks,
        page_bytes: (choice % 4 == 1).then(|| numbers.u64()),
    };
    let memory = layout.memory(&shape)?;
    let (geometry, regions) = (memory.geometry, memory.regions);
    assert!(geometry.regions.iter().copied().eq(regions.iter().map(|region| region.bytes)));
    assert!(geometry.kinds().eq(layout.kinds().iter().copied()));
    assert!(geometry.layers == shape.layers && geometry.heads == shape.heads);
    assert!((shape.blocks..=shape.blocks.saturating_add(1)).contains(&geometry.blocks));
    Ok(geometry)
}
