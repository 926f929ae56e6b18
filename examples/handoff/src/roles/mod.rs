//! What a rank does, by role. Each file reads as the story of one side of the hand-off.

pub mod decode;
mod export;
pub mod prefill;
pub mod reference;

use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::cluster::job::Job;
use crate::engine::blocks::BlockTable;
use crate::engine::cache::PagedCache;
use crate::engine::collective::Collective;
use crate::engine::flavour::Flavour;
use crate::engine::memory::CacheMemory;
use crate::engine::rank_model::RankModel;
use crate::engine::sequence::Sequence;
use crate::engine::shard::Shard;
use crate::model::weights::WeightSource;

/// The rank's part of the model.
fn load_model(job: &Job, source: Arc<dyn WeightSource>, logits: bool) -> Result<Arc<RankModel>> {
    let shard = Shard::new(source.config(), job.rank, job.tp)?;
    Ok(Arc::new(RankModel::load(source, shard, job.threads, logits)?))
}

/// An empty sequence whose KV cache lives in the memory that `allocate` gives for the regions' byte lengths.
fn open_sequence(
    model: &Arc<RankModel>,
    flavour: Flavour,
    capacity: usize,
    allocate: impl FnOnce(&[u64]) -> Result<Arc<dyn CacheMemory>>,
) -> Result<Sequence> {
    let context = model.config().context;
    ensure!(
        capacity <= context,
        "prompt and answer need {capacity} tokens; the model's context has {context}"
    );
    // One block table for all ranks, as one scheduler would make it; another one for each engine.
    let blocks = BlockTable::scattered(flavour, capacity, 0xb10c ^ flavour.block_tokens() as u64);
    let shape = model.cache_shape();
    let memory = allocate(&shape.regions(flavour, &blocks))?;
    Ok(Sequence::new(Arc::clone(model), PagedCache::new(flavour, shape, blocks, memory)?))
}

/// Everybody's reports, in rank order.
fn collect<T: Serialize + DeserializeOwned>(peers: &mut dyn Collective, mine: &T) -> Result<Vec<T>> {
    let parts = peers.exchange(&serde_json::to_vec(mine)?)?;
    parts.iter().map(|part| serde_json::from_slice(part).context("a rank's report is garbled")).collect()
}
