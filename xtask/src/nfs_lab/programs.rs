//! The test programs that run in the guests, built by cargo on this machine.

use super::plan::Job;
use crate::processes::Processes;
use crate::programs::{self, Program};
use anyhow::{Context as _, Result};
use std::path::{Path, PathBuf};

/// Test targets of kv-storage.
const TWO_HOSTS: &str = "nfs";
const CRASHES: &str = "crash";

/// The library that user-mode Linux is started with.
const REGISTERS: &str = "uml_registers";

/// Builds [`REGISTERS`]; where it is.
pub(super) fn registers(processes: &Processes, root: &Path) -> Result<PathBuf> {
    let built = programs::Programs::build(processes, &root.join("xtask"), &[Program::Example(REGISTERS)])?;
    Ok(built.path(REGISTERS)?.to_owned())
}

/// Paths of the programs.
pub(super) struct Programs {
    two_hosts: String,
    crashes: String,
}

impl Programs {
    /// Builds them.
    pub(super) fn build(processes: &Processes, root: &Path) -> Result<Self> {
        let wanted = [Program::Test(TWO_HOSTS), Program::Test(CRASHES)];
        let built = programs::Programs::build(processes, &root.join("kv-storage"), &wanted)?;
        let path = |name| -> Result<String> {
            let path = built.path(name)?;
            Ok(path.to_str().with_context(|| format!("{} is not UTF-8", path.display()))?.to_owned())
        };
        Ok(Self { two_hosts: path(TWO_HOSTS)?, crashes: path(CRASHES)? })
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
