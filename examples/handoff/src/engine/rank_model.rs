//! One rank's part of a Llama-family model, and its forward pass.
//!
//! Every rank keeps the whole residual stream. Each matrix is split by output rows, and an all-gather puts the rows
//! together again: more talk than the usual sum over ranks, but no sum is cut, so TP 1, 3 and 9 agree bit for bit.

use std::ops::Range;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};

use super::attention::{Queries, attend};
use super::cache::{CacheShape, PagedCache};
use super::collective::Collective;
use super::flavour::Part;
use super::math::{Rope, add, rms_norm, swiglu};
use super::panels::Panels;
use super::shard::Shard;
use crate::model::config::ModelConfig;
use crate::model::weights::{Tensor, WeightSource};

struct Layer {
    attention_norm: Vec<f32>,
    query: Panels,
    key: Panels,
    value: Panels,
    attention_out: Panels,
    ffn_norm: Vec<f32>,
    gate: Panels,
    up: Panels,
    down: Panels,
}

/// The weights of one rank, ready to run.
pub struct RankModel {
    source: Arc<dyn WeightSource>,
    shard: Shard,
    threads: usize,
    layers: Vec<Layer>,
    output_norm: Vec<f32>,
    head: Option<Panels>,
    rope: Rope,
}

impl RankModel {
    /// Reads the rows that `shard` needs. Only the leader reads the head, and only if it is to make `logits`.
    ///
    /// # Errors
    /// A weight is missing, misshapen or unreadable.
    pub fn load(source: Arc<dyn WeightSource>, shard: Shard, threads: usize, logits: bool) -> Result<Self> {
        let config = source.config();
        let layers =
            (0..config.layers).map(|layer| Layer::load(&*source, &shard, layer)).collect::<Result<_>>()?;
        let head = match logits && shard.is_leader() {
            true => Some(panels(&*source, Tensor::Head, 0..config.vocab)?),
            false => None,
        };
        let output_norm = source.rows(Tensor::OutputNorm, 0..1)?;
        let rope = Rope::new(config.head_dim, config.rope_base);
        Ok(Self { source, shard, threads, layers, output_norm, head, rope })
    }

    /// The model's shape.
    #[must_use]
    pub fn config(&self) -> &ModelConfig {
        self.source.config()
    }

    /// This rank's part of it.
    #[must_use]
    pub fn shard(&self) -> &Shard {
        &self.shard
    }

    /// What a KV cache for this rank must hold.
    #[must_use]
    pub fn cache_shape(&self) -> CacheShape {
        let config = self.config();
        CacheShape { layers: config.layers, heads: self.shard.kv_heads.len(), head_dim: config.head_dim }
    }

    /// Runs `tokens` at positions from `first` on; their K and V go to the cache. Returns the last token's residual.
    ///
    /// # Errors
    /// A token id is out of range, or another rank is gone.
    pub fn forward(
        &self,
        tokens: &[u32],
        first: usize,
        cache: &PagedCache,
        peers: &mut dyn Collective,
    ) -> Result<Vec<f32>> {
        let config = self.config();
        let mut stream = self.embed(tokens)?;
        for (index, layer) in self.layers.iter().enumerate() {
            let normed = rms_norm(&stream, &layer.attention_norm, config.norm_eps);
            let attended = self.attention(layer, index, &normed, first, cache);
            let widths = vec![self.shard.query_heads.len() * config.head_dim; self.shard.tp];
            let attended = gather(peers, attended, &widths, tokens.len())?;
            let projected = layer.attention_out.multiply(&attended, tokens.len(), self.threads);
            add(&mut stream, &gather(peers, projected, &self.shard.widths(config.dim), tokens.len())?);

            let normed = rms_norm(&stream, &layer.ffn_norm, config.norm_eps);
            add(&mut stream, &self.mlp(layer, &normed, tokens.len(), peers)?);
        }
        Ok(stream.split_off(stream.len() - config.dim))
    }

    /// The leader's scores for the next token; `None` on other ranks.
    #[must_use]
    pub fn logits(&self, residual: &[f32]) -> Option<Vec<f32>> {
        let normed = rms_norm(residual, &self.output_norm, self.config().norm_eps);
        self.head.as_ref().map(|head| head.multiply(&normed, 1, self.threads))
    }

    fn embed(&self, tokens: &[u32]) -> Result<Vec<f32>> {
        ensure!(!tokens.is_empty(), "no tokens to run");
        let mut stream = Vec::with_capacity(tokens.len() * self.config().dim);
        for token in tokens {
            let row = usize::try_from(*token)?;
            let row = self.source.rows(Tensor::Embedding, row..row + 1);
            stream.extend(row.with_context(|| format!("the embedding of token {token}"))?);
        }
        Ok(stream)
    }

