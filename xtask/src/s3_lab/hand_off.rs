//! The hand-off example with its store on S3: what one engine computed, another one with other ranks answers with.

use super::servers::Lab;
use crate::processes::{Processes, Stdout};
use crate::programs::{Program, Programs};
use anyhow::{Result, ensure};
use std::path::Path;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(10 * 60);
const HANDOFF: &str = "handoff";
const PROMPT: &str = "A cache that was computed on one machine and is read on another";

/// Prefills on three ranks and decodes on one; the text must be that of one process without a store.
///
/// # Errors
/// A command that fails, or another text.
pub(super) fn run(processes: &Processes, root: &Path, lab: &Lab) -> Result<()> {
    let url = lab.url();
    // Its tests are built with it: see `Programs::build`.
    let wanted = [Program::Binary(HANDOFF), Program::Test("model_files")];
    let programs = Programs::build(processes, &root.join("examples/handoff"), &wanted)?;
    let handoff = |arguments: &[&str]| -> Result<String> {
        let mut command = programs.command(HANDOFF)?;
        command.args(arguments).envs(lab.environment());
        let finished = processes.run(&mut command, Stdout::Capture, LIMIT)?;
        ensure!(finished.status.success(), "handoff {} failed (its message is above)", arguments.join(" "));
        Ok(finished.stdout.trim().to_owned())
    };
    let question = ["--seeded", "--prompt", PROMPT];
    let expected = handoff(&[&["reference"], &question[..]].concat())?;
    let id = handoff(&[&["prefill", "--store", &url, "--tp", "3"], &question[..]].concat())?;
    let answer =
        handoff(&[&["decode", "--store", &url, "--tp", "1", "--request", &id], &question[..]].concat())?;
    ensure!(
        !answer.is_empty() && answer == expected,
        "the hand-off over S3 answers {answer:?}, one process {expected:?}"
    );
    Ok(())
}
