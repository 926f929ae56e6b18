//! `cargo xtask fuzz`: builds the fuzz targets on the stable toolchain, runs them one after the other, one line each at the end.
//!
//! cargo-fuzz is not needed: its layout is kept (`fuzz/`), but all that it adds to cargo is the flags below, for a nightly compiler.
//! What the fuzzer finds on its way stands in `target/fuzz`; a crash is written to `fuzz/artifacts` and makes the command fail.

use crate::processes::{Interrupted, Processes, Stdout};
use crate::table::Table;
use crate::workspace::{Metadata, cargo, root};
use anyhow::{Context as _, Result, bail, ensure};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

/// The targets, as in `fuzz/fuzz_targets`.
const TARGETS: [&str; 3] = ["decode", "key_text", "plan"];

/// Longest input of a target: an object of a few sections, or all that a description has numbers for.
fn most_bytes(target: &str) -> String {
    format!("-max_len={}", if target == "decode" { 12_000 } else { 512 })
}

/// Coverage as libFuzzer wants it. These are options of LLVM's pass, which the stable compiler has too.
const COVERAGE: [&str; 7] = [
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "-Ccodegen-units=1",
    "--cfg=fuzzing",
];

/// One input that takes longer, or makes the target larger, is a finding. One that merely was slow once is not: on a machine that stood
/// still for a while, each is.
const LIMITS: [&str; 3] = ["-timeout=30", "-report_slow_units=3600", "-rss_limit_mb=2048"];

const BUILD_LIMIT: Duration = Duration::from_secs(60 * 60);
const PROGRESS: Duration = Duration::from_secs(10);

/// Search for inputs that break kv-format: objects, geometries and plans, names and keys.
///
/// The time is that of all targets together. Inputs that reach new code are kept in target/fuzz and are where the next run begins;
/// --merge takes the fewest of them that reach as much into fuzz/corpus, which `cargo xtask test` replays.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  cargo xtask fuzz                              ten minutes
  cargo xtask fuzz --minutes 60 --target plan   one target for an hour
  cargo xtask fuzz --minutes 30 --merge         and commit what was learnt
Needs a C++ compiler for libFuzzer (apt-get install g++), which comes with the crate libfuzzer-sys.")]
pub(crate) struct Options {
    /// Minutes in all, shared by the targets.
    #[arg(long, default_value_t = 10.0, value_parser = minutes)]
    minutes: f64,
    /// Only this target.
    #[arg(long, value_parser = TARGETS)]
    target: Vec<String>,
    /// Afterwards renew fuzz/corpus with the smallest inputs that reach all that is reached.
    #[arg(long)]
    merge: bool,
}

fn minutes(text: &str) -> Result<f64, String> {
    let minutes: f64 = text.parse().map_err(|_| format!("{text:?} is no number"))?;
    if (0.05..=10_000.0).contains(&minutes) { Ok(minutes) } else { Err("expected 0.05 to 10000".into()) }
}

/// Runs the command.
pub(crate) fn run(options: &Options) -> Result<()> {
    let root = root()?;
    let folder = Metadata::read(&root)?.target_directory.join("fuzz");
    let processes = Processes::new()?;
    let programs = build(&processes, &root, &folder)?;
    let fuzzer = Fuzzer { processes, root, folder, programs };
    let chosen: Vec<&str> = TARGETS
        .into_iter()
        .filter(|name| options.target.is_empty() || options.target.iter().any(|target| target == name))
        .collect();
    let mut table = Table::new(["target", "executions", "edges covered", "inputs kept", "crashes"]);
    let mut result = Ok(());
    let count = u32::try_from(chosen.len()).unwrap_or(u32::MAX);
    let time = Duration::from_secs_f64(options.minutes * 60.0) / count;
    for target in &chosen {
        let outcome = fuzzer.fuzz(target, time);
        let figures = Figures::of(&fuzzer.log(target))?;
        let crashes = fuzzer.artifacts(target)?;
        let shown = |figure: Option<u64>| figure.map_or_else(|| "?".to_owned(), |n| n.to_string());
        table.row([
            (*target).to_owned(),
            shown(figures.executions),
            shown(figures.edges),
            shown(figures.inputs),
            crashes.len().to_string(),
        ]);
        match outcome {
            // What was found until now is told; a signal ends the rest.
            Err(error) if error.is::<Interrupted>() => {
                result = Err(error);
                break;
            }
            Err(error) => return Err(error),
            Ok(true) if crashes.is_empty() => {}
            Ok(_) => {
                for crash in &crashes {
                    println!(
                        "{target}: {} (run {} on it)",
                        crash.display(),
                        fuzzer.program(target).display()
                    );
                }
                result = Err(anyhow::anyhow!(
                    "{target} failed; its log is {}. Mend it and put the input into fuzz/corpus/{target}",
                    fuzzer.log(target).display()
                ));
            }
        }
    }
    print!("\n{}", table.render());
    result?;
    if options.merge {
        chosen.iter().try_for_each(|target| fuzzer.merge(target))?;
    }
    Ok(())
}

