//! The life of a rank process: read the job, do it, say in one line what went wrong.

use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::process::{self, ExitCode};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use super::job::{Job, Role};
use super::link::{Link, Lost};
use super::stop::Stop;
use crate::roles;

/// The hidden subcommand that makes a process a rank.
pub const SUBCOMMAND: &str = "rank";
/// Starts the line on standard error that says why a rank failed.
pub const LAST_WORDS: &str = "error: ";
/// Exit code of a rank that failed only because another one, or the launcher, is gone.
pub const EXIT_LOST: u8 = 3;

/// The job comes at once; a launcher that does not send it is broken.
const FIRST_MESSAGE: Duration = Duration::from_secs(60);
/// Ranks wait for each other this much longer than for the store: one may wait for the store meanwhile.
const MARGIN: Duration = Duration::from_secs(60);
/// How long a rank that must stop may take to let go of what it holds.
const GRACE: Duration = Duration::from_secs(5);

/// Runs this process as a rank; its standard input is the socket to the launcher.
#[must_use]
pub fn run() -> ExitCode {
    let Err(error) = work() else {
        return ExitCode::SUCCESS;
    };
    let sentence = format!("{error:#}").replace('\n', " ");
    // Nowhere is left to report a closed standard error to.
    let _ = writeln!(io::stderr(), "{LAST_WORDS}{sentence}");
    ExitCode::from(if error.downcast_ref::<Lost>().is_some() { EXIT_LOST } else { 1 })
}

fn work() -> Result<()> {
    let stop = Stop::default();
    stop_on_signals(stop.clone())?;
    exit_after_grace(stop.clone());
    let socket = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    let link = Link::start(socket, stop.clone(), FIRST_MESSAGE).context("the socket to the launcher")?;
    let job: Job = serde_json::from_slice(&link.receive()?).context("the launcher's job is garbled")?;
    let mut peers = link.as_rank(job.rank, job.tp).patient(job.deadline + MARGIN);
    match job.role {
        Role::Prefill => roles::prefill::run(&job, &mut peers, &stop),
        Role::Decode { max_tokens, policy } => {
            roles::decode::run(&job, max_tokens, policy, &mut peers, &stop)
        }
    }
}

/// Ctrl-C reaches every process of the terminal's group; each rank stops in order, none is cut off.
fn stop_on_signals(stop: Stop) -> Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM])?;
    thread::spawn(move || {
        for _ in signals.forever() {
            stop.set();
        }
    });
    Ok(())
}

/// A rank that must stop, because its launcher is gone or by a signal, is gone soon: at the latest after the grace.
fn exit_after_grace(stop: Stop) {
    thread::spawn(move || {
        while !stop.wait(Duration::MAX) {}
        // Nobody sets this flag: it is a plain wait that ends early only when the process does.
        let _ = Stop::default().wait(GRACE);
        process::exit(i32::from(EXIT_LOST));
    });
}
