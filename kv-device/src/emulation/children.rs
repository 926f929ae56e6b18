//! Tests in processes of their own: what they do to a runtime may end the process.

use std::io;
use std::process::{Command, Output};

/// In a child, what it is to do.
const PART: &str = "KV_TEST_PART";

/// Runs a test of this program again, ignored or not, in a process of its own that is to do `part`.
///
/// # Errors
/// What the system says of starting it.
pub fn child(test: &str, part: &str) -> io::Result<Output> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["--exact", test, "--nocapture", "--include-ignored"]).env(PART, part).output()
}

/// What this process is to do; nothing, if it is no child.
pub fn part() -> String {
    std::env::var(PART).unwrap_or_default()
}
