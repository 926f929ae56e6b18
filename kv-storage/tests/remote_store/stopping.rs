//! Processes that stop in the middle of what they do, and go on later: their connections stay, and nobody answers.

use std::process::Command;

/// Stops a process; when this returns none of its threads runs.
pub(crate) fn stop(process: u32) {
    signal(process, "-STOP");
    let tasks = || std::fs::read_dir(format!("/proc/{process}/task")).unwrap();
    // The state stands behind the name, which is in parentheses.
    let stands =
        |stat: String| stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('T'));
    // A thread that has ended meanwhile stands, too.
    let stat = |task: std::io::Result<std::fs::DirEntry>| std::fs::read_to_string(task?.path().join("stat"));
    while !tasks().all(|task| stat(task).map_or(true, stands)) {
        std::thread::yield_now();
    }
}

/// Lets a stopped process go on.
pub(crate) fn resume(process: u32) {
    signal(process, "-CONT");
}

fn signal(process: u32, signal: &str) {
    let sent = Command::new("kill").args([signal, &process.to_string()]).status().unwrap();
    assert!(sent.success(), "kill {signal} {process} failed");
}
