//! What the leader writes down at the end, as JSON: the evidence that scripts and tests look at.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde::Serialize;

use crate::engine::flavour::Flavour;
use crate::generation::Answer;
use crate::transfer::{LoadReport, SaveReport};

/// Fields of every report.
#[derive(Debug, Clone, Serialize)]
pub struct Common {
    /// `prefill`, `decode` or `reference`.
    pub role: &'static str,
    /// The model's name.
    pub model: String,
    /// Ranks.
    pub tp: usize,
    /// The engine's paging.
    pub layout: &'static str,
    /// Tokens per block.
    pub block_tokens: usize,
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
}

impl Common {
    /// The common fields.
    #[must_use]
    pub fn new(role: &'static str, model: &str, tp: usize, flavour: Flavour, prompt_tokens: usize) -> Self {
        let (layout, block_tokens) = (flavour.name(), flavour.block_tokens());
        Self { role, model: model.to_owned(), tp, layout, block_tokens, prompt_tokens }
    }
}

/// Report of a prefill; sums over all ranks, the longest time of any rank.
#[derive(Debug, Clone, Serialize)]
#[expect(missing_docs, reason = "the fields are those of SaveReport")]
pub struct PrefillReport {
    #[serde(flatten)]
    pub common: Common,
    pub request_id: String,
    pub saved_tokens: usize,
    pub objects: u64,
    pub deduplicated: u64,
    pub kv_bytes: u64,
    pub save_seconds: f64,
}

impl PrefillReport {
    /// Adds up what the ranks saved.
    #[must_use]
    pub fn new(common: Common, request_id: &str, ranks: &[SaveReport]) -> Self {
        Self {
            common,
            request_id: request_id.to_owned(),
            saved_tokens: ranks.iter().map(|rank| rank.saved_tokens).min().unwrap_or(0),
            objects: ranks.iter().map(|rank| rank.objects).sum(),
            deduplicated: ranks.iter().map(|rank| rank.deduplicated).sum(),
            kv_bytes: ranks.iter().map(|rank| rank.kv_bytes).sum(),
            save_seconds: ranks.iter().map(|rank| rank.seconds).fold(0.0, f64::max),
        }
    }
}

/// Report of a decode; sums over all ranks, the longest time of any rank.
#[derive(Debug, Clone, Serialize)]
#[expect(missing_docs, reason = "the fields are those of LoadReport and Answer")]
pub struct DecodeReport {
    #[serde(flatten)]
    pub common: Common,
    pub loaded_tokens: usize,
    pub prefilled_tokens: usize,
    pub verified_sections: u64,
    pub load_bytes: u64,
    pub load_seconds: f64,
    pub stopped: Option<String>,
    pub tokens: Vec<u32>,
    pub logits_digest: String,
    pub text: String,
}

impl DecodeReport {
    /// Adds up what the ranks loaded; `loaded_tokens` is what they agreed on.
    #[must_use]
    pub fn new(common: Common, loaded_tokens: usize, ranks: &[LoadReport]) -> Self {
        let first = ranks.iter().enumerate().min_by_key(|(_, rank)| rank.loaded_tokens);
        let reason = |(rank, report): (usize, &LoadReport)| {
            report.stopped.as_ref().map(|reason| format!("rank {rank}: {reason}"))
        };
        Self {
            common,
            loaded_tokens,
            prefilled_tokens: 0,
            verified_sections: ranks.iter().map(|rank| rank.verified_sections).sum(),
            load_bytes: ranks.iter().map(|rank| rank.load_bytes).sum(),
            load_seconds: ranks.iter().map(|rank| rank.seconds).fold(0.0, f64::max),
            stopped: first.and_then(reason),
            tokens: Vec::new(),
            logits_digest: String::new(),
            text: String::new(),
        }
    }

    /// Adds the answer.
    pub fn answered(&mut self, prefilled_tokens: usize, answer: Answer) {
        self.prefilled_tokens = prefilled_tokens;
        self.tokens = answer.tokens;
        self.logits_digest = answer.logits_digest;
        self.text = answer.text;
    }
}

/// Report of a reference run.
#[derive(Debug, Clone, Serialize)]
#[expect(missing_docs, reason = "the fields are those of Answer")]
pub struct ReferenceReport {
    #[serde(flatten)]
    pub common: Common,
    pub tokens: Vec<u32>,
    pub logits_digest: String,
    pub text: String,
}

/// Writes a report, if one is wanted.
///
/// # Errors
/// The file cannot be written.
pub fn write(report: &impl Serialize, path: Option<&Path>) -> Result<()> {
    let Some(path) = path else { return Ok(()) };
    let mut json = serde_json::to_vec_pretty(report)?;
    json.push(b'\n');
    fs::write(path, json).with_context(|| format!("cannot write the report {}", path.display()))
}
