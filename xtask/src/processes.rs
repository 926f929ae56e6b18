//! Child processes that never outlive us.
//!
//! Each child leads a process group of its own, so that one signal reaches its whole tree exactly once and what it leaves
//! behind can be ended. One thread turns our signals into events, one per child waits for its exit; the caller's thread
//! takes both from one channel, so there is no polling and every wait has a deadline.

use anyhow::{Context as _, Result, bail};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use std::fmt;
use std::io::Read as _;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitCode, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

/// What a child gets to clean up after a signal, before it is killed.
const GRACE: Duration = Duration::from_secs(5);

/// The user (or the system) asked us to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Interrupted(pub i32);

impl Interrupted {
    /// The shells' convention: 128 + signal, so 130 for Ctrl-C.
    pub(crate) fn exit_code(self) -> ExitCode {
        u8::try_from(128 + self.0).map_or(ExitCode::FAILURE, ExitCode::from)
    }
}

impl fmt::Display for Interrupted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "stopped by signal {}", self.0)
    }
}

impl std::error::Error for Interrupted {}

enum Event {
    Signal(i32),
    Exited(Pid),
}

/// Takes away what `cargo run` has told us of our own package: build scripts of dependencies (ring's is one) look at these variables,
/// and would run again, with all that stands on them, whenever cargo is started by another package's program or from a shell.
fn without_our_package(command: &mut Command) {
    let names = std::env::vars_os().map(|(name, _)| name);
    for name in names.filter(|name| is_of_a_package(&name.to_string_lossy())) {
        if !command.get_envs().any(|(set, _)| set == name) {
            command.env_remove(name);
        }
    }
}

fn is_of_a_package(variable: &str) -> bool {
    ["CARGO_PKG_", "CARGO_MANIFEST_"].iter().any(|prefix| variable.starts_with(prefix))
}

/// Whether a child's standard output goes to the terminal or to the caller.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stdout {
    Inherit,
    Capture,
}

/// How a child ended, and what it printed if that was captured.
pub(crate) struct Finished {
    pub status: ExitStatus,
    pub stdout: String,
}

/// Starts children one at a time and stops them when we are told to stop.
pub(crate) struct Processes {
    events: Receiver<Event>,
    sender: Sender<Event>,
    grace: Duration,
}

impl Processes {
    /// Takes over SIGINT, SIGTERM and SIGHUP for the rest of the program.
    pub(crate) fn new() -> Result<Self> {
        let (sender, events) = channel();
        let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP]).context("signals cannot be watched")?;
        let from_signals = sender.clone();
        thread::Builder::new().name("signals".into()).spawn(move || {
            for signal in signals.forever() {
                if from_signals.send(Event::Signal(signal)).is_err() {
                    return;
                }
            }
        })?;
        Ok(Self { events, sender, grace: GRACE })
    }

    /// For tests: the test runner keeps its own signals.
    #[cfg(test)]
    pub(crate) fn without_signals() -> Self {
        let (sender, events) = channel();
        Self { events, sender, grace: Duration::from_millis(100) }
    }

    /// Fails with [`Interrupted`] if a signal came while no child ran.
    pub(crate) fn check(&self) -> Result<()> {
        while let Ok(event) = self.events.try_recv() {
            if let Event::Signal(signal) = event {
                return Err(Interrupted(signal).into());
            }
        }
        Ok(())
    }

    /// Runs `command` to its end, or for `limit` at most. Its whole process group is gone when this returns.
    ///
    /// # Errors
    /// [`Interrupted`] after a signal, which was passed on to the child; a sentence when it could not start or took too long.
    pub(crate) fn run(&self, command: &mut Command, stdout: Stdout, limit: Duration) -> Result<Finished> {
        self.check()?;
        let name = command.get_program().to_string_lossy().into_owned();
        without_our_package(command);
        command.stdin(Stdio::null()).process_group(0);
        if stdout == Stdout::Capture {
            command.stdout(Stdio::piped());
        }
        let mut child = command.spawn().with_context(|| format!("{name} could not be started"))?;
        let pid = Pid::from_child(&child);
        let from_child = self.sender.clone();
        thread::spawn(move || {
            // NOWAIT leaves a zombie: the group's number stays ours until what is left in the group is ended below.
            let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
            while matches!(waitid(WaitId::Pid(pid), options), Err(Errno::INTR)) {}
            let _: Result<(), _> = from_child.send(Event::Exited(pid));
        });
        let reader = child.stdout.take().map(|mut pipe| {
            thread::spawn(move || {
                let mut text = String::new();
                pipe.read_to_string(&mut text).map(|_| text)
            })
        });

        let stopped = self.wait(pid, &name, limit);
        signal_group(pid, Signal::KILL);
        let stopped = stopped?;
        let status = child.wait().with_context(|| format!("{name} could not be waited for"))?;
        let text = match reader.map(thread::JoinHandle::join) {
            None => String::new(),
            Some(Ok(text)) => text.with_context(|| format!("the output of {name} could not be read"))?,
            Some(Err(_)) => bail!("the thread that read the output of {name} ended early"),
        };
        match stopped {
            None => Ok(Finished { status, stdout: text }),
            Some(Stop::Signal(signal)) => Err(Interrupted(signal).into()),
            Some(Stop::Limit) => bail!("{name} was stopped: it did not end within {} s", limit.as_secs()),
        }
    }

    /// Waits for the exit of `pid`, passing signals on and escalating to SIGKILL; says why the child was stopped, if it was.
    fn wait(&self, pid: Pid, name: &str, limit: Duration) -> Result<Option<Stop>> {
        let mut stop = None;
        let mut killed = false;
        let mut until = Instant::now() + limit;
        loop {
            match self.events.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(Event::Exited(which)) if which == pid => return Ok(stop),
                Ok(Event::Exited(_)) => continue,
                Ok(Event::Signal(signal)) if stop.is_none() => {
                    stop = Some(Stop::Signal(signal));
                    signal_group(pid, Signal::from_named_raw(signal).unwrap_or(Signal::TERM));
                }
                Err(RecvTimeoutError::Timeout) if stop.is_none() => {
                    stop = Some(Stop::Limit);
                    signal_group(pid, Signal::TERM);
                }
                Err(RecvTimeoutError::Timeout) if killed => {
                    bail!("{name} (process {}) did not end after SIGKILL", pid.as_raw_nonzero());
                }
                // A second signal, or the grace period is over.
                Ok(Event::Signal(_)) | Err(RecvTimeoutError::Timeout) => {
                    killed = true;
                    signal_group(pid, Signal::KILL);
                }
                Err(RecvTimeoutError::Disconnected) => bail!("the thread that waits for {name} ended early"),
            }
            until = Instant::now() + self.grace;
        }
    }
}

