//! Processes that stop in the middle of what they do, and go on later: their connections stay, and nobody answers.

use std::process::{Child, Command};

/// Stops a process; when this returns none of its threads runs.
pub(crate) fn stop(child: &Child) {
    signal(child, "-STOP");
    let stat = format!("/proc/{}/stat", child.id());
    // The state stands behind the name, which is in parentheses.
    let state = || std::fs::read_to_string(&stat).unwrap().rsplit(')').next().unwrap().trim().chars().next();
    while state() != Some('T') {
        std::thread::yield_now();
    }
}

/// Lets a stopped process go on.
pub(crate) fn resume(child: &Child) {
    signal(child, "-CONT");
}

fn signal(child: &Child, signal: &str) {
    let sent = Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap();
    assert!(sent.success(), "kill {signal} {} failed", child.id());
}
