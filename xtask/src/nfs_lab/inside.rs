//! One run, as the first process of its own namespaces: when it ends, for whatever reason, the kernel ends every process, mount and
//! network device of the run with it.

use super::guest::{Said, boot};
use super::plan::{GUESTS, Plan};
use super::results::Results;
use super::server::{Server, export};
use super::{OUTCOME, control, needs};
use crate::processes::Interrupted;
use anyhow::{Context as _, Result, bail};
use rustix::mount::{MountFlags, mount};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use std::fs;
use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

/// Folders that the server's programs write to; the run has its own.
const PRIVATE: [&str; 2] = ["/run", "/var/lib/nfs"];

/// What a guest's first program says to the lab, not to people.
const LAB: &str = "KV-LAB ";

/// Runs a plan; what the tests said is left beside the logs.
pub(super) fn run(path: &Path) -> Result<()> {
    if std::process::id() != 1 {
        bail!("--inside is for the lab's own use: start the lab without it");
    }
    end_at_signals()?;
    let plan: Plan = serde_json::from_slice(&fs::read(path)?)?;
    tmpfs(&plan.folder)?;
    for folder in PRIVATE {
        tmpfs(Path::new(folder))?;
    }
    // Below /var/lib/nfs and /run.
    fs::create_dir("/var/lib/nfs/ganesha")?;
    fs::create_dir("/run/rpcbind")?;
    let server = Server::start(&plan)?;
    control::listen(server.pid())?;
    let (sender, said) = channel();
    let [a, b] = GUESTS;
    boot(&plan, a, &plan.a, sender.clone())?;
    boot(&plan, b, &plan.b, sender)?;
    let results = listen(&plan, &said)?;
    fs::write(plan.logs.join(OUTCOME), serde_json::to_vec(&results)?)?;
    if plan.keep {
        let path = path.display();
        println!(
            "The lab waits, with {} exported; Ctrl-C ends it. To look at the server:",
            export(&plan).display()
        );
        println!("   nsenter --target $(pgrep -nf -- '--inside {path}') --net --mount --pid bash");
        while said.recv().is_ok() {}
    }
    Ok(())
}

/// The first process of a namespace ignores signals unless it handles them.
fn end_at_signals() -> Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP]).context("signals cannot be watched")?;
    thread::spawn(move || {
        if let Some(signal) = signals.forever().next() {
            std::process::exit(128 + Interrupted(signal).0);
        }
    });
    Ok(())
}

/// A file system of this run's own; nobody else sees it.
fn tmpfs(folder: &Path) -> Result<()> {
    mount("tmpfs", folder, "tmpfs", MountFlags::NODEV, Some(c"mode=0755"))
        .with_context(|| format!("a tmpfs could not be mounted on {}", folder.display()))
}

/// Reads the guests' consoles until host a's jobs have ended, or those of both.
fn listen(plan: &Plan, said: &Receiver<Said>) -> Result<Results> {
    let until = Instant::now() + Duration::from_secs(plan.limit);
    let [a, _] = GUESTS;
    let mut results = Results::default();
    let mut last = Instant::now();
    // What a kernel says before its first program runs is in the log.
    let mut booted = Vec::new();
    let mut running = if plan.both { GUESTS.len() } else { 1 };
    loop {
        match said.recv_timeout(until.saturating_duration_since(Instant::now())) {
            Ok(Said::Line(host, line)) => {
                let is_result = host == a.name && results.read(&line);
                if is_result && line.starts_with("test ") {
                    println!("   {host}| {line} ({:.1} s)", last.elapsed().as_secs_f64());
                    last = Instant::now();
                } else if is_result || (plan.verbose && booted.contains(&host) && !line.starts_with(LAB)) {
                    println!("   {host}| {line}");
                }
                if line == "KV-LAB boots" {
                    booted.push(host);
                }
                if let Some(why) = line.strip_prefix("KV-LAB broken ") {
                    bail!("host {host} did not come up: {why}");
                }
                if host == a.name || plan.both {
                    running -= usize::from(results.ended(&line));
                }
                if running == 0 {
                    return Ok(results);
                }
            }
            Ok(Said::Ended(host)) => {
                bail!("host {host} ended early: its console is in {}", plan.logs.display())
            }
            Err(RecvTimeoutError::Timeout) => {
                println!("   host a did not end its jobs within {} s", plan.limit);
                return Ok(results);
            }
            Err(RecvTimeoutError::Disconnected) => bail!("the threads that read the consoles ended early"),
        }
    }
}

/// The command that runs `plan` inside.
pub(super) fn command(plan: &Path) -> Result<std::process::Command> {
    let mut command = needs::unshare();
    command.arg(std::env::current_exe()?).arg("nfs-lab").arg("--inside").arg(plan);
    Ok(command)
}
