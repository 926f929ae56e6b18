//! What the guests may ask of the lab, one word a connection: whether the agent listens, and that the server stops or goes on.

use super::plan::{CONTROL_PORT, SERVER};
use super::server::signal;
use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Signal};
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;

/// Whether host b's agent listens.
#[derive(Default)]
struct Agent {
    listens: Mutex<bool>,
    changed: Condvar,
}

/// Answers until the process ends.
pub(super) fn listen(server: Pid) -> Result<()> {
    let listener = TcpListener::bind((SERVER, CONTROL_PORT)).context("the lab's control cannot listen")?;
    let agent = Arc::new(Agent::default());
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let agent = Arc::clone(&agent);
            // Whoever asks waits for a line with a deadline, and says what it got instead.
            thread::spawn(move || answer(stream, server, &agent));
        }
    });
    Ok(())
}

fn answer(stream: TcpStream, server: Pid, agent: &Agent) {
    let mut word = String::new();
    let mut reader = BufReader::new(&stream);
    let outcome = match reader.read_line(&mut word) {
        Ok(_) => act(word.trim(), server, agent),
        Err(error) => Err(error.into()),
    };
    let words = outcome.map_or_else(|error| format!("{error:#}"), |()| "ok".to_owned());
    let _ = writeln!(&stream, "{words}");
}

fn act(word: &str, server: Pid, agent: &Agent) -> Result<()> {
    // A flag cannot be left half-changed.
    let listens = || agent.listens.lock().unwrap_or_else(PoisonError::into_inner);
    match word {
        "agent-listens" => {
            *listens() = true;
            agent.changed.notify_all();
        }
        "await-agent" => {
            let waited = agent.changed.wait_while(listens(), |listens| !*listens);
            drop(waited.unwrap_or_else(PoisonError::into_inner));
        }
        "stop-server" => signal(server, Signal::STOP)?,
        "resume-server" => signal(server, Signal::CONT)?,
        other => bail!("the lab does not know {other:?}"),
    }
    Ok(())
}
