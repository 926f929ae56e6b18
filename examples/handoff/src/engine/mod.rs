//! A Llama-family inference engine, small enough to read: f32 arithmetic, greedy decoding, a paged bf16 KV cache.
//!
//! Its one special property: **every sum is taken in one fixed order**, whatever the tensor parallelism, batching,
//! number of threads or paging layout. So two engines agree bit for bit exactly when they hold the same KV, and a
//! hand-off that damages a single element is seen in the logits.

pub mod attention;
pub mod blocks;
pub mod cache;
pub mod collective;
pub mod flavour;
pub mod math;
pub mod memory;
pub mod panels;
pub mod rank_model;
pub mod sequence;
pub mod shard;
