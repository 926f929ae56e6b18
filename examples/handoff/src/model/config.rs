//! The shape of a Llama-family decoder.

use anyhow::{Result, ensure};

/// Everything about a model except its weights.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelConfig {
    /// Name for reports.
    pub name: String,
    /// How the weights are quantised, such as `q4_1+q8_0`; `none` if they are not.
    pub weight_quantisation: String,
    /// Transformer layers.
    pub layers: usize,
    /// Width of the residual stream.
    pub dim: usize,
    /// Width inside the MLP.
    pub ffn: usize,
    /// Query heads.
    pub query_heads: usize,
    /// Key/value heads (grouped-query attention when fewer than the query heads).
    pub kv_heads: usize,
    /// Elements per head.
    pub head_dim: usize,
    /// Number of token ids.
    pub vocab: usize,
    /// Longest sequence the model was trained for.
    pub context: usize,
    /// Base of the rotary angles.
    pub rope_base: f64,
    /// Added under the root of RMSNorm.
    pub norm_eps: f32,
}

impl ModelConfig {
    /// Checks that the numbers fit each other.
    ///
    /// # Errors
    /// A size is zero, or heads and widths do not divide as the engine needs.
    pub fn check(&self) -> Result<()> {
        let sizes =
            [self.layers, self.dim, self.ffn, self.query_heads, self.kv_heads, self.head_dim, self.vocab];
        ensure!(sizes.iter().all(|&size| size > 0), "a size of the model is zero: {self:?}");
        ensure!(
            self.query_heads.is_multiple_of(self.kv_heads),
            "{} query heads cannot share {} KV heads evenly",
            self.query_heads,
            self.kv_heads
        );
        // The x-packed K layout of engine A keeps 8 elements together, and rotary embedding works on pairs.
        ensure!(self.head_dim.is_multiple_of(8), "head_dim {} is not a multiple of 8", self.head_dim);
        Ok(())
    }
}