enum Stop {
    Signal(i32),
    Limit,
}

/// A group that has already gone is what we want, so errors are not looked at.
fn signal_group(pid: Pid, signal: Signal) {
    let _: Result<(), Errno> = kill_process_group(pid, signal);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_does_not_see_which_package_ran_us_and_sees_all_else() {
        assert!(std::env::var_os("CARGO_PKG_NAME").is_some(), "cargo has started this test");
        let mut command = Command::new("sh");
        command.args(["-c", "echo ${CARGO_PKG_NAME-none} ${CARGO_MANIFEST_DIR-none} ${PATH:+path}"]);
        command.env("CARGO_MANIFEST_DIR", "asked-for");
        let finished = Processes::without_signals().run(&mut command, Stdout::Capture, GRACE).unwrap();
        assert_eq!(finished.stdout, "none asked-for path\n");
    }

    const LONG: Duration = Duration::from_secs(60);

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn output_and_status_are_the_childs() {
        let finished = Processes::without_signals()
            .run(&mut shell("echo hello; exit 3"), Stdout::Capture, LONG)
            .unwrap();
        assert_eq!((finished.stdout.as_str(), finished.status.code()), ("hello\n", Some(3)));
    }

    #[test]
    fn a_program_that_is_missing_is_named() {
        let error = Processes::without_signals()
            .run(&mut Command::new("no-such-program"), Stdout::Inherit, LONG)
            .err()
            .expect("it cannot start");
        assert!(error.to_string().contains("no-such-program"), "{error}");
    }

    #[test]
    fn a_child_that_ignores_sigterm_is_killed_after_the_grace() {
        let mut deaf = shell("trap '' TERM INT; while :; do sleep 1; done");
        let error = Processes::without_signals()
            .run(&mut deaf, Stdout::Capture, Duration::from_millis(50))
            .err()
            .expect("too long");
        assert!(error.to_string().contains("did not end within"), "{error}");
    }

    #[test]
    fn a_signal_is_passed_on_and_stops_the_child() {
        let processes = Processes::without_signals();
        let sender = processes.sender.clone();
        // The child tells that it is ready through its parent's end of the test: a file in a temp folder.
        let folder = tempfile::tempdir().unwrap();
        let ready = folder.path().join("ready");
        let fifo = shell(&format!("mkfifo {}", ready.display())).status().unwrap();
        assert!(fifo.success());
        let path = ready.clone();
        let signaller = thread::spawn(move || {
            // Opening blocks until the child opens the other end, after it has set its trap.
            std::fs::read(path).unwrap();
            sender.send(Event::Signal(SIGINT)).map_err(|_| ()).unwrap();
        });
        let script = format!("trap 'exit 7' INT; echo > {}; while :; do sleep 0.05; done", ready.display());
        let error = processes.run(&mut shell(&script), Stdout::Capture, LONG).err().expect("interrupted");
        signaller.join().unwrap();
        assert_eq!(error.downcast_ref::<Interrupted>(), Some(&Interrupted(SIGINT)));
    }

    #[test]
    fn a_signal_between_children_stops_the_next_one() {
        let processes = Processes::without_signals();
        processes.sender.send(Event::Signal(SIGTERM)).map_err(|_| ()).unwrap();
        let error = processes.run(&mut shell("exit 0"), Stdout::Inherit, LONG).err().expect("interrupted");
        assert_eq!(error.downcast_ref::<Interrupted>(), Some(&Interrupted(SIGTERM)));
    }

    #[test]
    fn what_a_child_leaves_behind_is_ended() {
        // Were it not ended, it would write into the pipe that is read here to its end.
        let script = "(sleep 20; echo survived) & echo ended";
        let finished = Processes::without_signals().run(&mut shell(script), Stdout::Capture, LONG).unwrap();
        assert_eq!(finished.stdout, "ended\n");
    }
}
