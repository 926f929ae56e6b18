//! Starts the ranks, connects them, and sees to it that they end together: all done, or all gone.

use std::fmt;
use std::io::{self, Write};
use std::process::ExitStatus;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use super::hub::{FromRank, Hub};
use super::job::Job;
use super::rank_main::LAST_WORDS;
use super::rank_process::{RankProcess, describe};

/// A rank that takes none of its bytes for this long is stuck.
const SEND_PATIENCE: Duration = Duration::from_secs(60);
/// How long ranks may take to end once the group is to stop: longer than the grace they give themselves.
const ENDING: Duration = Duration::from_secs(10);

/// What the launcher reacts to.
#[derive(Debug)]
pub(super) enum Event {
    /// Something on a rank's socket.
    Socket(FromRank),
    /// A line on a rank's standard error.
    Line(usize, String),
    /// A rank's standard error has ended, and so has the rank.
    Ended(usize),
    /// Somebody wants the group to stop.
    Signal(i32),
}

/// Why a group did not finish.
#[derive(Debug)]
pub enum Failure {
    /// A rank failed: the first one that did not merely follow another.
    Rank {
        /// Which.
        rank: usize,
        /// Of how many.
        tp: usize,
        /// What it said, or how it ended.
        cause: String,
    },
    /// The launcher was told to stop by this signal.
    Signal(i32),
    /// The launcher itself could not go on.
    Launcher(anyhow::Error),
}

impl fmt::Display for Failure {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rank { rank, tp, cause } => write!(out, "rank {rank} of {tp} failed: {cause}"),
            Self::Signal(signal) => write!(out, "stopped by signal {signal}; no rank is left behind"),
            Self::Launcher(error) => write!(out, "{error:#}"),
        }
    }
}

/// Runs one process per job and waits for all of them.
///
/// # Errors
/// The first rank's failure, or the signal that ended the group. No process is left in either case.
pub fn launch(jobs: &[Job]) -> Result<(), Failure> {
    let (events, inbox) = channel();
    let mut group = Group::start(jobs, &events).map_err(Failure::Launcher)?;
    group.run(&inbox)
}

struct Group {
    hub: Hub,
    ranks: Vec<RankProcess>,
    last_words: Vec<Option<String>>,
    /// In the order in which they came: rank, cause, whether it only followed another failure.
    failures: Vec<(usize, String, bool)>,
    signal: Option<i32>,
    /// Set when the group is to end.
    killing_at: Option<Instant>,
}

impl Group {
    fn start(jobs: &[Job], events: &Sender<Event>) -> Result<Self> {
        let mut signals = Signals::new([SIGINT, SIGTERM])?;
        let to_launcher = events.clone();
        thread::spawn(move || {
            signals.forever().try_for_each(|signal| to_launcher.send(Event::Signal(signal)))
        });

        let (mut ranks, mut links) = (Vec::new(), Vec::new());
        for job in jobs {
            let (rank, link) = RankProcess::spawn(job.rank, events)?;
            ranks.push(rank);
            links.push(link);
        }
        let hub = Hub::start(links, SEND_PATIENCE, events, Event::Socket)?;
        for job in jobs {
            // A rank that is gone already is seen as such in a moment, with its reason.
            let _ = hub.brief(job.rank, &serde_json::to_vec(job).context("writing down the job")?);
        }
        let last_words = vec![None; jobs.len()];
        Ok(Self { hub, ranks, last_words, failures: Vec::new(), signal: None, killing_at: None })
    }

    fn run(&mut self, inbox: &Receiver<Event>) -> Result<(), Failure> {
        while self.ranks.iter().any(RankProcess::is_running) {
            let event = match self.killing_at {
                None => inbox.recv().ok(),
                Some(at) => inbox.recv_timeout(at.saturating_duration_since(Instant::now())).ok(),
            };
            match event {
                Some(Event::Socket(event)) => self.hub.on(event),
                Some(Event::Line(rank, line)) => self.heard(rank, line),
                Some(Event::Ended(rank)) => {
                    let status = self.ranks[rank].wait().map_err(Failure::Launcher)?;
                    self.ended(rank, status);
                }
                Some(Event::Signal(signal)) if self.signal.is_none() => {
                    self.signal = Some(signal);
                    self.end();
                }
                // A second signal, or the time is over.
                Some(Event::Signal(_)) | None => break,
            }
        }
        // Whoever still runs is killed now, before anything is said about it.
        self.ranks.clear();
        self.verdict()
    }

    fn heard(&mut self, rank: usize, line: String) {
        match line.strip_prefix(LAST_WORDS) {
            Some(words) => self.last_words[rank] = Some(words.to_owned()),
            // Nothing can be done about a closed standard error.
            None => drop(writeln!(io::stderr(), "rank {rank}: {line}")),
        }
    }

    fn ended(&mut self, rank: usize, status: ExitStatus) {
        if !status.success() {
            let (cause, follows) = describe(status, self.last_words[rank].as_deref());
            self.failures.push((rank, cause, follows));
            self.end();
        }
    }

    /// Tells all ranks to stop, by closing their sockets; kills the rest when their time is over.
    fn end(&mut self) {
        self.hub.close();
        self.killing_at.get_or_insert_with(|| Instant::now() + ENDING);
    }

    fn verdict(&self) -> Result<(), Failure> {
        if let Some(signal) = self.signal {
            return Err(Failure::Signal(signal));
        }
        let own = self.failures.iter().find(|(.., follows)| !follows);
        match own.or(self.failures.first()) {
            None => Ok(()),
            Some((rank, cause, _)) => {
                Err(Failure::Rank { rank: *rank, tp: self.last_words.len(), cause: cause.clone() })
            }
        }
    }
}
