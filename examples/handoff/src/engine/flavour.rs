//! How the two engines page their KV cache: two different answers to "where is element (token, head, dim)?".
//!
//! These are the engines' own formulas, written down here and nowhere else: a hand-off that reads them through
//! another description of the same layout is checked by independent evidence.

use serde::{Deserialize, Serialize};

/// Keys or values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Keys.
    K,
    /// Values.
    V,
}

/// Which engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Flavour {
    /// Engine A, as vLLM lays out KV on ROCm: blocks of 16 tokens, K packed `[block, head, dim / 8, token, 8]`,
    /// V transposed `[block, head, dim, token]`.
    AmdLike,
    /// Engine B, as on Gaudi: blocks of 128 tokens, K and V both `[block, token, head, dim]`, and one block more at
    /// the end that padding is written to.
    GaudiLike,
}

/// Distances in elements between neighbours along each axis; `dims` holds each dim's own distance from dim 0.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Strides {
    pub(super) block: usize,
    pub(super) token: usize,
    pub(super) head: usize,
    pub(super) dims: Vec<usize>,
}

impl Flavour {
    /// Tokens per block.
    #[must_use]
    pub fn block_tokens(self) -> usize {
        match self {
            Self::AmdLike => 16,
            Self::GaudiLike => 128,
        }
    }

    /// Blocks that exist but never hold a sequence's tokens.
    #[must_use]
    pub fn pad_blocks(self) -> usize {
        match self {
            Self::AmdLike => 0,
            Self::GaudiLike => 1,
        }
    }

    /// Name for reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::AmdLike => "amd-like: K [block, head, dim/8, token, 8], V [block, head, dim, token]",
            Self::GaudiLike => "gaudi-like: K and V [block, token, head, dim]",
        }
    }

    pub(super) fn strides(self, part: Part, heads: usize, head_dim: usize) -> Strides {
        let tokens = self.block_tokens();
        let block = tokens * heads * head_dim;
        match (self, part) {
            (Self::AmdLike, Part::K) => Strides {
                block,
                token: 8,
                head: head_dim * tokens,
                dims: (0..head_dim).map(|dim| dim / 8 * tokens * 8 + dim % 8).collect(),
            },
            (Self::AmdLike, Part::V) => Strides {
                block,
                token: 1,
                head: head_dim * tokens,
                dims: (0..head_dim).map(|dim| dim * tokens).collect(),
            },
            (Self::GaudiLike, _) => {
                Strides { block, token: heads * head_dim, head: head_dim, dims: (0..head_dim).collect() }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Element positions counted by hand from the layouts' axis lists: 3 heads of 16.
    #[test]
    fn positions_follow_the_axis_lists() {
        let at = |flavour: Flavour, part, block: usize, token: usize, head: usize, dim: usize| {
            let strides = flavour.strides(part, 3, 16);
            block * strides.block + token * strides.token + head * strides.head + strides.dims[dim]
        };
        // K of A: ((((block 2 x 3 heads + head 1) x 2 + dim 13 / 8) x 16 tokens + token 5) x 8 + 13 % 8.
        assert_eq!(at(Flavour::AmdLike, Part::K, 2, 5, 1, 13), (((2 * 3 + 1) * 2 + 1) * 16 + 5) * 8 + 5);
        assert_eq!(at(Flavour::AmdLike, Part::V, 2, 5, 1, 13), ((2 * 3 + 1) * 16 + 13) * 16 + 5);
        for part in [Part::K, Part::V] {
            assert_eq!(at(Flavour::GaudiLike, part, 2, 100, 1, 13), ((2 * 128 + 100) * 3 + 1) * 16 + 13);
        }
    }

    #[test]
    fn every_element_has_its_own_place() {
        for flavour in [Flavour::AmdLike, Flavour::GaudiLike] {
            for part in [Part::K, Part::V] {
                let strides = flavour.strides(part, 3, 16);
                let mut seen = vec![false; strides.block];
                for token in 0..flavour.block_tokens() {
                    for head in 0..3 {
                        for dim in &strides.dims {
                            let place = &mut seen[token * strides.token + head * strides.head + dim];
                            assert!(!std::mem::replace(place, true));
                        }
                    }
                }
                assert!(seen.iter().all(|seen| *seen));
            }
        }
    }
}