/// The folder of the programs.
fn build(processes: &Processes, root: &Path, folder: &Path) -> Result<PathBuf> {
    // Naming the host's triple keeps the flags from build scripts.
    let triple = host(processes)?;
    let mut command = Command::new(cargo());
    command.args(["build", "--release", "--manifest-path"]).arg(root.join("fuzz/Cargo.toml"));
    command.arg("--target-dir").arg(folder).args(["--target", &triple]);
    command.env("RUSTFLAGS", COVERAGE.join(" ")).env_remove("CARGO_ENCODED_RUSTFLAGS");
    if !processes.run(&mut command, Stdout::Inherit, BUILD_LIMIT)?.status.success() {
        bail!("the fuzz targets do not build (libFuzzer needs a C++ compiler: apt-get install g++)");
    }
    Ok(folder.join(triple).join("release"))
}

fn host(processes: &Processes) -> Result<String> {
    let mut command = Command::new(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()));
    let finished = processes.run(command.arg("-vV"), Stdout::Capture, BUILD_LIMIT)?;
    let host = finished.stdout.lines().find_map(|line| line.strip_prefix("host: ")).map(str::to_owned);
    host.context("rustc -vV names no host")
}

struct Fuzzer {
    processes: Processes,
    root: PathBuf,
    folder: PathBuf,
    programs: PathBuf,
}

impl Fuzzer {
    fn program(&self, target: &str) -> PathBuf {
        self.programs.join(target)
    }

    fn log(&self, target: &str) -> PathBuf {
        self.folder.join(format!("{target}.log"))
    }

    fn seeds(&self, target: &str) -> PathBuf {
        self.root.join("fuzz/corpus").join(target)
    }

    /// Where the fuzzer keeps what it learns; outside of the tree, so that an interrupted run leaves nothing to tidy up.
    fn learnt(&self, target: &str) -> PathBuf {
        self.folder.join("corpus").join(target)
    }

    /// Inputs that made the target fail, of this run and of earlier ones that were not mended.
    fn artifacts(&self, target: &str) -> Result<Vec<PathBuf>> {
        let folder = self.artifact_folder(target);
        let entries =
            fs::read_dir(&folder).with_context(|| format!("{} cannot be read", folder.display()))?;
        entries.map(|entry| Ok(entry?.path())).collect()
    }

    fn artifact_folder(&self, target: &str) -> PathBuf {
        self.root.join("fuzz/artifacts").join(target)
    }

    /// Whether the target ran for that long without a failure.
    fn fuzz(&self, target: &str, time: Duration) -> Result<bool> {
        let (learnt, artifacts) = (self.learnt(target), self.artifact_folder(target));
        for folder in [&learnt, &artifacts] {
            fs::create_dir_all(folder).with_context(|| format!("{} cannot be created", folder.display()))?;
        }
        let log = self.log(target);
        let file = File::create(&log).with_context(|| format!("{} cannot be created", log.display()))?;
        println!("{target}: {} s, log in {}", time.as_secs(), log.display());
        let mut command = Command::new(self.program(target));
        command.arg(&learnt).arg(self.seeds(target)).stderr(file).current_dir(&self.folder);
        command.arg(format!("-max_total_time={}", time.as_secs().max(1)));
        command.arg(format!("-artifact_prefix={}/", artifacts.display()));
        command.arg(most_bytes(target)).arg("-print_final_stats=1").args(LIMITS);
        let (stop, stopped) = channel::<()>();
        thread::scope(|scope| {
            let log = &log;
            scope.spawn(move || {
                while stopped.recv_timeout(PROGRESS) == Err(RecvTimeoutError::Timeout) {
                    if let Ok(Figures { executions: Some(n), edges: Some(edges), .. }) = Figures::of(log) {
                        println!("{target}: {n} executions, {edges} edges covered");
                    }
                }
            });
            let finished = self.processes.run(&mut command, Stdout::Inherit, time + BUILD_LIMIT);
            drop(stop);
            finished.map(|finished| finished.status.success())
        })
    }