    fn attention(
        &self,
        layer: &Layer,
        index: usize,
        normed: &[f32],
        first: usize,
        cache: &PagedCache,
    ) -> Vec<f32> {
        let count = normed.len() / self.config().dim;
        let mut queries = layer.query.multiply(normed, count, self.threads);
        let mut keys = layer.key.multiply(normed, count, self.threads);
        let values = layer.value.multiply(normed, count, self.threads);
        let tokens =
            queries.chunks_exact_mut(layer.query.rows()).zip(keys.chunks_exact_mut(layer.key.rows()));
        for (offset, (query, key)) in tokens.enumerate() {
            self.rope.rotate(query, first + offset);
            self.rope.rotate(key, first + offset);
        }
        cache.write(index, Part::K, first, &keys);
        cache.write(index, Part::V, first, &values);
        let heads = self.shard.query_heads.len();
        attend(&Queries { values: &queries, count, first, heads }, cache, index, self.threads)
    }

    fn mlp(
        &self,
        layer: &Layer,
        normed: &[f32],
        count: usize,
        peers: &mut dyn Collective,
    ) -> Result<Vec<f32>> {
        let gate = layer.gate.multiply(normed, count, self.threads);
        let up = layer.up.multiply(normed, count, self.threads);
        let mut inner = swiglu(&gate, &up);
        let split = mlp_is_split(self.config(), &self.shard);
        if split {
            inner = gather(peers, inner, &self.shard.widths(self.config().ffn), count)?;
        }
        let down = layer.down.multiply(&inner, count, self.threads);
        gather(peers, down, &down_widths(self.config(), &self.shard), count)
    }
}

impl Layer {
    fn load(source: &dyn WeightSource, shard: &Shard, layer: usize) -> Result<Self> {
        let config = source.config();
        let heads = |heads: &Range<usize>| heads.start * config.head_dim..heads.end * config.head_dim;
        let inner = shard.rows(config.ffn);
        let down = if mlp_is_split(config, shard) || shard.is_leader() {
            let start: usize = down_widths(config, shard)[..shard.rank].iter().sum();
            start..start + down_widths(config, shard)[shard.rank]
        } else {
            0..0
        };
        Ok(Self {
            attention_norm: source.rows(Tensor::AttentionNorm(layer), 0..1)?,
            query: panels(source, Tensor::Query(layer), heads(&shard.query_heads))?,
            key: panels(source, Tensor::Key(layer), heads(&shard.kv_heads))?,
            value: panels(source, Tensor::Value(layer), heads(&shard.kv_heads))?,
            attention_out: panels(source, Tensor::AttentionOut(layer), shard.rows(config.dim))?,
            ffn_norm: source.rows(Tensor::FfnNorm(layer), 0..1)?,
            gate: panels(source, Tensor::Gate(layer), inner.clone())?,
            up: panels(source, Tensor::Up(layer), inner)?,
            down: panels(source, Tensor::Down(layer), down)?,
        })
    }
}

/// Whether every rank takes part in the MLP; otherwise the leader does it alone.
fn mlp_is_split(config: &ModelConfig, shard: &Shard) -> bool {
    config.ffn.is_multiple_of(shard.tp)
}

fn down_widths(config: &ModelConfig, shard: &Shard) -> Vec<usize> {
    if mlp_is_split(config, shard) {
        return shard.widths(config.dim);
    }
    let mut widths = vec![0; shard.tp];
    widths[0] = config.dim;
    widths
}

fn panels(source: &dyn WeightSource, tensor: Tensor, rows: Range<usize>) -> Result<Panels> {
    let (_, depth) = tensor.shape(source.config());
    Ok(Panels::from_rows(&source.rows(tensor, rows)?, depth))
}

/// Puts every rank's columns of `count` vectors side by side: `[count][width of rank r]` to `[count][all widths]`.
fn gather(peers: &mut dyn Collective, mine: Vec<f32>, widths: &[usize], count: usize) -> Result<Vec<f32>> {
    if widths.len() == 1 {
        return Ok(mine);
    }
    let lens: Vec<usize> = widths.iter().map(|width| width * count).collect();
    let parts = peers.all_gather(&mine, &lens)?;
    let total: usize = widths.iter().sum();
    let mut rows = vec![0.0; total * count];
    let (mut column, mut rest) = (0, parts.as_slice());
    for width in widths.iter().filter(|width| **width > 0) {
        let (part, after) = rest.split_at(width * count);
        for (row, values) in rows.chunks_exact_mut(total).zip(part.chunks_exact(*width)) {
            row[column..column + width].copy_from_slice(values);
        }
        (column, rest) = (column + width, after);
    }
    Ok(rows)
}
