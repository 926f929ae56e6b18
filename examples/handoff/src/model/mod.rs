//! What a model is before any engine runs it: its shape, its weights row by row, its tokenizer.

pub mod byte_alphabet;
pub mod config;
pub mod gguf;
pub mod gguf_reader;
pub mod quantisation;
pub mod seeded;
pub mod splitmix;
pub mod text_stream;
pub mod tokenizer;
pub mod weights;

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Result;
use serde::{Deserialize, Serialize};

use gguf::Gguf;
use seeded::{Heads, Seeded};
use tokenizer::Tokenizer;
use weights::WeightSource;

/// Which model to run. Every rank process opens it for itself and reads only the rows it needs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ModelChoice {
    /// A Llama-family GGUF file.
    File(PathBuf),
    /// The small random model: no file, no network, the same weights everywhere.
    Seeded(Heads),
}

/// The seed of the random model: part of its identity, so it never changes.
const MODEL_SEED: u64 = 0x6b76_6272_6964_6765;

impl ModelChoice {
    /// The weights, read on demand.
    ///
    /// # Errors
    /// The file cannot be read, or is not a Llama-family GGUF that this engine can run.
    pub fn weights(&self) -> Result<Arc<dyn WeightSource>> {
        Ok(match self {
            Self::File(path) => Arc::new(Gguf::open(path)?),
            Self::Seeded(heads) => Arc::new(Seeded::with_heads(MODEL_SEED, *heads)),
        })
    }

    /// The tokenizer that belongs to the weights.
    ///
    /// # Errors
    /// The file cannot be read, or holds a tokenizer of another kind.
    pub fn tokenizer(&self) -> Result<Tokenizer> {
        match self {
            Self::File(path) => Tokenizer::from_gguf(&Gguf::open(path)?),
            Self::Seeded(_) => Ok(Tokenizer::bytes()),
        }
    }

    /// 256 bits that change when any weight changes: what a shared store keys the KV cache by.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn digest(&self) -> Result<[u8; 32]> {
        match self {
            Self::File(path) => gguf::file_digest(path),
            Self::Seeded(heads) => Seeded::with_heads(MODEL_SEED, *heads).digest(),
        }
    }
}
