//! `cargo xtask test`: everything that must hold before a change lands, on a machine with just a Rust toolchain.

mod asan;
mod checks;
mod features;
mod instructions;
mod interop;
mod nfs;
mod nixl;
mod vendor;
mod weed;

use crate::processes::{Interrupted, Processes, Stdout};
use crate::table::Table;
use crate::workspace::{Metadata, root};
use anyhow::{Result, bail};
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// A hung step ends some time; hung tests end sooner, by nextest's own limit.
const STEP_LIMIT: Duration = Duration::from_secs(60 * 60);

/// Format, lints, tests, docs, feature builds, licences and the project's own rules; one table at the end.
///
/// A failing step does not stop the later ones, except the long `model` step. Optional steps need what a machine may
/// lack: they are run if they can be, or skipped with the reason; `--require` turns such a skip into a failure.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  cargo xtask test                          everything this machine can
  cargo xtask test --list                   the steps and what they need
  cargo xtask test --only tests,tidy        two steps
  cargo xtask test --require model,deny     what continuous integration asks for")]
pub(crate) struct Options {
    /// Run only these steps (see --list).
    #[arg(long, value_name = "STEP", value_delimiter = ',', value_parser = step_named)]
    only: Vec<&'static Step>,
    /// Fail where these optional steps would be skipped.
    #[arg(long, value_name = "STEP", value_delimiter = ',', value_parser = optional_step_named)]
    require: Vec<&'static Step>,
    /// Stop at the first failure.
    #[arg(long)]
    fail_fast: bool,
    /// Print the steps and end.
    #[arg(long)]
    list: bool,
}

/// One thing to check.
#[derive(Debug)]
struct Step {
    name: &'static str,
    about: &'static str,
    /// Needs what a machine with just a Rust toolchain may lack.
    optional: bool,
    /// Takes minutes, and says little once another step has failed.
    dear: bool,
    run: fn(&Bench) -> Result<Outcome>,
}

const STEPS: [Step; 18] = [
    Step::plain("fmt", "rustfmt changes nothing", checks::fmt),
    Step::plain("clippy", "no lint fires in any crate, test or example", checks::clippy),
    Step::plain("tests", "all tests, by cargo-nextest where it is installed", checks::tests),
    Step::plain("doctests", "the examples in the documentation", checks::doctests),
    Step::plain("doc", "the documentation builds without a warning, as on docs.rs", checks::doc),
    Step::plain("features", "each kv-* crate with no feature, and with each one alone", features::run),
    Step::plain("tidy", "the project's own rules, as cargo xtask tidy", checks::tidy),
    Step {
        name: "deny",
        about: "licences, duplicates and sources of dependencies (needs cargo-deny)",
        optional: true,
        dear: false,
        run: checks::deny,
    },
    Step {
        name: "interop",
        about: "Python reads and writes the same objects from the specification alone (needs python3-pip and the network)",
        optional: true,
        dear: false,
        run: interop::run,
    },
    Step {
        name: "instructions",
        about: "instruction counts of the hot loops stay below their limits (needs valgrind)",
        optional: true,
        dear: false,
        run: instructions::run,
    },
    Step {
        name: "asan",
        about: "the device crates through dlopen under AddressSanitizer (needs x86-64 and rustup's toolchain)",
        optional: true,
        dear: false,
        run: asan::run,
    },
    Step {
        name: "weed",
        about: "the S3 suite on SeaweedFS, one server and a cluster that loses one (needs python3-pip and the network)",
        optional: true,
        dear: false,
        run: weed::run,
    },
    Step {
        name: "nfs",
        about: "two hosts on NFS 3 and 4.2, as cargo xtask nfs-lab (needs root, /dev/net/tun, user-mode-linux and nfs-ganesha)",
        optional: true,
        dear: true,
        run: nfs::run,
    },
    Step {
        name: "nixl",
        about: "stores whose bytes NIXL moves, with its wheels, a new one and one that is too old (needs python3-pip and the network)",
        optional: true,
        dear: false,
        run: nixl::run,
    },
    Step {
        name: "hip",
        about: "the real HIP library without a device, its compiler, and CUDA's runtime (needs libamdhip64-5 and python3-pip)",
        optional: true,
        dear: false,
        run: vendor::hip,
    },
    Step {
        name: "clang19",
        about: "the ROCm kernels compile to the committed code objects (needs clang-19 and lld-19)",
        optional: true,
        dear: false,
        run: vendor::clang19,
    },
    Step {
        name: "gfx950",
        about: "the same for gfx950, by a clang from PyPI (needs python3-pip and the network)",
        optional: true,
        dear: false,
        run: vendor::gfx950,
    },
    Step {
        name: "model",
        about: "the hand-off tests in release on the real model (needs python3-pip and the network)",
        optional: true,
        dear: true,
        run: checks::model,
    },
];

impl Step {
    const fn plain(name: &'static str, about: &'static str, run: fn(&Bench) -> Result<Outcome>) -> Self {
        Self { name, about, optional: false, dear: false, run }
    }
}

fn step_named(name: &str) -> Result<&'static Step, String> {
    let names: Vec<&str> = STEPS.iter().map(|step| step.name).collect();
    STEPS.iter().find(|step| step.name == name).ok_or_else(|| format!("the steps are {}", names.join(", ")))
}

fn optional_step_named(name: &str) -> Result<&'static Step, String> {
    let names: Vec<&str> = STEPS.iter().filter(|step| step.optional).map(|step| step.name).collect();
    step_named(name)
        .ok()
        .filter(|step| step.optional)
        .ok_or_else(|| format!("the optional steps are {}", names.join(", ")))
}

