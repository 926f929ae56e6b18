//! Another process of this test program, which runs one of its ignored tests until this one has ended.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, ChildStdout, Command, Stdio};

/// What stands before the address in the other process's output.
const ANNOUNCED: &str = "listens at ";

/// The other process. Dropped, it is killed.
pub(crate) struct Process {
    pub(crate) child: Child,
    /// Open as long as it runs: libtest has a word to say about tests that take a minute, and ends where nobody can hear it.
    _output: BufReader<ChildStdout>,
    /// Where it listens.
    pub(crate) address: String,
}

impl Process {
    /// Starts the ignored test of this name, and waits until it listens.
    pub(crate) fn start(test: &str) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", test, "--ignored", "--nocapture"]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let lines = output.by_ref().lines();
        let mut announced =
            lines.map(Result::unwrap).filter_map(|line| Some(line.split_once(ANNOUNCED)?.1.to_owned()));
        let address = announced.next();
        let mut process = Self { child, _output: output, address: String::new() };
        process.address = address.unwrap_or_else(|| panic!("{test} ended: {:?}", process.child.wait()));
        process
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The other process's side: tells where it listens, and sees to it that it does not outlive whoever started it.
pub(crate) fn announce(address: impl std::fmt::Display) {
    std::thread::spawn(|| {
        // The pipe ends with its other end.
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        std::process::exit(0);
    });
    println!("\n{ANNOUNCED}{address}");
}
