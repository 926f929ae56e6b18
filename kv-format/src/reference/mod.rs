//! A model's KV of which every element is known, in memory of any geometry: what tests of devices, stores and pipelines compare with.
//!
//! Behind the feature `reference`; not part of the stable API. Functions panic on descriptions that contradict themselves.

#![expect(clippy::unwrap_used, clippy::missing_panics_doc, reason = "test support fails by panicking")]

mod strategies;

use crate::*;
pub use strategies::{Engine, Shape, geometry, group_geometry, paging, together};

/// A small model's namespace, without planned parallelism: one slice per head.
pub fn namespace(layers: u32, heads: u32, dim: u32, chunk_tokens: u32) -> Namespace {
    builder(layers, heads, dim).chunk_tokens(chunk_tokens).build().unwrap()
}

/// As [`namespace`], to be changed before it is built.
pub fn builder(layers: u32, heads: u32, dim: u32) -> NamespaceBuilder {
    Namespace::builder(ModelIdentity {
        name: "test".into(),
        weights: InputDigest([3; 32]),
        adapters: vec![],
        weight_quantisation: "none".into(),
        rope_pairing: RopePairing::RotateHalf,
        rope_theta: 10_000.0,
        rope_scaling: "none".into(),
        groups: vec![KvGroup::full_attention(layers, heads, dim)],
    })
}

/// Deterministic bytes that differ at every element of the model's KV. `row` is the token; for a state the number of its chunk, for
/// static scales 0.
pub fn element(layer: u32, kind: TensorKind, row: u32, head: u32, dim: u32, bytes: u32) -> Vec<u8> {
    let mut state = u64::from(layer) << 48 ^ u64::from(kind.code()) << 40 ^ u64::from(row) << 20;
    state ^= u64::from(head) << 12 ^ u64::from(dim);
    let mixed = (state ^ 0x9e37_79b9_7f4a_7c15).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    (mixed ^ mixed >> 31).to_le_bytes()[..bytes as usize].to_vec()
}

/// The reference bytes of a section, from the definition of the order alone.
pub fn reference(geometry: &Geometry, range: &convert::SectionRange) -> Vec<u8> {
    let (kind, bytes) = (range.kind, geometry.dtype_of(range.kind).bytes());
    let rows = match kind {
        TensorKind::State => {
            range.tokens.start / geometry.block_tokens..range.tokens.end.div_ceil(geometry.block_tokens)
        }
        _ if geometry.is_static(kind) => 0..1,
        _ => range.tokens.clone(),
    };
    let per_tensor = geometry.is_static(kind)
        && geometry.scales.is_some_and(|scales| scales.granularity == ScaleGranularity::PerTensor);
    let heads = if per_tensor { 0..1 } else { range.heads.clone() };
    let mut section = Vec::new();
    for row in rows {
        for head in heads.clone() {
            for dim in 0..geometry.dim(kind) {
                section.extend(element(range.layer, kind, row, head, dim, bytes));
            }
        }
    }
    section
}

/// An engine's memory that holds the model's KV for `tokens` tokens; everything else is `0xEE`.
pub fn filled(geometry: &Geometry, blocks: &[u32], tokens: u32) -> Vec<Vec<u8>> {
    let mut regions: Vec<Vec<u8>> =
        geometry.regions.iter().map(|len| vec![0xEE; usize::try_from(*len).unwrap()]).collect();
    fill(geometry, blocks, tokens, &mut regions);
    regions
}

/// Writes one KV group of the model for `tokens` tokens into an engine's memory.
pub fn fill(geometry: &Geometry, blocks: &[u32], tokens: u32, regions: &mut [Vec<u8>]) {
    for layer in geometry.layers.clone() {
        for kind in geometry.kinds() {
            let (base, paging) = (geometry.tensor(layer, kind).unwrap(), geometry.paging(kind).unwrap());
            let bytes = geometry.dtype_of(kind).bytes();
            let mut put = |block, row_in_block, row, head, local| {
                for dim in 0..geometry.dim(kind) {
                    let index = paging.offset(block, row_in_block, local, dim);
                    let at = usize::try_from(base.offset + index * u64::from(bytes)).unwrap();
                    let value = element(layer, kind, row, head, dim, bytes);
                    regions[base.region as usize][at..at + value.len()].copy_from_slice(&value);
                }
            };
            let mut row = |block, row_in_block, row| {
                for (local, head) in (0..).zip(geometry.heads.clone()) {
                    put(block, row_in_block, row, head, local);
                }
            };
            let per_token = |row: &mut dyn FnMut(u32, u32, u32)| {
                for token in 0..tokens {
                    let block = blocks[(token / geometry.block_tokens) as usize];
                    row(block, token % geometry.block_tokens, token);
                }
            };
            match (kind, geometry.scales.map(|scales| scales.granularity)) {
                (TensorKind::State, _) => {
                    let chunks = tokens.div_ceil(geometry.block_tokens);
                    (0..chunks).for_each(|chunk| row(blocks[chunk as usize], 0, chunk));
                }
                (kind, Some(ScaleGranularity::PerTensor)) if kind.is_scale() => put(0, 0, 0, 0, 0),
                (kind, Some(ScaleGranularity::PerHead)) if kind.is_scale() => row(0, 0, 0),
                _ => per_token(&mut row),
            }
        }
    }
}
