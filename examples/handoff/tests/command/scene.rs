//! One test's store, reports and processes.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use serde_json::Value;
use tempfile::TempDir;

use crate::store_files;

/// No call of a test takes this long, even on a busy machine; one that does has hung.
pub(crate) const PATIENCE: Duration = Duration::from_secs(240);
/// Every process of a scene has its directory in this variable of its environment.
const MARK: &str = "HANDOFF_TEST_SCENE";

/// A store, a model and a prompt.
pub(crate) struct Scene {
    directory: TempDir,
    store: String,
    /// The file that says which paths lead to which VAST cluster.
    clusters: Option<PathBuf>,
    model: Vec<String>,
}

/// Makes an empty directory a store.
#[track_caller]
pub(crate) fn format_store(url: &str) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_handoff"));
    let output = command.args(["format", "--store", url]).output().unwrap();
    assert_eq!(stdout(&output).trim_end(), format!("{url} is a store now"));
}

/// A command on its way.
pub(crate) struct Running {
    child: Child,
}

impl Scene {
    /// The seeded model; the store is a new directory.
    pub(crate) fn seeded(prompt: &str) -> Self {
        Self::new(vec!["--seeded".to_owned()], prompt)
    }

    /// The seeded model with other heads than it has by default.
    pub(crate) fn seeded_with_heads(heads: &str, prompt: &str) -> Self {
        Self::new(vec![format!("--seeded={heads}")], prompt)
    }

    /// A model file.
    pub(crate) fn with_model(model: &Path, prompt: &str) -> Self {
        Self::new(vec!["--model".to_owned(), model.display().to_string()], prompt)
    }

    fn new(model: Vec<String>, prompt: &str) -> Self {
        let directory = TempDir::new().unwrap();
        fs::create_dir(directory.path().join("store")).unwrap();
        fs::write(directory.path().join("prompt"), prompt).unwrap();
        let store = format!("file://{}", directory.path().join("store").display());
        format_store(&store);
        Self { directory, store, clusters: None, model }
    }

    /// The same scene with another store, which the test has formatted, or means not to be one.
    pub(crate) fn with_store(mut self, url: &str) -> Self {
        url.clone_into(&mut self.store);
        self
    }

    /// The same scene with clusters in a file.
    pub(crate) fn with_clusters(mut self, json: &str) -> Self {
        let path = self.path().join("clusters.json");
        fs::write(&path, json).unwrap();
        self.clusters = Some(path);
        self
    }

    /// Makes the place that a configuration names a store.
    #[track_caller]
    pub(crate) fn format(&self, config: &str) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_handoff"));
        command.args(["format", "--config", config]);
        command.envs(self.clusters.as_ref().map(|path| ("KVBRIDGE_VAST", path)));
        stdout(&command.output().unwrap());
    }

    /// The test's own directory.
    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }

    /// The directory of the store.
    pub(crate) fn root(&self) -> PathBuf {
        PathBuf::from(self.store.strip_prefix("file://").unwrap())
    }

    /// A command with the scene's model and prompt.
    pub(crate) fn command(&self, role: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_handoff"));
        command.arg(role).args(&self.model).args(arguments);
        command.arg("--prompt-file").arg(self.path().join("prompt"));
        command.arg("--report").arg(self.path().join(format!("{role}.json")));
        if role != "reference" && !arguments.contains(&"--config") {
            command.args(["--store", &self.store]);
        }
        command.envs(self.clusters.as_ref().map(|path| ("KVBRIDGE_VAST", path)));
        command.env(MARK, self.path());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        // A group of its own, as a shell would make it, so that a test can press Ctrl-C.
        command.process_group(0);
        command
    }

    /// Starts a command.
    pub(crate) fn start(&self, role: &str, arguments: &[&str]) -> Running {
        let child = self.command(role, arguments).spawn().unwrap();
        Running { child }
    }

    /// Runs a command to its end.
    pub(crate) fn run(&self, role: &str, arguments: &[&str]) -> Output {
        self.start(role, arguments).finish()
    }

    /// What the answer should be.
    pub(crate) fn reference(&self, max_tokens: &str) -> Value {
        stdout(&self.run("reference", &["--max-tokens", max_tokens]));
        self.report("reference")
    }

    /// Runs a prefill that must succeed; returns its request id.
    #[track_caller]
    pub(crate) fn prefill(&self, tp: &str) -> String {
        let text = stdout(&self.run("prefill", &["--tp", tp]));
        assert_eq!((text.len(), text.lines().count()), (33, 1), "{text:?}");
        text.trim_end().to_owned()
    }

    /// The JSON report that a role has written last.
    pub(crate) fn report(&self, role: &str) -> Value {
        let path = self.path().join(format!("{role}.json"));
        let json = fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        serde_json::from_slice(&json).unwrap()
    }

    /// Processes of this scene that live; a zombie has no environment.
    pub(crate) fn processes(&self) -> Vec<u32> {
        let mark = format!("{MARK}={}", self.path().display());
        let mut found = Vec::new();
        for entry in fs::read_dir("/proc").unwrap().flatten() {
            let Ok(id) = entry.file_name().to_string_lossy().parse() else {
                continue;
            };
            let environment = fs::read(entry.path().join("environ")).unwrap_or_default();
            if environment.split(|byte| *byte == 0).any(|one| one == mark.as_bytes()) {
                found.push(id);
            }
        }
        found
    }

    /// No process, no temporary file, and no object that is not whole.
    #[track_caller]
    pub(crate) fn assert_nothing_is_left_over(&self) {
        assert_eq!(self.processes(), [] as [u32; 0], "processes live on");
        if self.root().is_dir() {
            store_files::assert_whole(&self.root());
        }
    }
}

