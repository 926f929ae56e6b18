//! A process that ends soon after it let go of a store: the thread that destroys the store's agent is as late as it likes.

use std::process::Command;
use std::time::{Duration, Instant};

use crate::libraries::{fake, open, shared_memory};

/// Where the child learns of the file that is made when an agent is being destroyed.
const SIGN: &str = "KV_NIXL_SIGN";

/// The emulated plugin dies as the AWS SDK does if the process cleans it up meanwhile.
//= SEMANTICS.md#nixl-exit
#[test]
fn a_process_ends_well_while_the_agent_of_a_dropped_store_is_destroyed() {
    let folder = tempfile::tempdir().unwrap();
    let child = ["--exact", "exit::drops_a_store_and_ends", "--ignored"];
    let mut command = Command::new(std::env::current_exe().unwrap());
    let output = command.args(child).env(SIGN, folder.path().join("sign")).output().unwrap();
    assert!(output.status.success(), "{}: {}", output.status, String::from_utf8_lossy(&output.stderr));
    assert!(folder.path().join("sign").exists(), "no agent was destroyed");
}

#[test]
#[ignore = "a child process of the test above"]
fn drops_a_store_and_ends() {
    let sign = std::path::PathBuf::from(std::env::var_os(SIGN).unwrap());
    let root = shared_memory();
    let nixl = fake().parameter("fake_end", sign.to_str().unwrap());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    drop(runtime.block_on(open(root.path(), &nixl)).unwrap());
    let begun = Instant::now();
    while !sign.exists() {
        assert!(begun.elapsed() < Duration::from_secs(60), "the store's agent is not destroyed");
        std::thread::yield_now();
    }
}
