//! The launcher's side of one rank process. Dropping it leaves no process behind.

use std::env;
use std::io::{BufRead, BufReader};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::Sender;
use std::thread;

use anyhow::{Context, Result};

use super::launcher::Event;
use super::rank_main::{EXIT_LOST, SUBCOMMAND};

/// A running rank, or one that has ended and been waited for.
#[derive(Debug)]
pub(super) struct RankProcess {
    child: Child,
    ended: bool,
}

impl RankProcess {
    /// Starts this program again as rank `rank`; returns it and the launcher's end of its socket.
    pub(super) fn spawn(rank: usize, events: &Sender<Event>) -> Result<(Self, UnixStream)> {
        let (ours, theirs) = UnixStream::pair()?;
        let program = env::current_exe().context("cannot find the program to start as a rank")?;
        let mut child = Command::new(program)
            .arg(SUBCOMMAND)
            .stdin(OwnedFd::from(theirs))
            // The leader's output is the group's; the others have nothing to say.
            .stdout(if rank == 0 { Stdio::inherit() } else { Stdio::null() })
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start rank {rank}"))?;
        if let Some(stderr) = child.stderr.take() {
            let events = events.clone();
            thread::spawn(move || {
                for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                    // A launcher that has ended reads nothing more.
                    let _ = events.send(Event::Line(rank, line));
                }
                let _ = events.send(Event::Ended(rank));
            });
        }
        Ok((Self { child, ended: false }, ours))
    }

    /// The exit status of a rank whose standard error has ended, which it does when the process does.
    pub(super) fn wait(&mut self) -> Result<ExitStatus> {
        let status = self.child.wait()?;
        self.ended = true;
        Ok(status)
    }

    pub(super) fn is_running(&self) -> bool {
        !self.ended
    }

    pub(super) fn kill(&mut self) {
        if !self.ended {
            // Ending by itself meanwhile is as good.
            let _ = self.child.kill();
        }
    }
}

impl Drop for RankProcess {
    fn drop(&mut self) {
        if !self.ended {
            self.kill();
            let _ = self.child.wait();
        }
    }
}

/// How a rank ended, in words, and whether it only followed another one.
pub(super) fn describe(status: ExitStatus, last_words: Option<&str>) -> (String, bool) {
    let ending = match (status.signal(), status.code()) {
        (Some(signal), _) => format!("it was killed by signal {signal}"),
        (None, Some(code)) => format!("it ended with exit code {code}"),
        (None, None) => "it ended".to_owned(),
    };
    let follows = status.code() == Some(i32::from(EXIT_LOST));
    (last_words.map_or(ending, str::to_owned), follows)
}
