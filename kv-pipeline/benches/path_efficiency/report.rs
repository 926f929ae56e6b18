//! The table for people and the JSON for everything else.

use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::figures::{Spread, Verdict, ratio};
use crate::machine::Machine;
use crate::rows::{Direction, Subject};

/// One measured row.
pub(crate) struct Measured {
    pub(crate) subject: Subject,
    pub(crate) name: String,
    pub(crate) threads: Option<usize>,
    /// GB/s of payload, round by round.
    pub(crate) samples: Vec<f64>,
    /// Their spread.
    pub(crate) rate: Spread,
}

/// Everything that a run has to tell.
pub(crate) struct Report {
    pub(crate) store: String,
    /// What kind of figure this is.
    pub(crate) caveat: String,
    pub(crate) machine: Machine,
    pub(crate) work: String,
    pub(crate) rows: Vec<Measured>,
}

/// How a pipeline row compares.
struct Efficiency {
    store_alone: Option<Spread>,
    copy_and_store: Option<Spread>,
    /// The plain loop that copies along the same runs, takes the same checksums and keeps the same promise.
    same_work: Option<Spread>,
    verdict: Option<Verdict>,
}

impl Report {
    /// The plain loop of a kind with the best median.
    fn best(&self, subject: Subject) -> Option<&Measured> {
        let rows = self.rows.iter().filter(|row| row.subject == subject);
        rows.max_by(|a, b| a.rate.median.total_cmp(&b.rate.median))
    }

    fn efficiency(&self, row: &Measured) -> Option<Efficiency> {
        let achieved = row.rate.median;
        let ratio = |subject| ratio(&row.samples, &self.best(subject)?.samples);
        let along = |direction: Direction, same_work| {
            let ceiling = self.best(Subject::CopyAndStore(direction));
            Some(Efficiency {
                store_alone: ratio(Subject::StoreAlone(direction)),
                copy_and_store: ratio(Subject::CopyAndStore(direction)),
                same_work: ratio(same_work),
                verdict: ceiling
                    .map(|ceiling| Verdict::of(achieved, ceiling.rate.median, direction.target().0)),
            })
        };
        match row.subject {
            Subject::PipelineSave(shape) => along(Direction::Save, Subject::SaveRuns(shape)),
            Subject::PipelineLoad(shape, delivery) => {
                along(Direction::Load, Subject::LoadRuns(shape, delivery))
            }
            Subject::PipelineFlushed => {
                let (store_alone, same_work) = (None, None);
                let copy_and_store = ratio(Subject::Flushed);
                Some(Efficiency { store_alone, copy_and_store, same_work, verdict: None })
            }
            _ => None,
        }
    }

    /// The tables.
    pub(crate) fn to_text(&self) -> String {
        let mut text = format!("\n== {}\n{}\n\n", self.store, self.caveat);
        for (name, value) in self.machine.facts() {
            let _ = writeln!(text, "{name:<14} {value}");
        }
        let _ = writeln!(text, "{:<14} {}\n", "work", self.work);
        let _ = writeln!(
            text,
            "{:<54} {:>22} {:>22}",
            "ceilings, GB/s: median (min-max)", "1 thread", "2 threads"
        );
        for row in self.rows.iter().filter(|row| row.threads.is_some()) {
            let with = |threads| {
                let found =
                    self.rows.iter().find(|other| other.threads == Some(threads) && other.name == row.name);
                found.map(|row| row.rate.to_string())
            };
            // A loop that runs with one thread and with two is shown once.
            if row.threads == Some(2) && with(1).is_some() {
                continue;
            }
            let shown = |threads| with(threads).unwrap_or_else(|| "-".to_owned());
            let _ = writeln!(text, "{:<54} {:>22} {:>22}", row.name, shown(1), shown(2));
        }
        let _ = writeln!(
            text,
            "\n{:<58} {:>20} {:>13} {:>14} {:>11}  mission: save 20-25, load 16-20",
            "pipeline with verification, GB/s",
            "median (min-max)",
            "/ store alone",
            "/ copy + store",
            "/ same work"
        );
        let shown = |ratio: Option<Spread>| {
            ratio.map_or_else(|| "-".to_owned(), |Spread { median, .. }| format!("{median:.2}"))
        };
        for row in &self.rows {
            let Some(Efficiency { store_alone, copy_and_store, same_work, verdict }) = self.efficiency(row)
            else {
                continue;
            };
            let verdict = verdict.map_or_else(String::new, |verdict| verdict.to_string());
            let line = format!(
                "{:<58} {:>20} {:>13} {:>14} {:>11}  {verdict}",
                row.name,
                row.rate.to_string(),
                shown(store_alone),
                shown(copy_and_store),
                shown(same_work)
            );
            let _ = writeln!(text, "{}", line.trim_end());
        }
        for direction in Direction::BOTH {
            if let (Some(alone), Some(copied)) =
                (self.best(Subject::StoreAlone(direction)), self.best(Subject::CopyAndStore(direction)))
            {
                let shown = |row: &Measured| {
                    format!("{:.2} ({}, {} thread(s))", row.rate.median, row.name, row.threads.unwrap_or(1))
                };
                let _ = writeln!(text, "best for {}: {}; {}", direction.name(), shown(alone), shown(copied));
            }
        }
        text.push_str(
            "GB = 1e9 bytes of payload. Efficiency: median of the ratios to the best plain loop, round by round; \"same work\": the plain loop that also takes the checksums, copies along the blocks and runs of the row's layout and, for whole chunks, copies nothing of a chunk before all of it was read and its checksums taken. \"out of reach here\": the best copy + store of this run is below the target.\n",
        );
        text
    }

    /// Every figure.
    pub(crate) fn to_json(&self) -> Value {
        let spread = |Spread { median, min, max }| json!({ "median": median, "min": min, "max": max });
        let row = |row: &Measured| {
            let efficiency = self.efficiency(row);
            json!({
                "subject": format!("{:?}", row.subject),
                "name": row.name,
                "threads": row.threads,
                "gb_per_s": spread(row.rate),
                "rounds": row.samples,
                "per_store_alone": efficiency.as_ref().and_then(|it| it.store_alone).map(spread),
                "per_copy_and_store": efficiency.as_ref().and_then(|it| it.copy_and_store).map(spread),
                "per_same_work": efficiency.as_ref().and_then(|it| it.same_work).map(spread),
                "mission": efficiency.and_then(|it| it.verdict).map(|verdict| verdict.to_string()),
            })
        };
        json!({
            "store": self.store,
            "caveat": self.caveat,
            "machine": self.machine.to_json(),
            "work": self.work,
            "rows": self.rows.iter().map(row).collect::<Vec<_>>(),
        })
    }
}
