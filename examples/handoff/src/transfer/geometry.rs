//! Where an element is in an engine's cache, as data for the pipeline. The engines' own formulas are not used.

use anyhow::{Result, anyhow};
use kv_format::{AttentionParts, Geometry, PagingLayout, Replica, TensorBase};

use super::CacheDescription;
use super::identity::{DTYPE, ROPE_PAIRING};
use crate::engine::flavour::Flavour;

/// Elements that engine A keeps together: 16 bytes.
const X: u32 = 8;

/// Describes a rank's cache; `regions` are the byte lengths of its memory.
pub(super) fn geometry(cache: &CacheDescription, regions: Vec<u64>) -> Result<Geometry> {
    let kv_heads = &cache.shard.kv_heads;
    let heads = u32::try_from(kv_heads.start)?..u32::try_from(kv_heads.end)?;
    let (block, dim) = (u32::try_from(cache.block_tokens)?, u32::try_from(cache.head_dim)?);
    let count = u32::try_from(kv_heads.len())?;
    let (key, value) = match cache.flavour {
        Flavour::AmdLike => {
            (PagingLayout::x_packed(block, count, dim, X), PagingLayout::transposed(block, count, dim))
        }
        Flavour::GaudiLike => {
            let layout = PagingLayout::token_major(block, count, dim);
            (layout, layout)
        }
    };
    let layers = u32::try_from(cache.layers)?;
    Geometry::new(AttentionParts {
        dtype: DTYPE,
        rope: ROPE_PAIRING,
        layers: 0..layers,
        heads,
        replica: Replica {
            index: u32::try_from(cache.shard.replica)?,
            count: u32::try_from(cache.shard.replicas)?,
        },
        key_dim: dim,
        value_dim: dim,
        block_tokens: block,
        blocks: u32::try_from(cache.physical_blocks)?,
        key,
        value,
        // K and V of every layer begin at the start of a region of their own.
        tensors: (0..layers * 2).map(|region| TensorBase { region, offset: 0 }).collect(),
        regions,
    })
    .map_err(|error| anyhow!("the engine's cache cannot be described: {error}"))
}
