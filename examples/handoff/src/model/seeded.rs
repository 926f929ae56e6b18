//! A small random model: exercises every code path of the real one, in milliseconds, without a file.
//!
//! Its usual shape keeps what makes the real model awkward: 9 query heads over 3 KV heads, and an MLP width that divides
//! by 3 but not by 9. Row `r` of a tensor depends on (seed, tensor, r) alone, so a rank can make just its own rows.

use std::ops::Range;

use anyhow::{Result, ensure};
use serde::{Deserialize, Serialize};

use super::config::ModelConfig;
use super::splitmix::SplitMix;
use super::weights::{Tensor, WeightSource};

/// How many query heads the model has, and how many KV heads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, clap::ValueEnum)]
pub enum Heads {
    /// 9 over 3, as the real model of the demo.
    #[default]
    #[value(name = "9x3")]
    NineOverThree,
    /// 16 over 8, the KV heads of the Llama models that two machines of eight accelerators serve.
    #[value(name = "16x8")]
    SixteenOverEight,
}

/// The random model.
#[derive(Debug)]
pub struct Seeded {
    seed: u64,
    config: ModelConfig,
}

impl Seeded {
    /// The model that belongs to `seed`, with 9 heads over 3.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self::with_heads(seed, Heads::default())
    }

    /// The model that belongs to `seed`, with so many heads.
    #[must_use]
    pub fn with_heads(seed: u64, heads: Heads) -> Self {
        let (query_heads, kv_heads) = match heads {
            Heads::NineOverThree => (9, 3),
            Heads::SixteenOverEight => (16, 8),
        };
        let head_dim = 16;
        let config = ModelConfig {
            name: format!("seeded-{seed:016x}"),
            weight_quantisation: "none".to_owned(),
            layers: 4,
            dim: query_heads * head_dim,
            ffn: 384,
            query_heads,
            kv_heads,
            head_dim,
            vocab: 260,
            context: 8192,
            rope_base: 10_000.0,
            norm_eps: 1e-5,
        };
        Self { seed, config }
    }

    /// Digest of all weights.
    ///
    /// # Errors
    /// None in practice: every tensor of the shape exists.
    pub fn digest(&self) -> Result<[u8; 32]> {
        let mut hash = blake3::Hasher::new();
        let whole = [Tensor::Embedding, Tensor::OutputNorm].into_iter();
        for tensor in whole.chain((0..self.config.layers).flat_map(Tensor::of_layer)) {
            let (rows, _) = tensor.shape(&self.config);
            for value in self.rows(tensor, 0..rows)? {
                hash.update(&value.to_le_bytes());
            }
        }
        Ok(*hash.finalize().as_bytes())
    }

    fn row_generator(&self, tensor: Tensor, row: usize) -> SplitMix {
        let name = format!("{:016x} {} {row}", self.seed, tensor.gguf_name());
        let digest = blake3::hash(name.as_bytes());
        let first = digest.as_bytes().first_chunk().copied().unwrap_or_default();
        SplitMix::new(u64::from_le_bytes(first))
    }
}

impl WeightSource for Seeded {
    fn config(&self) -> &ModelConfig {
        &self.config
    }

    fn rows(&self, tensor: Tensor, rows: Range<usize>) -> Result<Vec<f32>> {
        // Tied: the head is the embedding.
        let tensor = if tensor == Tensor::Head { Tensor::Embedding } else { tensor };
        let (height, width) = tensor.shape(&self.config);
        ensure!(rows.end <= height, "rows {rows:?} of {tensor:?}, which has {height}");
        let mut values = Vec::with_capacity(rows.len() * width);
        for row in rows {
            let mut random = self.row_generator(tensor, row);
            values.extend((0..width).map(|_| scaled(tensor, width, random.next_unit())));
        }
        Ok(values)
    }
}

/// Keeps activations near one: norms around 1, matrices with variance 1 / width.
fn scaled(tensor: Tensor, width: usize, unit: f32) -> f32 {
    match tensor {
        Tensor::OutputNorm | Tensor::AttentionNorm(_) | Tensor::FfnNorm(_) => 1.0 + 0.25 * unit,
        Tensor::Embedding | Tensor::Head => unit,
        // Sharper attention than a plain random model has: a wrong K must change the tokens.
        Tensor::Query(_) | Tensor::Key(_) => unit * 3.0 / root(width),
        // Loud layers: otherwise a tied model's last token drowns out its context, and is repeated for ever.
        Tensor::AttentionOut(_) | Tensor::Down(_) => unit * 12.0 / root(width),
        _ => unit * 3f32.sqrt() / root(width),
    }
}

#[expect(clippy::cast_precision_loss, reason = "widths are a few hundred")]
fn root(width: usize) -> f32 {
    (width as f32).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_does_not_depend_on_the_rows_read_with_it() {
        let model = Seeded::new(1);
        let together = model.rows(Tensor::Gate(2), 0..10).unwrap();
        let alone = model.rows(Tensor::Gate(2), 7..8).unwrap();
        assert_eq!(together[7 * 144..8 * 144], alone);
        assert_ne!(alone, Seeded::new(2).rows(Tensor::Gate(2), 7..8).unwrap());
    }

    #[test]
    fn the_digest_belongs_to_the_weights() {
        assert_eq!(Seeded::new(1).digest().unwrap(), Seeded::new(1).digest().unwrap());
        assert_ne!(Seeded::new(1).digest().unwrap(), Seeded::new(2).digest().unwrap());
    }

    #[test]
    fn rows_outside_the_tensor_are_an_error() {
        assert!(Seeded::new(1).rows(Tensor::Key(0), 40..49).is_err());
    }
}
