//! `cargo xtask doc`: the libraries' documentation as docs.rs builds it, so that what it shows is seen before it is published.

use crate::processes::{Processes, Stdout};
use crate::workspace::{Metadata, cargo, root};
use anyhow::{Result, bail};
use std::process::Command;
use std::time::Duration;

/// Nothing but rustdoc runs: an hour is a hang.
const LIMIT: Duration = Duration::from_secs(60 * 60);

/// Build the documentation of the kv-* crates as docs.rs does: every feature, `--cfg docsrs`, and no warning.
///
/// docs.rs has a nightly toolchain, which marks what needs a feature. Here RUSTC_BOOTSTRAP=1 lets the stable one do it, in a target
/// folder of its own (docs-rs in the usual one), since the variable would make cargo build the dependencies of all else again.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Open the result in a browser.
    #[arg(long)]
    open: bool,
}

/// Runs the command.
pub(crate) fn run(options: &Options) -> Result<()> {
    let root = root()?;
    let metadata = Metadata::read(&root)?;
    let mut command = command(&metadata);
    command.current_dir(&root).args(options.open.then_some("--open"));
    if !Processes::new()?.run(&mut command, Stdout::Inherit, LIMIT)?.status.success() {
        bail!("the documentation does not build: rustdoc's warnings are above");
    }
    Ok(())
}

/// `cargo doc` as docs.rs runs it, for the libraries.
pub(crate) fn command(metadata: &Metadata) -> Command {
    let mut command = Command::new(cargo());
    command.args(["doc", "--no-deps", "--all-features", "--target-dir"]);
    command.arg(metadata.target_directory.join("docs-rs"));
    for library in libraries(metadata) {
        command.args(["-p", library]);
    }
    command.env("RUSTC_BOOTSTRAP", "1").env("RUSTDOCFLAGS", "--cfg docsrs -D warnings");
    command
}

/// The crates that are published.
pub(crate) fn libraries(metadata: &Metadata) -> impl Iterator<Item = &str> {
    metadata.packages.iter().map(|package| package.name.as_str()).filter(|name| name.starts_with("kv-"))
}
