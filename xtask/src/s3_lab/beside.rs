//! The suite of `vast://` on a server of its own, beside the other runs: most of its two minutes it waits, since SeaweedFS's mount takes 50 ms to
//! list an empty directory for the first time, and every namespace has 256.

use super::servers::{Lab, Shape};
use super::{FEATURES, LIMIT};
use crate::processes::{Processes, Stdout};
use crate::workspace::cargo;
use anyhow::{Result, ensure};
use std::path::Path;
use std::process::Command;

const TEST: &str = "conformance_over_two_directories_and_the_gateway";
const OUTPUT: &str = "vast";

/// The suite under way. Dropped, it is ended.
pub(super) struct Suite {
    lab: Lab,
    id: u32,
}

impl Suite {
    pub(super) fn start(weed: &Path, root: &Path, target: &Path) -> Result<Self> {
        let mut lab = Lab::start(weed, target, Shape::Mounted)?;
        println!("   SeaweedFS, {}, beside the others: {TEST}", Shape::Mounted);
        let mut command = Command::new(cargo());
        command.args([
            "test",
            "--quiet",
            "-p",
            "kv-storage",
            "--features",
            FEATURES,
            "--test",
            "vast_weed",
            "--",
        ]);
        command.args(["--exact", "--nocapture", TEST]).current_dir(root);
        command.envs(lab.environment());
        let id = lab.start_beside(command, OUTPUT)?;
        Ok(Self { lab, id })
    }

    /// Waits for its end and says what it said.
    pub(super) fn join(mut self, processes: &Processes) -> Result<()> {
        println!("   waiting for the suite of vast://");
        // A child as every other, so that a signal to us ends the wait.
        let mut wait = Command::new("tail");
        wait.arg(format!("--pid={}", self.id)).args(["-f", "/dev/null"]);
        processes.run(&mut wait, Stdout::Inherit, LIMIT)?;
        let (passed, said) = self.lab.end_of(self.id, OUTPUT)?;
        print!("{said}");
        ensure!(
            passed,
            "the suite of vast:// failed on SeaweedFS (see above); its log was\n{}",
            self.lab.log()
        );
        Ok(())
    }
}