impl Running {
    /// A command of [`Scene::command`] that was started.
    pub(crate) fn of(child: Child) -> Self {
        Self { child }
    }

    /// The launcher's process id.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends the launcher a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        kill(self.id(), signal);
    }

    /// Sends the launcher and its ranks a signal, as a terminal does.
    pub(crate) fn signal_all(&self, signal: Signal) {
        kill_process_group(pid(self.id()), signal).unwrap();
    }

    /// Waits for the first byte of the answer.
    pub(crate) fn wait_for_output(&mut self) {
        std::io::Read::read_exact(self.child.stdout.as_mut().unwrap(), &mut [0]).unwrap();
    }

    /// Ranks of the launcher.
    pub(crate) fn ranks(&self) -> Vec<u32> {
        let children = format!("/proc/{0}/task/{0}/children", self.id());
        let children = fs::read_to_string(children).unwrap_or_default();
        children.split_whitespace().map(|id| id.parse().unwrap()).collect()
    }

    /// Waits for the end; kills and fails what does not end.
    #[track_caller]
    pub(crate) fn finish(self) -> Output {
        let id = self.id();
        let (sender, outputs) = channel();
        thread::spawn(move || sender.send(self.child.wait_with_output()));
        match outputs.recv_timeout(PATIENCE) {
            Ok(output) => output.unwrap(),
            Err(_) => {
                let _ = kill_process_group(pid(id), Signal::KILL);
                panic!("the command has not ended after {} s", PATIENCE.as_secs());
            }
        }
    }
}

/// Sends a signal.
pub(crate) fn kill(process: u32, signal: Signal) {
    kill_process(pid(process), signal).unwrap();
}

fn pid(process: u32) -> Pid {
    Pid::from_raw(i32::try_from(process).unwrap()).unwrap()
}

/// The text of a command that must have succeeded.
#[track_caller]
pub(crate) fn stdout(output: &Output) -> String {
    assert!(output.status.success(), "{:?}: {}", output.status, stderr(output));
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// What a command complained about.
pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The one sentence of a command that must have failed, and must have said nothing else.
#[track_caller]
pub(crate) fn complaint(output: &Output) -> String {
    let text = stderr(output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "", "{text}");
    assert_eq!(text.lines().count(), 1, "one sentence, please: {text}");
    text
}

/// Looks until something is so.
#[track_caller]
pub(crate) fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "still not so: {what}");
        thread::park_timeout(Duration::from_millis(2));
    }
}
