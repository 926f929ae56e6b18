//! A sequence's block table: physical blocks in no particular order, as a busy engine would hand them out.

use crate::model::splitmix::SplitMix;

use super::flavour::Flavour;

/// The physical blocks of one engine, and those that one sequence owns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlockTable {
    physical: usize,
    ids: Vec<u32>,
    block_tokens: usize,
}

impl BlockTable {
    /// Enough blocks for `tokens`, scattered by `seed` over half as many again and a few.
    #[must_use]
    pub fn scattered(flavour: Flavour, tokens: usize, seed: u64) -> Self {
        let block_tokens = flavour.block_tokens();
        let needed = tokens.div_ceil(block_tokens);
        let usable = needed + needed / 2 + 3;
        let mut ids: Vec<u32> = (0u32..).take(usable).collect();
        let mut random = SplitMix::new(seed);
        for last in (1..usable).rev() {
            let other = random.below(u32::try_from(last + 1).unwrap_or(u32::MAX));
            ids.swap(last, usize::try_from(other).unwrap_or(0));
        }
        ids.truncate(needed);
        Self { physical: usable + flavour.pad_blocks(), ids, block_tokens }
    }

    /// Physical blocks, padding included.
    #[must_use]
    pub fn physical(&self) -> usize {
        self.physical
    }

    /// Physical block of each of the sequence's blocks, in token order.
    #[must_use]
    pub fn ids(&self) -> &[u32] {
        &self.ids
    }

    /// Tokens that fit.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.ids.len() * self.block_tokens
    }

    /// (physical block, slot inside it) of a token.
    ///
    /// # Panics
    /// If the token is beyond [`capacity`](Self::capacity).
    #[must_use]
    pub fn place(&self, token: usize) -> (usize, usize) {
        let block = usize::try_from(self.ids[token / self.block_tokens]).unwrap_or(usize::MAX);
        (block, token % self.block_tokens)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_distinct_scattered_and_never_the_pad_block() {
        let table = BlockTable::scattered(Flavour::GaudiLike, 1000, 3);
        assert_eq!((table.ids().len(), table.physical(), table.capacity()), (8, 16, 1024));
        let mut sorted = table.ids().to_vec();
        sorted.sort_unstable();
        assert_ne!(sorted, table.ids(), "the shuffle did nothing");
        sorted.dedup();
        assert_eq!(sorted.len(), 8);
        assert!(sorted.iter().all(|id| *id < 15));
        assert_ne!(table, BlockTable::scattered(Flavour::GaudiLike, 1000, 4));
    }
}