    /// Puts the smallest inputs that reach as much as all do into a new folder, and that in place of the committed one.
    fn merge(&self, target: &str) -> Result<()> {
        let fresh = tempfile::Builder::new().prefix("merge-").tempdir_in(&self.folder)?;
        let mut command = Command::new(self.program(target));
        command
            .args(["-merge=1", &most_bytes(target)])
            .arg(fresh.path())
            .arg(self.seeds(target))
            .arg(self.learnt(target));
        command.stderr(File::create(self.log(target))?).current_dir(&self.folder);
        let merged = self.processes.run(&mut command, Stdout::Inherit, BUILD_LIMIT)?.status.success();
        ensure!(merged, "{target}: merging failed; the log is {}", self.log(target).display());
        let seeds = self.seeds(target);
        fs::create_dir_all(&seeds)?;
        // New ones first: stopped in between, the corpus is larger than needed and not smaller.
        let mut kept = Vec::new();
        for entry in fs::read_dir(fresh.path())? {
            let entry = entry?;
            fs::copy(entry.path(), seeds.join(entry.file_name()))?;
            kept.push(entry.file_name());
        }
        for entry in fs::read_dir(&seeds)? {
            let entry = entry?;
            if !kept.contains(&entry.file_name()) {
                fs::remove_file(entry.path())?;
            }
        }
        println!("{target}: {} inputs in {}", kept.len(), seeds.display());
        Ok(())
    }
}

/// What libFuzzer's log says of a run so far.
#[derive(Debug, Default, PartialEq, Eq)]
struct Figures {
    executions: Option<u64>,
    edges: Option<u64>,
    inputs: Option<u64>,
}

impl Figures {
    fn of(log: &Path) -> Result<Self> {
        let bytes = fs::read(log).with_context(|| format!("{} cannot be read", log.display()))?;
        Ok(Self::in_text(&String::from_utf8_lossy(&bytes)))
    }

    /// From lines such as `#1021719 DONE cov: 457 ft: 871 corp: 147/63Kb ...`.
    fn in_text(text: &str) -> Self {
        let mut figures = Self::default();
        for line in text.lines() {
            let words: Vec<&str> = line.split_whitespace().collect();
            let behind = |name: &str| {
                let at = words.iter().position(|word| *word == name)?;
                words.get(at + 1)?.split('/').next()?.parse().ok()
            };
            let executions = words.first().and_then(|word| word.strip_prefix('#')?.parse().ok());
            if let (Some(executions), Some(edges)) = (executions, behind("cov:")) {
                figures = Self { executions: Some(executions), edges: Some(edges), inputs: behind("corp:") };
            }
            figures.executions = behind("stat::number_of_executed_units:").or(figures.executions);
        }
        figures
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_read_from_libfuzzers_log() {
        let log = "INFO: Seed: 7\n#2\tINITED cov: 12 ft: 13 corp: 1/1b exec/s: 0 rss: 26Mb\n\
                   #1021719\tDONE   cov: 457 ft: 871 corp: 147/63Kb lim: 12000 exec/s: 39296 rss: 28Mb\n\
                   stat::number_of_executed_units: 1021720\n";
        let expected = Figures { executions: Some(1_021_720), edges: Some(457), inputs: Some(147) };
        assert_eq!(Figures::in_text(log), expected);
        assert_eq!(Figures::in_text("no figures"), Figures::default());
    }

    #[test]
    fn each_target_is_a_program_of_the_fuzz_crate() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/fuzz_targets");
        let mut files: Vec<String> = fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().path().file_stem().unwrap().to_string_lossy().into_owned())
            .collect();
        files.sort();
        assert_eq!(files, TARGETS);
    }

    #[test]
    fn minutes_are_a_positive_number() {
        assert_eq!(minutes("0.5"), Ok(0.5));
        for wrong in ["0", "-1", "NaN", "inf", "ten"] {
            assert!(minutes(wrong).is_err(), "{wrong}");
        }
    }
}
