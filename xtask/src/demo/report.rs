//! The JSON reports of the `handoff` binary, as far as the demo shows them.

use serde::Deserialize;

/// Cluster A's.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Prefill {
    pub tp: u32,
    /// The engine's layout of a block, by name.
    pub layout: String,
    pub block_tokens: u32,
    pub prompt_tokens: u64,
    pub objects: u64,
    /// Objects that the store had already.
    pub deduplicated: u64,
    pub kv_bytes: u64,
    pub save_seconds: f64,
}

/// Cluster B's.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Decode {
    pub tp: u32,
    pub layout: String,
    pub block_tokens: u32,
    pub loaded_tokens: u64,
    /// Tokens that B computed itself.
    pub prefilled_tokens: u64,
    /// Parts of objects whose checksum was computed and equal.
    pub verified_sections: u64,
    pub load_bytes: u64,
    pub load_seconds: f64,
    pub tokens: Vec<u32>,
    /// Of the logits of every decoded token, bit for bit.
    pub logits_digest: String,
}

/// The single process's.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Reference {
    pub tokens: Vec<u32>,
    pub logits_digest: String,
}
