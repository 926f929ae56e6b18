//! What the answer should be: one process, one engine, nothing handed over.

use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use anyhow::Result;

use super::{export, open_sequence};
use crate::cluster::stop::Stop;
use crate::engine::collective::Alone;
use crate::engine::flavour::Flavour;
use crate::engine::memory::VecMemory;
use crate::engine::rank_model::RankModel;
use crate::engine::sequence::CHUNK;
use crate::engine::shard::Shard;
use crate::generation::{Answer, Speaker, generate};
use crate::model::ModelChoice;
use crate::report::{self, Common, ReferenceReport};

/// What is written down beside the answer.
#[derive(Debug, Clone, Copy, Default)]
pub struct Files<'a> {
    /// A JSON report.
    pub report: Option<&'a Path>,
    /// The directory for the prompt's KV.
    pub export: Option<&'a Path>,
}

/// Answers `tokens` on one engine; the text goes to `output` while it is made.
///
/// # Errors
/// The model cannot be loaded, or the output is closed.
pub fn run(
    model: &ModelChoice,
    tokens: &[u32],
    max_tokens: usize,
    flavour: Flavour,
    threads: usize,
    output: &mut dyn Write,
    files: Files<'_>,
) -> Result<Answer> {
    let source = model.weights()?;
    let tokenizer = model.tokenizer()?;
    let shard = Shard::new(source.config(), 0, 1)?;
    let rank = Arc::new(RankModel::load(source, shard, threads, true)?);
    let mut sequence = open_sequence(&rank, flavour, tokens.len() + max_tokens, |regions| {
        Ok(Arc::new(VecMemory::new(regions)))
    })?;
    let logits = sequence.prefill(tokens, CHUNK, &mut Alone)?;
    export::write(files.export, sequence.cache(), rank.shard(), tokens.len() - 1)?;
    let speaker = Some(Speaker { tokenizer: &tokenizer, output });
    let answer = generate(&mut sequence, &mut Alone, logits, max_tokens, speaker, &Stop::default())?;
    let common = Common::new("reference", &rank.config().name, 1, flavour, tokens.len());
    let Answer { tokens, logits_digest, text } = answer.clone();
    report::write(&ReferenceReport { common, tokens, logits_digest, text }, files.report)?;
    Ok(answer)
}
