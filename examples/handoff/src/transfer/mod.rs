//! The bridge between a rank's KV cache and the store: what an engine's integrator writes to use `kv-pipeline`.
//!
//! One [`Transport`] per rank: a host device whose memory is the engine's KV cache, a store, and a pipeline between
//! them. The engine says how it pages its cache in a [`CacheDescription`]; everything else is derived from that, as
//! data, and never from the engine's own index formulas. So wrong data here gives wrong logits, which the tests see.

mod device;
mod geometry;
mod hip;
mod identity;
mod memory;
#[expect(unsafe_code, reason = "registering the engine's memory is the one promise to make")]
mod registration;
mod storage;
mod store;
mod transport;

use serde::{Deserialize, Serialize};

use crate::engine::cache::PagedCache;
use crate::engine::flavour::Flavour;
use crate::engine::shard::Shard;

pub use device::DeviceKind;
pub use memory::DeviceMemory;
pub use storage::Storage;
pub use store::{check as check_store, format as format_store};
pub use transport::Transport;

/// A rank's KV cache as a transport must see it: how the engine pages its bytes.
///
/// The regions are in the order layer 0 K, layer 0 V, layer 1 K, ...
#[derive(Debug, Clone)]
pub struct CacheDescription {
    /// Which engine's layout.
    pub flavour: Flavour,
    /// Tokens per block.
    pub block_tokens: usize,
    /// Physical blocks in every region, padding included.
    pub physical_blocks: usize,
    /// The sequence's physical blocks in token order.
    pub block_ids: Vec<u32>,
    /// Layers.
    pub layers: usize,
    /// Elements per head.
    pub head_dim: usize,
    /// This rank's part: its KV heads of the model's, and which replica of them it is.
    pub shard: Shard,
}

impl CacheDescription {
    /// Describes the cache of a rank.
    #[must_use]
    pub fn new(cache: &PagedCache, shard: &Shard) -> Self {
        Self {
            flavour: cache.flavour(),
            block_tokens: cache.flavour().block_tokens(),
            physical_blocks: cache.blocks().physical(),
            block_ids: cache.blocks().ids().to_vec(),
            layers: cache.shape().layers,
            head_dim: cache.shape().head_dim,
            shard: shard.clone(),
        }
    }
}

/// What one rank saved.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct SaveReport {
    /// Tokens whose KV is in the store now.
    pub saved_tokens: usize,
    /// Objects that this rank saw to: written by it, or stored already.
    pub objects: u64,
    /// Those of them that the store had already.
    pub deduplicated: u64,
    /// Bytes of KV that this rank wrote.
    pub kv_bytes: u64,
    /// Seconds from the call to its end.
    pub seconds: f64,
}

/// What one rank loaded.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct LoadReport {
    /// The longest prefix of the tokens that is in the cache now, verified.
    pub loaded_tokens: usize,
    /// Sections whose checksum was compared.
    pub verified_sections: u64,
    /// Bytes of KV that this rank loaded.
    pub load_bytes: u64,
    /// Seconds from the call to its end.
    pub seconds: f64,
    /// Why there are fewer tokens than asked for.
    pub stopped: Option<String>,
}
