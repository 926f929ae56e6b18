//! `cargo xtask soak`: the tests whose worth grows with their number, many times over.

use crate::processes::{Processes, Stdout};
use crate::workspace::{cargo, root};
use anyhow::{Context as _, Result, bail};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

/// For the tests: how often they do what they do.
const ROUNDS: &str = "KV_SOAK_ROUNDS";
/// Where the stores lie: kill -9 takes nothing from the page cache, so a disk would show no more, and wear.
const MEMORY: &str = "/dev/shm";
/// As many rounds as anybody wants.
const LIMIT: Duration = Duration::from_secs(24 * 60 * 60);

/// A test that reads the number of its rounds, and prints how far it is.
struct Subject {
    package: &'static str,
    test: &'static str,
    /// The one function of it.
    function: &'static str,
}

/// One after the other.
const SUBJECTS: [Subject; 2] = [
    Subject { package: "kv-storage", test: "crash", function: "killed_at_every_crash_point" },
    Subject {
        package: "kv-pipeline",
        test: "crash",
        function: "every_crash_point_leaves_nothing_or_a_whole_object",
    },
];

/// Kills a process at every crash point of a publication and of a hand-off, again and again, and looks at what it left.
///
/// `cargo xtask test` does the same a few times. Ends with one line of result.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  cargo xtask soak                every crash point 200 times, about ten minutes
  cargo xtask soak --rounds 2     to see it work")]
pub(crate) struct Options {
    /// How often a process is killed at each point.
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
}

/// Runs the command.
pub(crate) fn run(options: &Options) -> Result<()> {
    let root = root()?;
    let processes = Processes::new()?;
    // What a killed process leaves is in here, and goes with it on every way out of this function.
    let mut folder = tempfile::Builder::new();
    let folder = folder.prefix("kvbridge-soak-");
    let folder =
        folder.tempdir_in(MEMORY).or_else(|_| folder.tempdir()).context("no temp folder: set TMPDIR")?;
    // Before the first run, so that progress is progress.
    for subject in &SUBJECTS {
        pass(&processes, &mut command(subject, &root, &["--no-run"]), subject)?;
    }
    let started = Instant::now();
    for subject in &SUBJECTS {
        let arguments = ["--", "--exact", subject.function, "--nocapture"];
        let mut command = command(subject, &root, &arguments);
        command.env(ROUNDS, options.rounds.to_string()).env("TMPDIR", folder.path());
        pass(&processes, &mut command, subject)?;
    }
    let (rounds, seconds) = (options.rounds, started.elapsed().as_secs());
    println!("soak: passed, a process killed at every crash point {rounds} times, in {seconds} s");
    Ok(())
}

fn command(subject: &Subject, root: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(cargo());
    command.args(["test", "--quiet", "-p", subject.package, "--all-features", "--test", subject.test]);
    command.args(arguments).current_dir(root);
    command
}

fn pass(processes: &Processes, command: &mut Command, subject: &Subject) -> Result<()> {
    if !processes.run(command, Stdout::Inherit, LIMIT)?.status.success() {
        bail!("{} of {} failed; its message is above", subject.function, subject.package);
    }
    Ok(())
}
