//! One sequence on one rank: which of its tokens are in the cache, and how they got there.

use std::sync::Arc;

use anyhow::{Result, ensure};

use super::cache::PagedCache;
use super::collective::Collective;
use super::rank_model::RankModel;

/// Prompt tokens that go through the model at once.
pub const CHUNK: usize = 96;

/// How many tokens came into the cache in which way.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Prompt tokens that this engine computed.
    pub prefilled: usize,
    /// Prompt tokens whose KV somebody else put into the cache.
    pub loaded: usize,
    /// Answer tokens.
    pub decoded: usize,
}

/// A sequence in progress.
pub struct Sequence {
    model: Arc<RankModel>,
    cache: PagedCache,
    length: usize,
    counters: Counters,
}

impl Sequence {
    /// An empty sequence over an empty cache.
    #[must_use]
    pub fn new(model: Arc<RankModel>, cache: PagedCache) -> Self {
        Self { model, cache, length: 0, counters: Counters::default() }
    }

    /// Its KV cache.
    #[must_use]
    pub fn cache(&self) -> &PagedCache {
        &self.cache
    }

    /// How its tokens came into the cache.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Takes over the KV of the first `tokens` tokens, which somebody else wrote into the cache.
    ///
    /// # Errors
    /// The sequence already has tokens, or the cache is smaller.
    pub fn adopt_loaded(&mut self, tokens: usize) -> Result<()> {
        ensure!(self.length == 0, "cannot adopt loaded tokens after {} others", self.length);
        ensure!(tokens <= self.cache.blocks().capacity(), "{tokens} tokens do not fit the KV cache");
        self.length = tokens;
        self.counters.loaded = tokens;
        Ok(())
    }

    /// Computes prompt tokens, `chunk` at a time. The leader gets the logits after the last one.
    ///
    /// # Errors
    /// The cache is full, a token id is unknown, or another rank is gone.
    pub fn prefill(
        &mut self,
        tokens: &[u32],
        chunk: usize,
        peers: &mut dyn Collective,
    ) -> Result<Option<Vec<f32>>> {
        ensure!(!tokens.is_empty(), "no prompt tokens to compute");
        let mut last = Vec::new();
        for part in tokens.chunks(chunk.max(1)) {
            last = self.run(part, peers)?;
            self.counters.prefilled += part.len();
        }
        Ok(self.model.logits(&last))
    }

    /// Computes one answer token. The leader gets the logits after it.
    ///
    /// # Errors
    /// As for [`prefill`](Self::prefill).
    pub fn decode(&mut self, token: u32, peers: &mut dyn Collective) -> Result<Option<Vec<f32>>> {
        let residual = self.run(&[token], peers)?;
        self.counters.decoded += 1;
        Ok(self.model.logits(&residual))
    }

    fn run(&mut self, tokens: &[u32], peers: &mut dyn Collective) -> Result<Vec<f32>> {
        let room = self.cache.blocks().capacity();
        ensure!(self.length + tokens.len() <= room, "the KV cache holds {room} tokens and is full");
        let residual = self.model.forward(tokens, self.length, &self.cache, peers)?;
        self.length += tokens.len();
        Ok(residual)
    }
}
