//! Processes that stop in the middle of what they do, and go on later: their connections stay, and nobody answers.

use rustix::process::{Pid, Signal, kill_process};

/// Stops a process; when this returns none of its threads runs.
pub(crate) fn stop(process: u32) {
    signal(process, Signal::STOP);
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
    signal(process, Signal::CONT);
}

/// Sent from here and not by `kill`: a child closes its copies of our files before it is that program, and to close a file of a mount whose
/// process is stopped it waits until that goes on, which is what the child was to bring about.
fn signal(process: u32, signal: Signal) {
    let process = Pid::from_raw(process.try_into().unwrap()).unwrap();
    kill_process(process, signal).unwrap();
}
