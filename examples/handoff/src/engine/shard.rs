//! Which part of the model a tensor-parallel rank holds.
//!
//! Heads are shared out in order. KV heads follow vLLM: split while there are enough of them, replicated when there
//! are more ranks than KV heads. Matrices are split by output rows only, so no sum is ever cut; what does not divide
//! stays whole on rank 0, the leader.

use std::ops::Range;

use anyhow::{Result, ensure};

use crate::model::config::ModelConfig;

/// One rank's part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shard {
    /// This rank.
    pub rank: usize,
    /// Number of ranks.
    pub tp: usize,
    /// Its query heads, of the whole model's.
    pub query_heads: Range<usize>,
    /// Its KV heads, of the whole model's.
    pub kv_heads: Range<usize>,
    /// Which of the ranks with the same KV heads this is.
    pub replica: usize,
    /// How many ranks hold the same KV heads.
    pub replicas: usize,
}

impl Shard {
    /// Rank `rank` of `tp`.
    ///
    /// # Errors
    /// The heads cannot be shared out over `tp` ranks.
    pub fn new(config: &ModelConfig, rank: usize, tp: usize) -> Result<Self> {
        let (queries, keys) = (config.query_heads, config.kv_heads);
        ensure!(
            Self::degrees(config).contains(&tp),
            "{queries} query heads over {keys} KV heads cannot be shared by {tp} ranks; choose --tp from {:?}",
            Self::degrees(config)
        );
        ensure!(rank < tp, "rank {rank} of {tp} does not exist");
        let per_rank = queries / tp;
        let first = rank * keys / tp;
        let replicas = (tp / keys).max(1);
        Ok(Self {
            rank,
            tp,
            query_heads: rank * per_rank..(rank + 1) * per_rank,
            kv_heads: first..first + (keys / tp).max(1),
            replica: rank % replicas,
            replicas,
        })
    }

    /// The numbers of ranks that can share the model.
    #[must_use]
    pub fn degrees(config: &ModelConfig) -> Vec<usize> {
        let (queries, keys) = (config.query_heads, config.kv_heads);
        let fits =
            |tp: &usize| queries.is_multiple_of(*tp) && (keys.is_multiple_of(*tp) || tp.is_multiple_of(keys));
        (1..=queries).filter(fits).collect()
    }

    /// Whether this is rank 0.
    #[must_use]
    pub fn is_leader(&self) -> bool {
        self.rank == 0
    }

    /// How many of `rows` output rows each rank computes.
    #[must_use]
    pub fn widths(&self, rows: usize) -> Vec<usize> {
        if rows.is_multiple_of(self.tp) {
            return vec![rows / self.tp; self.tp];
        }
        let mut widths = vec![0; self.tp];
        widths[0] = rows;
        widths
    }

    /// The output rows of this rank.
    #[must_use]
    pub fn rows(&self, rows: usize) -> Range<usize> {
        let widths = self.widths(rows);
        let start = widths[..self.rank].iter().sum();
        start..start + widths[self.rank]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::seeded::Seeded;
    use crate::model::weights::WeightSource;

    #[test]
    fn heads_are_split_then_replicated() {
        let model = Seeded::new(1);
        let shard = |rank, tp| Shard::new(model.config(), rank, tp).unwrap();
        assert_eq!(shard(0, 1).kv_heads, 0..3);
        assert_eq!(
            shard(2, 3),
            Shard { rank: 2, tp: 3, query_heads: 6..9, kv_heads: 2..3, replica: 0, replicas: 1 }
        );
        assert_eq!(
            shard(5, 9),
            Shard { rank: 5, tp: 9, query_heads: 5..6, kv_heads: 1..2, replica: 2, replicas: 3 }
        );
        let error = Shard::new(model.config(), 0, 2).unwrap_err().to_string();
        assert!(error.contains("[1, 3, 9]"), "{error}");
    }

    #[test]
    fn rows_that_do_not_divide_stay_with_the_leader() {
        let model = Seeded::new(1);
        let shard = Shard::new(model.config(), 4, 9).unwrap();
        assert_eq!((shard.rows(144), shard.rows(384)), (64..80, 384..384));
        assert_eq!(Shard::new(model.config(), 0, 9).unwrap().rows(384), 0..384);
    }
}
