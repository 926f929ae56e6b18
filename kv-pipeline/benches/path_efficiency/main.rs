//! How close save and load come to what the machine can do: the full pipeline with verification beside the best plain loops over
//! the same bytes, in one process, in turns.
//!
//! ```text
//! cargo xtask bench --quick                                              # every store of this machine
//! cargo bench -p kv-pipeline --bench path_efficiency -- --help           # one store
//! ```
//!
//! `ceilings` has the plain loops, `engine` the pipeline under test, `rows` what is measured, `figures` medians and verdicts,
//! `report` the table.

#![deny(unsafe_code)]
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a benchmark's output is the terminal's")]

mod arguments;
mod ceilings;
mod engine;
mod figures;
mod machine;
#[expect(unsafe_code, reason = "registering an engine's memory is the one unsafe step of the API")]
mod registration;
mod report;
mod rows;
mod same_runs;

use std::cell::RefCell;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use clap::Parser as _;
use kv_storage::posix::FsyncPolicy;
use kv_storage::{KvStore, PosixOptions, PosixStore};
use tempfile::TempDir;
use tokio::runtime::Runtime;

use arguments::{Arguments, Target};
use ceilings::Ceilings;
use engine::{Engine, OBJECT_PAYLOAD, SEED, SHAPES};
use figures::{Spread, in_turns};
use machine::Machine;
use report::{Measured, Report};
use rows::Row;
use same_runs::SameRuns;

/// The stores of a run: one that is compared with plain loops, which do not flush, and one as it is by default.
struct Stores {
    /// Removed, with all that is in it, when this is dropped.
    folder: Option<TempDir>,
    compared: Arc<dyn KvStore>,
    flushing: Option<Arc<dyn KvStore>>,
    name: String,
    caveat: String,
}

impl Stores {
    fn open(runtime: &Runtime, target: Option<&Target>) -> Result<Self> {
        let parent = match target {
            Some(Target::Memory) => {
                return Ok(Self {
                    folder: None,
                    compared: runtime.block_on(kv_storage::open("memory://"))?,
                    flushing: None,
                    name: "memory://".into(),
                    caveat: "Memory of this process: NOT a storage figure. \"Store\" in its ceilings is a memcpy into reused huge pages.".into(),
                });
            }
            Some(Target::Folder(path)) => path.clone(),
            None => std::env::temp_dir(),
        };
        let folder = tempfile::Builder::new()
            .prefix("kvbridge-bench-")
            .tempdir_in(&parent)
            .with_context(|| format!("no folder can be made in {}", parent.display()))?;
        let open = |name, options: PosixOptions| -> Result<Arc<dyn KvStore>> {
            let root = folder.path().join(name);
            std::fs::create_dir(&root)?;
            Ok(Arc::new(runtime.block_on(PosixStore::open(&root, options.format_if_empty(true)))?))
        };
        let unflushed = PosixOptions::default().fsync(FsyncPolicy::None);
        let (compared, flushing) = (open("compared", unflushed)?, open("default", PosixOptions::default())?);
        std::fs::create_dir(folder.path().join("plain"))?;
        let system = machine::file_system(folder.path());
        let kind = if system.starts_with("tmpfs") {
            "A tmpfs is memory: these are NOT storage figures."
        } else {
            "Files were written just before they are read and nothing drops the page cache: these are page-cache figures, NOT storage figures, except where fsync is named."
        };
        Ok(Self {
            name: format!("file://{}", parent.display()),
            caveat: format!(
                "{system}\n{kind} The pipeline's store runs without fsync (FsyncPolicy::None), as the plain loops do, unless a row says otherwise."
            ),
            folder: Some(folder),
            compared,
            flushing: Some(flushing),
        })
    }

    /// Where plain loops write.
    fn plain(&self) -> Option<std::path::PathBuf> {
        self.folder.as_ref().map(|folder| folder.path().join("plain"))
    }
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let stopped = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        // A second signal ends the process at once.
        signal_hook::flag::register_conditional_shutdown(signal, 130, Arc::clone(&stopped))?;
        signal_hook::flag::register(signal, Arc::clone(&stopped))?;
    }
    let machine = Machine::describe();
    let stores = Stores::open(&runtime, arguments.store.as_ref())?;
    let report = measure(&arguments, &runtime, &stores, &stopped, machine)?;
    print!("{}", report.to_text());
    if let Some(path) = &arguments.json {
        write_json(path, &report)?;
    }
    Ok(())
}

