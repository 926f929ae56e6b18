//! The producer: engine A computes the prompt's KV and hands it over.

use std::sync::Arc;

use anyhow::{Context, Result, ensure};

use super::{collect, export, load_model, open_sequence};
use crate::cluster::job::Job;
use crate::cluster::stop::Stop;
use crate::engine::collective::Collective;
use crate::engine::flavour::Flavour;
use crate::engine::sequence::CHUNK;
use crate::model::weights::WeightSource;
use crate::report::{self, Common, PrefillReport};
use crate::transfer::{CacheDescription, SaveReport, Transport};

/// Runs one rank.
///
/// # Errors
/// The model cannot be loaded, another rank is gone, or the KV could not be saved.
pub fn run(job: &Job, peers: &mut dyn Collective, stop: &Stop) -> Result<()> {
    let source = job.model.weights()?;
    let name = source.config().name.clone();
    let mut transport = Transport::connect(job, source.config(), stop)?;
    // Before anybody can know the request's id: on a network file system, a record that was looked for before it
    // existed may stay invisible for half a minute.
    transport.announce()?;
    let saved = compute_and_save(job, source, &mut transport, peers, stop).inspect_err(|error| {
        // The consumer learns it now, and not when its patience ends.
        transport.give_up(&format!("{error:#}"));
    })?;
    let ranks = collect(peers, &saved)?;
    if job.rank == 0 {
        let common = Common::new("prefill", &name, job.tp, Flavour::AmdLike, job.tokens.len());
        report::write(&PrefillReport::new(common, &job.request_id, &ranks), job.report.as_deref())?;
    }
    Ok(())
}

fn compute_and_save(
    job: &Job,
    source: Arc<dyn WeightSource>,
    transport: &mut Transport,
    peers: &mut dyn Collective,
    stop: &Stop,
) -> Result<SaveReport> {
    let model = load_model(job, source, false)?;
    let mut sequence =
        open_sequence(&model, Flavour::AmdLike, job.tokens.len(), |regions| transport.allocate(regions))?;
    for chunk in job.tokens.chunks(CHUNK) {
        ensure!(!stop.is_set(), "stopped after {} prompt tokens", sequence.counters().prefilled);
        sequence.prefill(chunk, CHUNK, peers)?;
    }

    // The consumer computes the last prompt token itself: it needs the logits, which no KV contains.
    let handed_over = &job.tokens[..job.tokens.len() - 1];
    export::write(job.export.as_deref(), sequence.cache(), model.shard(), handed_over.len())?;
    let description = CacheDescription::new(sequence.cache(), model.shard());
    transport.save(&description, handed_over).with_context(|| format!("saving to {}", job.store))
}
