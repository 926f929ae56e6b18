//! The steps that are one command each.

use super::{Bench, Outcome};
use crate::doc as documentation;
use crate::model;
use crate::tidy as rules;
use crate::workspace::cargo;
use anyhow::Result;
use std::process::{Command, Stdio};

/// `cargo` with these arguments.
pub(super) fn cargo_with(arguments: &[&str]) -> Command {
    let mut command = Command::new(cargo());
    command.args(arguments);
    command
}

/// Whether a cargo subcommand is installed.
pub(super) fn has(subcommand: &str) -> bool {
    cargo_with(&[subcommand, "--version"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

fn outcome(success: bool, failure: &str) -> Outcome {
    if success { Outcome::Passed } else { Outcome::Failed(failure.into()) }
}

pub(super) fn fmt(bench: &Bench) -> Result<Outcome> {
    let clean = bench.run(&mut cargo_with(&["fmt", "--all", "--check"]))?;
    Ok(outcome(clean, "run cargo fmt --all"))
}

pub(super) fn clippy(bench: &Bench) -> Result<Outcome> {
    let arguments = ["clippy", "--workspace", "--all-targets", "--all-features", "--", "-D", "warnings"];
    Ok(outcome(bench.run(&mut cargo_with(&arguments))?, "the lints are above"))
}

pub(super) fn tests(bench: &Bench) -> Result<Outcome> {
    // Without the doc tests, which are a step of their own.
    let arguments: &[&str] = if has("nextest") {
        &["nextest", "run", "--workspace", "--all-features"]
    } else {
        &[
            "test",
            "--workspace",
            "--all-features",
            "--no-fail-fast",
            "--lib",
            "--bins",
            "--tests",
            "--examples",
        ]
    };
    Ok(outcome(bench.run(&mut cargo_with(arguments))?, "the failing tests are above"))
}

pub(super) fn doctests(bench: &Bench) -> Result<Outcome> {
    let passed =
        bench.run(&mut cargo_with(&["test", "--workspace", "--all-features", "--no-fail-fast", "--doc"]))?;
    Ok(outcome(passed, "the failing examples are above"))
}

pub(super) fn doc(bench: &Bench) -> Result<Outcome> {
    // The libraries as docs.rs builds them; the programs, which are not published, plainly.
    let mut programs = cargo_with(&["doc", "--workspace", "--no-deps", "--all-features"]);
    for library in documentation::libraries(&bench.metadata) {
        programs.args(["--exclude", library]);
    }
    programs.env("RUSTDOCFLAGS", "-D warnings");
    let clean = bench.run(&mut documentation::command(&bench.metadata))? && bench.run(&mut programs)?;
    Ok(outcome(clean, "rustdoc's warnings are above"))
}

pub(super) fn tidy(bench: &Bench) -> Result<Outcome> {
    let violations = rules::check(&bench.root, &bench.metadata)?;
    print!("{}", rules::listing(&violations));
    Ok(outcome(violations.is_empty(), "the rules that are broken are above"))
}

pub(super) fn deny(bench: &Bench) -> Result<Outcome> {
    if !has("deny") {
        return Ok(Outcome::Skipped(
            "cargo-deny is not installed (cargo install --locked cargo-deny)".into(),
        ));
    }
    let clean = bench.run(&mut cargo_with(&["deny", "check", "bans", "licenses", "sources"]))?;
    Ok(outcome(clean, "cargo-deny's findings are above"))
}

pub(super) fn model(bench: &Bench) -> Result<Outcome> {
    let path = match model::obtain(&bench.processes, &bench.metadata.target_directory) {
        Ok(path) => path,
        Err(error) if error.is::<model::Unavailable>() => return Ok(Outcome::Skipped(error.to_string())),
        Err(error) => return Err(error),
    };
    println!("   {}={}", model::VARIABLE, path.display());
    let arguments: &[&str] = if has("nextest") {
        &["nextest", "run", "--release", "-p", "handoff"]
    } else {
        &["test", "--release", "-p", "handoff"]
    };
    let passed = bench.run(cargo_with(arguments).env(model::VARIABLE, &path))?;
    Ok(outcome(passed, "the failing tests are above"))
}
