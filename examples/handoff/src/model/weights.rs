//! Where weights come from: any rows of any tensor, as f32.
//!
//! Ranks of a tensor-parallel group own rows, so reading by rows is all they need, and nine processes together
//! dequantise the model once, not nine times.

use std::ops::Range;

use anyhow::Result;

use super::config::ModelConfig;

/// One weight matrix (or norm vector: a matrix of one row) of a Llama-family model; the number is the layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tensor {
    /// One row per token id.
    Embedding,
    /// The language-model head: one row per token id. Tied models answer with the embedding.
    Head,
    /// Norm before the head.
    OutputNorm,
    /// Norm before attention.
    AttentionNorm(usize),
    /// Query projection.
    Query(usize),
    /// Key projection.
    Key(usize),
    /// Value projection.
    Value(usize),
    /// Projection of the attention result back to the residual stream.
    AttentionOut(usize),
    /// Norm before the MLP.
    FfnNorm(usize),
    /// The MLP's gate.
    Gate(usize),
    /// The MLP's second input.
    Up(usize),
    /// The MLP's way back to the residual stream.
    Down(usize),
}

impl Tensor {
    /// All tensors of one layer.
    #[must_use]
    pub fn of_layer(layer: usize) -> [Self; 9] {
        [
            Self::AttentionNorm(layer),
            Self::Query(layer),
            Self::Key(layer),
            Self::Value(layer),
            Self::AttentionOut(layer),
            Self::FfnNorm(layer),
            Self::Gate(layer),
            Self::Up(layer),
            Self::Down(layer),
        ]
    }

    /// (rows, columns): the tensor maps a vector of `columns` to a vector of `rows`.
    #[must_use]
    pub fn shape(self, config: &ModelConfig) -> (usize, usize) {
        let queries = config.query_heads * config.head_dim;
        let keys = config.kv_heads * config.head_dim;
        match self {
            Self::Embedding | Self::Head => (config.vocab, config.dim),
            Self::OutputNorm | Self::AttentionNorm(_) | Self::FfnNorm(_) => (1, config.dim),
            Self::Query(_) => (queries, config.dim),
            Self::Key(_) | Self::Value(_) => (keys, config.dim),
            Self::AttentionOut(_) => (config.dim, queries),
            Self::Gate(_) | Self::Up(_) => (config.ffn, config.dim),
            Self::Down(_) => (config.dim, config.ffn),
        }
    }

    /// The tensor's name in GGUF files.
    #[must_use]
    pub fn gguf_name(self) -> String {
        match self {
            Self::Embedding => "token_embd.weight".into(),
            Self::Head => "output.weight".into(),
            Self::OutputNorm => "output_norm.weight".into(),
            Self::AttentionNorm(layer) => format!("blk.{layer}.attn_norm.weight"),
            Self::Query(layer) => format!("blk.{layer}.attn_q.weight"),
            Self::Key(layer) => format!("blk.{layer}.attn_k.weight"),
            Self::Value(layer) => format!("blk.{layer}.attn_v.weight"),
            Self::AttentionOut(layer) => format!("blk.{layer}.attn_output.weight"),
            Self::FfnNorm(layer) => format!("blk.{layer}.ffn_norm.weight"),
            Self::Gate(layer) => format!("blk.{layer}.ffn_gate.weight"),
            Self::Up(layer) => format!("blk.{layer}.ffn_up.weight"),
            Self::Down(layer) => format!("blk.{layer}.ffn_down.weight"),
        }
    }
}

/// A model's weights.
pub trait WeightSource: Send + Sync {
    /// The model's shape.
    fn config(&self) -> &ModelConfig;

    /// The given rows, one after the other.
    ///
    /// # Errors
    /// The tensor is missing, has another shape, or its bytes cannot be read.
    fn rows(&self, tensor: Tensor, rows: Range<usize>) -> Result<Vec<f32>>;
}
