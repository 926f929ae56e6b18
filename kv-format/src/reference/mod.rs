//! A model's KV of which every element is known, in memory of any geometry: what tests of devices, stores and pipelines compare with.
//!
//! Behind the feature `reference`; not part of the stable API. Functions panic on descriptions that contradict themselves.

#![expect(clippy::unwrap_used, clippy::missing_panics_doc, reason = "test support fails by panicking")]

mod strategies;

use crate::*;
pub use strategies::{Engine, Shape, geometry, paging};

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

/// Deterministic bytes that differ at every element of the model's KV.
pub fn element(layer: u32, kind: TensorKind, token: u32, head: u32, dim: u32, bytes: u32) -> Vec<u8> {
    let mut state = u64::from(layer) << 48 ^ u64::from(kind.code()) << 40 ^ u64::from(token) << 20;
    state ^= u64::from(head) << 12 ^ u64::from(dim);
    let mixed = (state ^ 0x9e37_79b9_7f4a_7c15).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    (mixed ^ mixed >> 31).to_le_bytes()[..bytes as usize].to_vec()
}

/// The reference bytes of a section, from the definition of the order alone.
pub fn reference(geometry: &Geometry, range: &convert::SectionRange) -> Vec<u8> {
    let mut section = Vec::new();
    for token in range.tokens.clone() {
        for head in range.heads.clone() {
            for dim in 0..geometry.dim(range.kind) {
                section.extend(element(range.layer, range.kind, token, head, dim, geometry.dtype.bytes()));
            }
        }
    }
    section
}

/// An engine's memory that holds the model's KV for `tokens` tokens; everything else is `0xEE`.
pub fn filled(geometry: &Geometry, blocks: &[u32], tokens: u32) -> Vec<Vec<u8>> {
    let mut regions: Vec<Vec<u8>> =
        geometry.regions.iter().map(|len| vec![0xEE; usize::try_from(*len).unwrap()]).collect();
    for layer in geometry.layers.clone() {
        for kind in TensorKind::BOTH {
            let tensor = geometry.tensor(layer, kind).unwrap();
            for token in 0..tokens {
                let block = blocks[(token / geometry.block_tokens) as usize];
                for head in geometry.heads.clone() {
                    for dim in 0..geometry.dim(kind) {
                        let local = head - geometry.heads.start;
                        let index =
                            geometry.paging(kind).offset(block, token % geometry.block_tokens, local, dim);
                        let bytes = geometry.dtype.bytes();
                        let at = usize::try_from(tensor.offset + index * u64::from(bytes)).unwrap();
                        let value = element(layer, kind, token, head, dim, bytes);
                        regions[tensor.region as usize][at..at + value.len()].copy_from_slice(&value);
                    }
                }
            }
        }
    }
    regions
}
