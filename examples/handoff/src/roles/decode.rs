//! The consumer: engine B takes over the prompt's KV, computes one prompt token, and answers.

use std::io;

use anyhow::{Context, Result, bail};

use super::{collect, export, load_model, open_sequence};
use crate::cluster::job::{Job, Policy};
use crate::cluster::stop::Stop;
use crate::engine::collective::Collective;
use crate::engine::flavour::Flavour;
use crate::engine::sequence::CHUNK;
use crate::generation::{Speaker, generate};
use crate::report::{self, Common, DecodeReport};
use crate::transfer::{CacheDescription, Transport};

/// Runs one rank.
///
/// # Errors
/// The model cannot be loaded, another rank is gone, or less than the whole prompt but its last token was loaded and
/// the policy is to fail.
pub fn run(
    job: &Job,
    max_tokens: usize,
    policy: Policy,
    peers: &mut dyn Collective,
    stop: &Stop,
) -> Result<()> {
    let source = job.model.weights()?;
    let mut transport = Transport::connect(job, source.config(), stop)?;
    let model = load_model(job, source, true)?;
    let leader = model.shard().is_leader();
    let capacity = job.tokens.len() + max_tokens;
    let mut sequence =
        open_sequence(&model, Flavour::GaudiLike, capacity, |regions| transport.allocate(regions))?;

    // Ranks may have got different lengths; what counts is what all of them have.
    let wanted = &job.tokens[..job.tokens.len() - 1];
    let description = CacheDescription::new(sequence.cache(), model.shard());
    let load = transport.load(&description, wanted).with_context(|| format!("loading from {}", job.store))?;
    let agreed = usize::try_from(peers.all_min(load.loaded_tokens as u64)?)?;
    let ranks = collect(peers, &load)?;
    let common = Common::new("decode", &model.config().name, job.tp, Flavour::GaudiLike, job.tokens.len());
    let mut evidence = DecodeReport::new(common, agreed, &ranks);
    if agreed < wanted.len() && policy == Policy::Fail {
        if leader {
            report::write(&evidence, job.report.as_deref())?;
        }
        let reason = evidence.stopped.as_deref().unwrap_or("no reason given");
        bail!("only {agreed} of {} prompt tokens could be loaded ({reason})", wanted.len());
    }

    export::write(job.export.as_deref(), sequence.cache(), model.shard(), agreed)?;
    sequence.adopt_loaded(agreed)?;
    let logits = sequence.prefill(&job.tokens[agreed..], CHUNK, peers)?;
    let tokenizer = if leader { Some(job.model.tokenizer()?) } else { None };
    let mut output = io::stdout();
    let speaker = tokenizer.as_ref().map(|tokenizer| Speaker { tokenizer, output: &mut output });
    let answer = generate(&mut sequence, peers, logits, max_tokens, speaker, stop)?;
    if leader {
        evidence.answered(sequence.counters().prefilled, answer);
        report::write(&evidence, job.report.as_deref())?;
    }
    Ok(())
}
