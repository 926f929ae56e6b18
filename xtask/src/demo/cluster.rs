//! The command lines of the `handoff` binary: one cluster per call, as a process tree of its own.

use super::report::{Decode, Prefill, Reference};
use crate::processes::{Finished, Processes, Stdout};
use anyhow::{Context as _, Result, bail};
use serde::de::DeserializeOwned;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// Which weights every process of a run uses.
pub(super) enum Weights {
    File(PathBuf),
    Seeded,
}

/// How to start clusters; what they write goes to `folder`.
pub(super) struct Cluster<'a> {
    pub processes: &'a Processes,
    pub binary: PathBuf,
    pub folder: &'a Path,
    pub weights: Weights,
    pub max_tokens: u32,
    pub limit: Duration,
}

impl Cluster<'_> {
    /// Puts the prompt into a file: a long one does not belong on a command line.
    pub(super) fn write_prompt(&self, text: &str) -> Result<PathBuf> {
        let path = self.folder.join("prompt.txt");
        std::fs::write(&path, text).with_context(|| format!("{} cannot be written", path.display()))?;
        Ok(path)
    }

    /// Makes the store's directory a store, if it is none yet.
    pub(super) fn format(&self, store: &str) -> Result<()> {
        let mut command = Command::new(&self.binary);
        command.args(["format", "--store", store]);
        if !self.processes.run(&mut command, Stdout::Capture, self.limit)?.status.success() {
            bail!("handoff format failed; its message is above");
        }
        Ok(())
    }

    /// Runs prefill cluster A; the answer is the request id that B needs, and A's report.
    pub(super) fn prefill(&self, store: &str, tp: u32, prompt: &Path) -> Result<(String, Prefill)> {
        let mut command = self.command("prefill", prompt);
        command.args(["--store", store, "--tp", &tp.to_string()]);
        let (finished, report) = self.run("prefill", command, Stdout::Capture)?;
        let request = finished.stdout.trim().to_owned();
        if request.is_empty() || request.contains(char::is_whitespace) {
            bail!("handoff prefill printed {request:?}, expected exactly one request id");
        }
        Ok((request, report))
    }

    /// Runs decode cluster B, its text going straight to our standard output.
    pub(super) fn decode(&self, store: &str, tp: u32, request: &str, prompt: &Path) -> Result<Decode> {
        let mut command = self.command("decode", prompt);
        command.args(["--store", store, "--tp", &tp.to_string(), "--request", request]);
        command.args(["--max-tokens", &self.max_tokens.to_string()]);
        Ok(self.run("decode", command, Stdout::Inherit)?.1)
    }

    /// Runs the same prompt in a single process that has neither store nor clusters.
    pub(super) fn reference(&self, prompt: &Path) -> Result<Reference> {
        let mut command = self.command("reference", prompt);
        command.args(["--max-tokens", &self.max_tokens.to_string()]);
        // Its text is the same as B's, or the run fails: printing it would say nothing new.
        Ok(self.run("reference", command, Stdout::Capture)?.1)
    }

    fn command(&self, role: &str, prompt: &Path) -> Command {
        let mut command = Command::new(&self.binary);
        command.arg(role);
        match &self.weights {
            Weights::File(path) => command.arg("--model").arg(path),
            Weights::Seeded => command.arg("--seeded"),
        };
        command.arg("--prompt-file").arg(prompt);
        command
    }

    fn run<R: DeserializeOwned>(
        &self,
        role: &str,
        mut command: Command,
        stdout: Stdout,
    ) -> Result<(Finished, R)> {
        let path = self.folder.join(format!("{role}.json"));
        command.arg("--report").arg(&path);
        let finished = self.processes.run(&mut command, stdout, self.limit)?;
        if !finished.status.success() {
            bail!("handoff {role} failed ({}); its message is above", finished.status);
        }
        let json = std::fs::read(&path).with_context(|| format!("handoff {role} left no report"))?;
        // The next run must not read this one's report.
        std::fs::remove_file(&path)?;
        let report = serde_json::from_slice(&json)
            .with_context(|| format!("the report of handoff {role} has an unknown shape"))?;
        Ok((finished, report))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    /// Runs `prefill` with a shell script in the place of the `handoff` binary.
    fn prefill_by(script: &str) -> Result<(String, Prefill)> {
        let folder = tempfile::tempdir()?;
        let binary = folder.path().join("handoff");
        std::fs::write(&binary, format!("#!/bin/sh\nfor report; do :; done\n{script}\n"))?;
        std::fs::set_permissions(&binary, std::fs::Permissions::from_mode(0o700))?;
        let processes = Processes::without_signals();
        let cluster = Cluster {
            processes: &processes,
            binary,
            folder: folder.path(),
            weights: Weights::Seeded,
            max_tokens: 1,
            limit: Duration::from_secs(60),
        };
        let prompt = cluster.write_prompt("hello")?;
        cluster.prefill("file:///nowhere", 3, &prompt)
    }

    const REPORT: &str = r#"{"role": "prefill", "layout": "x", "tp": 3, "block_tokens": 16, "prompt_tokens": 5,
        "saved_tokens": 4, "objects": 2, "deduplicated": 0, "kv_bytes": 10, "save_seconds": 0.5}"#;

    #[test]
    fn the_request_id_and_the_report_come_back() {
        let (request, report) =
            prefill_by(&format!("echo request-1\ncat > \"$report\" <<'E'\n{REPORT}\nE")).unwrap();
        assert_eq!((request.as_str(), report.kv_bytes), ("request-1", 10));
    }

    #[test]
    fn a_failure_a_missing_id_and_a_missing_report_are_told_apart() {
        let failed = prefill_by("exit 4").unwrap_err().to_string();
        assert!(failed.contains("handoff prefill failed (exit status: 4)"), "{failed}");
        let silent = prefill_by(&format!("echo '{REPORT}' > \"$report\"")).unwrap_err().to_string();
        assert!(silent.contains("expected exactly one request id"), "{silent}");
        let without = prefill_by("echo request-1").unwrap_err().to_string();
        assert!(without.contains("left no report"), "{without}");
    }
}
