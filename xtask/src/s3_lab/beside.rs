//! The suite of `vast://` on a server of its own, beside the other runs: most of its two minutes it waits, since SeaweedFS's mount takes 50 ms to
//! list an empty directory for the first time, and every namespace has 256.

use super::LIMIT;
use super::servers::{Lab, Shape};
use crate::processes::{Processes, Stdout};
use anyhow::{Result, ensure};
use std::path::Path;
use std::process::Command;
use std::time::Instant;

/// The program, in kv-storage.
pub(super) const TESTS: &str = "vast_weed";
/// The second one stops the mount, so they run one after the other.
pub(super) const NAMES: [&str; 2] = [
    "conformance_over_two_directories_and_the_gateway",
    "stopped::a_load_and_a_save_go_on_by_the_gateway_while_the_mount_is_stopped",
];
const OUTPUT: &str = "vast";

/// The suite under way. Dropped, it is ended.
pub(super) struct Suite {
    lab: Lab,
    id: u32,
}

impl Suite {
    /// Starts it: `command` runs its program.
    pub(super) fn start(weed: &Path, target: &Path, mut command: Command) -> Result<Self> {
        let mut lab = Lab::start(weed, target, Shape::Mounted)?;
        println!("   SeaweedFS, {}, beside the others: {}", Shape::Mounted, NAMES.join(", "));
        command.args(["--exact", "--nocapture", "--test-threads", "1"]).args(NAMES).envs(lab.environment());
        let id = lab.start_beside(command, OUTPUT)?;
        Ok(Self { lab, id })
    }

    /// Waits for its end and says what it said.
    pub(super) fn join(mut self, processes: &Processes) -> Result<()> {
        println!("   waiting for the suite of vast://");
        let start = Instant::now();
        let (passed, said) = loop {
            if let Some(end) = self.lab.end_of(self.id, OUTPUT)? {
                break end;
            }
            ensure!(start.elapsed() < LIMIT, "the suite of vast:// does not end within {LIMIT:?}");
            // A child as every other, so that a signal to us ends the wait.
            processes.run(Command::new("sleep").arg("0.2"), Stdout::Inherit, LIMIT)?;
        };
        print!("{said}");
        ensure!(
            passed,
            "the suite of vast:// failed on SeaweedFS (see above); its log was\n{}",
            self.lab.log()
        );
        Ok(())
    }
}
