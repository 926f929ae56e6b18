//! `cargo xtask mutants`: breaks the code that decides whether bytes are believed in every small way, and wants a test to fail each time.

use crate::processes::{Processes, Stdout};
use crate::workspace::{Metadata, cargo, root};
use anyhow::{Result, bail};
use std::process::{Command, Stdio};
use std::time::Duration;

/// Each mutant is built and tested: hours on a busy machine.
const LIMIT: Duration = Duration::from_secs(12 * 60 * 60);

/// Mutate decoding, verification and keys of kv-format, and fail if a mutant survives the tests.
///
/// .cargo/mutants.toml says which files and tests, and which mutants no test can tell from the original, with the reason. Needs
/// cargo-mutants (cargo install --locked cargo-mutants); takes about half an hour. It works on a copy of the tree.
#[derive(clap::Args)]
pub(crate) struct Options {
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
    let mut command = Command::new(cargo());
    command.args(["mutants", "--package", "kv-format", "--no-shuffle"]).current_dir(&root);
    if options.list {
        command.arg("--list");
    } else {
        command.args(["--jobs", "1", "--output"]).arg(&target);
    }
    if let Some(only) = &options.only {
        command.args(["--re", only]);
    }
    // The copy is built in a folder of its own.
    command.env_remove("CARGO_TARGET_DIR");
    if !Processes::new()?.run(&mut command, Stdout::Inherit, LIMIT)?.status.success() {
        bail!(
            "mutants survive, or the tests fail without one: see {}. Add a test, or a reason to .cargo/mutants.toml",
            target.join("mutants.out").display()
        );
    }
    Ok(())
}
