//! Causal attention of a rank's query heads over what the KV cache holds.
//!
//! Scores and mixtures are matrix products too, so they use the same fixed-order sums as the weights. A token that a
//! query must not see gets probability zero exactly, and adding zero changes no bit of a sum.

use super::cache::PagedCache;
use super::flavour::Part;
use super::math::softmax;
use super::panels::Panels;

/// The queries of one chunk of tokens.
pub(super) struct Queries<'a> {
    /// `[token][query head][dim]`.
    pub(super) values: &'a [f32],
    /// Tokens in the chunk.
    pub(super) count: usize,
    /// Position of the first one; its own K and V, and all before, are in the cache.
    pub(super) first: usize,
    /// Query heads of this rank.
    pub(super) heads: usize,
}

/// Returns `[token][query head][dim]`.
pub(super) fn attend(queries: &Queries<'_>, cache: &PagedCache, layer: usize, threads: usize) -> Vec<f32> {
    let (kv_heads, head_dim) = (cache.shape().heads, cache.shape().head_dim);
    let context = queries.first + queries.count;
    let group = queries.heads / kv_heads;
    let mut output = vec![0.0; queries.values.len()];
    for kv_head in 0..kv_heads {
        let keys = Panels::from_rows(&cache.read(layer, Part::K, kv_head, context), head_dim);
        let values = Panels::from_columns(&cache.read(layer, Part::V, kv_head, context), head_dim);
        // The query heads that share this KV head are just more queries: [token][head of the group][dim].
        let columns = kv_head * group * head_dim..(kv_head + 1) * group * head_dim;
        let row = queries.heads * head_dim;
        let asked: Vec<f32> =
            queries.values.chunks_exact(row).flat_map(|token| &token[columns.clone()]).copied().collect();
        let mut scores = keys.multiply(&asked, queries.count * group, threads);
        weigh(&mut scores, queries.first, context, group, head_dim);
        let mixed = values.multiply(&scores, queries.count * group, threads);
        for (token, mixed) in output.chunks_exact_mut(row).zip(mixed.chunks_exact(group * head_dim)) {
            token[columns.clone()].copy_from_slice(mixed);
        }
    }
    output
}

/// Scores to probabilities: scaled, and zero for tokens after the query's own.
fn weigh(scores: &mut [f32], first: usize, context: usize, group: usize, head_dim: usize) {
    #[expect(clippy::cast_precision_loss, reason = "head_dim is a few dozen")]
    let scale = 1.0 / (head_dim as f32).sqrt();
    for (index, scores) in scores.chunks_exact_mut(context).enumerate() {
        let (visible, hidden) = scores.split_at_mut(first + index / group + 1);
        for score in visible.iter_mut() {
            *score *= scale;
        }
        softmax(visible);
        hidden.fill(0.0);
    }
}
