//! The S3 suite on SeaweedFS, as `cargo xtask s3-lab`.

use super::{Bench, Outcome};
use crate::python::Unavailable;
use crate::s3_lab;
use anyhow::Result;

pub(super) fn run(bench: &Bench) -> Result<Outcome> {
    match s3_lab::suite(&bench.processes, &bench.root, &bench.metadata.target_directory) {
        Ok(()) => Ok(Outcome::Passed),
        Err(error) if error.is::<Unavailable>() => Ok(Outcome::Skipped(error.to_string())),
        Err(error) => Err(error),
    }
}
