//! What one run of the lab is to do: written by the command, read by the process inside the namespaces.

use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// The server's address on the lab's own network, and those of the two guests.
pub(super) const SERVER: &str = "10.99.0.1";
pub(super) const GUESTS: [Host; 2] = [
    Host { name: "a", address: "10.99.0.11", octet: 11 },
    Host { name: "b", address: "10.99.0.12", octet: 12 },
];

/// Where the agent listens on host b, and the lab's control on the server.
pub(super) const AGENT_PORT: u16 = 7000;
pub(super) const CONTROL_PORT: u16 = 7001;

/// One guest.
#[derive(Debug, Clone, Copy)]
pub(super) struct Host {
    pub name: &'static str,
    pub address: &'static str,
    /// Last part of its address, and of its network device's.
    pub octet: u8,
}

/// One run.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Plan {
    /// Everything of the run is beneath it, on a tmpfs that only the run sees.
    pub folder: PathBuf,
    /// Where consoles and the server's log are kept.
    pub logs: PathBuf,
    /// `3` or `4.2`.
    pub version: String,
    /// Mount options of `/mnt/kv`.
    pub options: String,
    /// Kernel modules of user-mode Linux.
    pub modules: PathBuf,
    /// Library that user-mode Linux is started with.
    pub registers: PathBuf,
    /// Commands of host a, one after the other; the run ends after them.
    pub a: Vec<Job>,
    /// What host b does meanwhile, or also to its end.
    pub b: Vec<Job>,
    /// Whether the run waits for host b too.
    pub both: bool,
    /// Longest time in seconds from the boot to the end of host a's jobs.
    pub limit: u64,
    /// Wait for Ctrl-C afterwards.
    pub keep: bool,
    /// Show every line of the guests, not just results.
    pub verbose: bool,
}

/// A command in a guest.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Job {
    pub words: Vec<String>,
    pub environment: Vec<(String, String)>,
}

impl Job {
    pub(super) fn new<'a>(words: impl IntoIterator<Item = &'a str>) -> Self {
        let address = |host: &str, port| format!("{host}:{port}");
        let [_, b] = GUESTS;
        let environment = vec![
            ("KV_NFS_AGENT".to_owned(), address(b.address, AGENT_PORT)),
            ("KV_NFS_CONTROL".to_owned(), address(SERVER, CONTROL_PORT)),
        ];
        Self { words: words.into_iter().map(str::to_owned).collect(), environment }
    }

    pub(super) fn with(mut self, name: &str, value: impl ToString) -> Self {
        self.environment.push((name.to_owned(), value.to_string()));
        self
    }
}