/// How a step ended.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Outcome {
    Passed,
    Failed(String),
    Skipped(String),
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Passed => f.write_str("passed"),
            Self::Failed(why) => write!(f, "FAILED: {why}"),
            Self::Skipped(why) => write!(f, "skipped: {why}"),
        }
    }
}

/// What every step works with.
struct Bench {
    processes: Processes,
    root: PathBuf,
    metadata: Metadata,
}

impl Bench {
    /// Runs one command of a step in the workspace root, printing it first and its output as it comes.
    fn run(&self, command: &mut Command) -> Result<bool> {
        let program = Path::new(command.get_program()).file_name().unwrap_or_default();
        let words = std::iter::once(program).chain(command.get_args());
        let words: Vec<_> = words.map(|word| word.to_string_lossy()).collect();
        println!("   {}", words.join(" "));
        command.current_dir(&self.root);
        Ok(self.processes.run(command, Stdout::Inherit, STEP_LIMIT)?.status.success())
    }
}

/// Runs the steps.
pub(crate) fn run(options: &Options) -> Result<()> {
    if options.list {
        print!("{}", list());
        return Ok(());
    }
    let chosen = |step: &Step| options.only.is_empty() || options.only.iter().any(|o| o.name == step.name);
    let required = |step: &Step| options.require.iter().any(|r| r.name == step.name);
    if let Some(step) = options.require.iter().find(|step| !chosen(step)) {
        bail!("--require {0} without --only {0}: the step would not run", step.name);
    }
    let root = root()?;
    let bench = Bench { processes: Processes::new()?, metadata: Metadata::read(&root)?, root };

    let mut done: Vec<(&str, Outcome, Duration)> = Vec::new();
    for step in STEPS.iter().filter(|step| chosen(step)) {
        let failed = done.iter().any(|(_, outcome, _)| matches!(outcome, Outcome::Failed(_)));
        let start = Instant::now();
        let outcome = if failed && (options.fail_fast || step.dear) {
            Outcome::Skipped("an earlier step failed".into())
        } else {
            println!("\n== {}: {}", step.name, step.about);
            settle((step.run)(&bench), required(step))?
        };
        println!("== {}: {outcome} ({:.1} s)", step.name, start.elapsed().as_secs_f64());
        done.push((step.name, outcome, start.elapsed()));
    }
    println!("\n{}", summary(&done));
    let failures = done.iter().filter(|(_, outcome, _)| matches!(outcome, Outcome::Failed(_))).count();
    if failures > 0 {
        bail!("{failures} of {} steps failed", done.len());
    }
    Ok(())
}

/// An error fails its step and no more, except that a signal ends the whole run; a required step may not be skipped.
fn settle(result: Result<Outcome>, required: bool) -> Result<Outcome> {
    Ok(match result {
        Err(error) if error.is::<Interrupted>() => return Err(error),
        Err(error) => Outcome::Failed(format!("{error:#}")),
        Ok(Outcome::Skipped(why)) if required => Outcome::Failed(format!("required, but {why}")),
        Ok(outcome) => outcome,
    })
}

fn list() -> String {
    let mut table = Table::new(["step", "optional", "what"]);
    for step in &STEPS {
        table.row([step.name, if step.optional { "yes" } else { "" }, step.about]);
    }
    table.render()
}

/// The table, and a closing line in the form that test runners' readers know.
fn summary(done: &[(&str, Outcome, Duration)]) -> String {
    let mut table = Table::new(["step", "seconds", "result"]);
    let (mut passed, mut failed, mut skipped) = (0, 0, 0);
    for (name, outcome, time) in done {
        table.row([(*name).to_owned(), format!("{:.1}", time.as_secs_f64()), outcome.to_string()]);
        *match outcome {
            Outcome::Passed => &mut passed,
            Outcome::Failed(_) => &mut failed,
            Outcome::Skipped(_) => &mut skipped,
        } += 1;
    }
    format!("{}\n{passed} passed, {failed} failed, {skipped} skipped", table.render())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_steps_and_required_steps_that_always_run_are_refused() {
        assert_eq!(step_named("tidy").unwrap().name, "tidy");
        assert!(step_named("tidi").unwrap_err().contains("tidy"));
        assert_eq!(optional_step_named("model").unwrap().name, "model");
        assert_eq!(
            optional_step_named("fmt").unwrap_err(),
            "the optional steps are deny, interop, instructions, asan, weed, nfs, nixl, hip, clang19, gfx950, model"
        );
        assert!(optional_step_named("gpu").is_err());
    }

    #[test]
    fn a_required_skip_and_an_error_are_failures_and_a_signal_ends_the_run() {
        let skipped = || Ok(Outcome::Skipped("no network".into()));
        assert_eq!(settle(skipped(), false).unwrap(), Outcome::Skipped("no network".into()));
        assert_eq!(settle(skipped(), true).unwrap(), Outcome::Failed("required, but no network".into()));
        assert_eq!(settle(Err(anyhow::anyhow!("broken")), false).unwrap(), Outcome::Failed("broken".into()));
    }

    #[test]
    fn the_last_line_counts_the_steps() {
        let second = Duration::from_secs(1);
        let done = [
            ("fmt", Outcome::Passed, second),
            ("clippy", Outcome::Failed("it found something".into()), second),
            ("deny", Outcome::Skipped("absent".into()), second),
            ("tidy", Outcome::Passed, second),
        ];
        let text = summary(&done);
        assert!(text.contains("clippy  1.0      FAILED: it found something"), "{text}");
        assert_eq!(text.lines().last(), Some("2 passed, 1 failed, 1 skipped"));
    }
}
