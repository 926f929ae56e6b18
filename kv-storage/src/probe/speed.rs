//! How long small calls take, and how fast a few MiB move. Hints: short, from caches, one call at a time.

use std::time::Duration;

use super::report::Figure;
use super::trial::{Trial, said};
use crate::{Publication, ReadPart};

/// Calls of a kind.
const CALLS: usize = 21;
/// Bytes that are moved each way.
const BYTES: usize = 32 << 20;

pub(super) async fn measure(trial: &Trial) -> Result<Vec<Figure>, String> {
    let mut took = [const { Vec::new() }; 4];
    for _ in 0..CALLS {
        let (name, record) = (trial.name(), trial.record());
        let page = trial.buffer(4096)?;
        let mut began = trial.now();
        let mut lap = |times: &mut Vec<Duration>| {
            let now = trial.now();
            times.push(now.saturating_sub(began));
            began = now;
        };
        let [miss, publication, read, replacement] = &mut took;
        trial.store.head(&name).await.map_err(said)?;
        lap(miss);
        trial.publish(&name, &page).await?;
        lap(publication);
        trial.read(&name, 0, 4096).await.map_err(said)?;
        lap(read);
        trial.store.create_record(&record, b"probe").await.map_err(said)?;
        lap(replacement);
    }
    let whats = ["a head that misses", "publishing 4 KiB", "reading 4 KiB", "creating a record"];
    let mut figures: Vec<Figure> =
        whats.into_iter().zip(took).map(|(what, times)| latency(what, times)).collect();
    figures.extend(bandwidth(trial).await?);
    Ok(figures)
}

fn latency(what: &'static str, mut times: Vec<Duration>) -> Figure {
    times.sort_unstable();
    let at = |index: usize| times.get(index).copied().unwrap_or_default();
    Figure::Latency {
        what,
        median: at(times.len() / 2),
        longest: at(times.len().saturating_sub(1)),
        calls: times.len(),
    }
}

async fn bandwidth(trial: &Trial) -> Result<[Figure; 2], String> {
    let name = trial.name();
    let part_bytes = trial.store.capabilities().part_bytes.clamp(64 << 10, BYTES);
    let mut part = trial.buffer(part_bytes)?;
    let parts = BYTES / part_bytes;
    let bytes = (parts * part_bytes) as u64;
    let offset = |index: usize| (index * part_bytes) as u64;
    let began = trial.now();
    let upload = trial.store.begin(&name, bytes).await.map_err(said)?;
    for index in 0..parts {
        let (back, written) = upload.write(offset(index), part).await;
        written.map_err(said)?;
        part = back;
    }
    if upload.commit().await.map_err(said)? != Publication::Published {
        return Err("a commit of a free name answered AlreadyExists".to_owned());
    }
    let published = trial.now();
    for index in 0..parts {
        let outcome = trial.store.read(&name, vec![ReadPart { offset: offset(index), buffer: part }]).await;
        outcome.result.map_err(said)?;
        let Some(back) = outcome.buffers.into_iter().next() else {
            return Err("a read kept its buffer".to_owned());
        };
        part = back;
    }
    let (write, read) = (published.saturating_sub(began), trial.now().saturating_sub(published));
    Ok([
        Figure::Bandwidth { what: "publishing", bytes, took: write },
        Figure::Bandwidth { what: "reading it back", bytes, took: read },
    ])
}