/// Measures every row in turns.
fn measure(
    arguments: &Arguments,
    runtime: &Runtime,
    stores: &Stores,
    stopped: &AtomicBool,
    mut machine: Machine,
) -> Result<Report> {
    let objects: u32 = if arguments.quick { 16 } else { 32 };
    let rounds = arguments.rounds.unwrap_or(if arguments.quick { 5 } else { 9 });
    ensure!(rounds > 0, "--rounds 0: nothing would be measured");
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(2);
    let payload = f64::from(objects) * f64::from(u32::try_from(OBJECT_PAYLOAD)?);
    eprintln!("preparing {}", stores.name);

    let plain = stores.plain();
    let loops = RefCell::new(Ceilings::new(plain.as_deref(), usize::try_from(objects)?, threads)?);
    let wanted = |name: &str| {
        arguments.only.is_empty() || arguments.only.iter().any(|only| name.contains(only.as_str()))
    };
    let mut engines = Vec::new();
    for (number, shape) in SHAPES.into_iter().enumerate() {
        if rows::names(number).iter().any(|name| wanted(name)) {
            let mut engine = Engine::new(runtime, &stores.compared, shape, objects, shape.name)?;
            engine.prove(runtime).with_context(|| shape.name)?;
            engines.push((number, SameRuns::new(shape, objects)?, RefCell::new(engine)));
        }
    }
    let flushing =
        stores.flushing.as_ref().map(|store| Engine::new(runtime, store, SHAPES[0], objects, "flushed"));
    let flushing = flushing.transpose()?.map(RefCell::new);

    let mut all = rows::ceilings(&loops, threads, flushing.is_some());
    for (shape, runs, engine) in &engines {
        all.extend(rows::same_runs(&loops, threads, *shape, runs));
        all.extend(rows::pipeline(runtime, engine, *shape));
    }
    all.extend(flushing.as_ref().map(|engine| rows::flushed(runtime, engine, SHAPES[0].name)));
    all.retain(|row| wanted(&row.name));
    machine.note("huge pages got", machine::huge_pages_in_use());
    machine.note(
        "engine memory",
        engines.first().map_or_else(String::new, |(.., engine)| engine.borrow().pages()),
    );
    let rows = take_turns(&mut all, rounds, payload, stopped)?;
    Ok(Report {
        store: stores.name.clone(),
        caveat: stores.caveat.clone(),
        machine,
        work: format!(
            "{objects} objects of {} MiB (80 layers, head dim 128, bf16, 256 tokens, one KV head) per row and round; {rounds} rounds in turns after one that is dropped; shuffle seed {SEED:#x}",
            OBJECT_PAYLOAD >> 20
        ),
        rows,
    })
}

fn take_turns(
    all: &mut [Row<'_>],
    rounds: usize,
    payload: f64,
    stopped: &AtomicBool,
) -> Result<Vec<Measured>> {
    let mut announced = None;
    let samples = in_turns(rounds, all.len(), |round, index| {
        if stopped.load(Ordering::Relaxed) {
            bail!("stopped by a signal");
        }
        if announced.replace(round) != Some(round) {
            eprintln!("round {round} of {rounds}{}", if round == 0 { " (warms up, dropped)" } else { "" });
        }
        let row = &mut all[index];
        let took: Duration = (row.work)().with_context(|| row.name.clone())?;
        Ok(payload / took.as_secs_f64() / 1e9)
    })?;
    let measured = all.iter().zip(samples).filter_map(|(row, samples)| {
        let rate = Spread::of(&samples)?;
        Some(Measured { subject: row.subject, name: row.name.clone(), threads: row.threads, samples, rate })
    });
    Ok(measured.collect())
}

fn write_json(path: &Path, report: &Report) -> Result<()> {
    let mut text = serde_json::to_string_pretty(&report.to_json())?;
    text.push('\n');
    std::fs::write(path, text).with_context(|| format!("{} cannot be written", path.display()))
}
