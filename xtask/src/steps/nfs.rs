//! The posix store between two hosts, as `cargo xtask nfs-lab`.

use super::{Bench, Outcome};
use crate::nfs_lab::{self, Unavailable};
use anyhow::Result;

pub(super) fn run(bench: &Bench) -> Result<Outcome> {
    match nfs_lab::suite(&bench.processes, &bench.root, &bench.metadata.target_directory) {
        Ok(line) => {
            println!("   {line}");
            Ok(Outcome::Passed)
        }
        Err(error) if error.is::<Unavailable>() => Ok(Outcome::Skipped(error.to_string())),
        Err(error) => Err(error),
    }
}
