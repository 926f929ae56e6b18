//! `cargo xtask mutants`: breaks the code that decides whether bytes are believed in every small way, and wants a test to fail each time.

use crate::processes::{Processes, Stdout};
use crate::workspace::{Metadata, cargo, root};
use anyhow::{Result, bail};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

/// Each mutant is built and tested: hours on a busy machine.
const LIMIT: Duration = Duration::from_secs(12 * 60 * 60);

/// Code that decides whether bytes are believed, and the tests that must notice each change to it: those about it, so that a run takes
/// minutes. cargo-mutants builds and tests one mutant at a time.
struct Subject {
    package: &'static str,
    files: &'static [&'static str],
    /// Only mutants whose description matches.
    only: &'static str,
    tests: &'static [&'static str],
}

const SUBJECTS: [Subject; 2] = [
    Subject {
        package: "kv-format",
        files: &["src/object/decode.rs", "src/object/mod.rs", "src/kind.rs", "src/checksum.rs", "src/key.rs"],
        only: "",
        tests: &["golden", "groups", "header_edges", "identity", "keys", "mutations", "object"],
    },
    Subject {
        package: "kv-pipeline",
        files: &[
            "src/load/verifier.rs",
            "src/load/failed.rs",
            "src/load/static_scales.rs",
            "src/load/chunk.rs",
            "src/existing.rs",
        ],
        // Of `chunk.rs`, only what asks the store and tells of a failure: the rest is scheduling.
        only: "verifier|failed|static_scales|LoadTask::(read|failure) |in LoadTask::(read|failure)$|existing",
        tests: &["delivery", "existing", "groups", "other_buffers", "verification"],
    },
];

/// Mutate decoding, verification and keys, and fail if a mutant survives the tests.
///
/// .cargo/mutants.toml lists the mutants that no test can tell from the original, with the reason. Needs cargo-mutants (cargo install
/// --locked cargo-mutants); takes half an hour. It works on a copy of the tree.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Only this crate.
    #[arg(long, value_parser = SUBJECTS.map(|subject| subject.package))]
    package: Option<String>,
    /// Only the mutants whose description matches, e.g. verify_checksum.
    #[arg(long, value_name = "REGEX")]
    only: Option<String>,
    /// Print the mutants and end.
    #[arg(long)]
    list: bool,
}

/// Runs the command.
pub(crate) fn run(options: &Options) -> Result<()> {
    let root = root()?;
    let target = Metadata::read(&root)?.target_directory;
    let installed = Command::new(cargo())
        .args(["mutants", "--version"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success());
    if !installed {
        bail!("cargo-mutants is not installed: cargo install --locked cargo-mutants");
    }
    let processes = Processes::new()?;
    for subject in &SUBJECTS {
        if options.package.as_ref().is_none_or(|package| package == subject.package) {
            run_one(options, subject, &processes, &root, &target)?;
        }
    }
    Ok(())
}

fn run_one(
    options: &Options,
    subject: &Subject,
    processes: &Processes,
    root: &Path,
    target: &Path,
) -> Result<()> {
    let output = target.join("mutants").join(subject.package);
    let mut command = Command::new(cargo());
    command.args(["mutants", "--package", subject.package, "--no-shuffle"]).current_dir(root);
    for file in subject.files {
        command.args(["--file", &format!("{}/{file}", subject.package)]);
    }
    command.args(["--re", options.only.as_deref().unwrap_or(subject.only)]);
    if options.list {
        command.arg("--list");
    } else {
        std::fs::create_dir_all(&output)?;
        command.args(["--jobs", "1", "--output"]).arg(&output);
        command.args(["--", "--all-features", "--lib"]);
        for test in subject.tests {
            command.args(["--test", test]);
        }
    }
    // The copy is built in a folder of its own, again and again: nobody debugs it.
    command.env_remove("CARGO_TARGET_DIR").env("CARGO_PROFILE_DEV_DEBUG", "0");
    if !processes.run(&mut command, Stdout::Inherit, LIMIT)?.status.success() {
        bail!(
            "mutants survive, or the tests fail without one: see {}. Add a test, or a reason to .cargo/mutants.toml",
            output.join("mutants.out").display()
        );
    }
    Ok(())
}
