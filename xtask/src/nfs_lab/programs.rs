//! The test programs that run in the guests, built by cargo on this machine.

use super::plan::Job;
use crate::processes::{Processes, Stdout};
use crate::workspace::cargo;
use anyhow::{Context as _, Result, bail};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(30 * 60);

/// Test targets of kv-storage.
const TWO_HOSTS: &str = "nfs";
const CRASHES: &str = "crash";

/// Paths of the programs.
pub(super) struct Programs {
    two_hosts: String,
    crashes: String,
}

impl Programs {
    /// Builds them.
    pub(super) fn build(processes: &Processes, root: &Path) -> Result<Self> {
        let mut command = Command::new(cargo());
        command.current_dir(root).args(["test", "--quiet", "-p", "kv-storage", "--all-features", "--no-run"]);
        command.args(["--message-format", "json-render-diagnostics"]);
        command.args(["--test", TWO_HOSTS, "--test", CRASHES]);
        let finished = processes.run(&mut command, Stdout::Capture, LIMIT)?;
        if !finished.status.success() {
            bail!("the tests of kv-storage do not build: the errors are above");
        }
        let mut found = executables(&finished.stdout);
        let mut take = |name| found.remove(name).with_context(|| format!("cargo built no test named {name}"));
        Ok(Self { two_hosts: take(TWO_HOSTS)?, crashes: take(CRASHES)? })
    }

    /// What hosts a and b do.
    pub(super) fn jobs(&self, only: Option<&str>, full: bool) -> (Vec<Job>, Vec<Job>) {
        let tests =
            |program: &str| Job::new([program, "--test-threads=1", "--show-output"].into_iter().chain(only));
        let mut two_hosts = tests(&self.two_hosts);
        two_hosts.words.extend(["--ignored", "--skip", "agent::"].map(str::to_owned));
        // Its directories are made where TMPDIR says: on the mount. A store's many directories make a round long here.
        let crashes = tests(&self.crashes).with("TMPDIR", "/mnt/kv");
        let a = vec![two_hosts, crashes.with("KV_SOAK_ROUNDS", if full { 20 } else { 1 })];
        let agent =
            Job::new([self.two_hosts.as_str(), "--ignored", "--exact", "agent::serves_until_the_lab_ends"]);
        (a, vec![agent])
    }
}

/// Names and paths of test programs in cargo's messages.
fn executables(messages: &str) -> BTreeMap<String, String> {
    let messages = messages.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    messages
        .filter_map(|message| {
            let text = |pointer| Some(message.pointer(pointer)?.as_str()?.to_owned());
            Some((text("/target/name")?, text("/executable")?))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_found_in_cargos_messages() {
        let messages = r#"{"reason":"compiler-artifact","target":{"name":"kv_storage"},"executable":null}
{"reason":"compiler-artifact","target":{"name":"nfs"},"executable":"/t/nfs-1"}
not json
{"reason":"build-finished","success":true}"#;
        let found: Vec<_> = executables(messages).into_iter().collect();
        assert_eq!(found, [("nfs".to_owned(), "/t/nfs-1".to_owned())]);
    }
}
