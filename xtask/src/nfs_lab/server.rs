//! The NFS server: nfs-ganesha on a tmpfs, on a network of its own with one leg for each guest.

use super::plan::{GUESTS, Plan, SERVER};
use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

/// The line with which ganesha says that it serves.
const READY: &str = "NFS SERVER INITIALIZED";
const READY_LIMIT: Duration = Duration::from_secs(60);

/// A running server. It ends with the namespace of the lab's processes.
pub(super) struct Server {
    process: Child,
}

impl Server {
    /// Makes the network, and starts the server on it.
    pub(super) fn start(plan: &Plan) -> Result<Self> {
        network()?;
        let export = export(plan);
        fs::create_dir(&export)?;
        fs::set_permissions(&export, fs::Permissions::from_mode(0o777))?;
        let configuration = plan.folder.join("ganesha.conf");
        fs::write(&configuration, text(&export))?;
        // It goes to the background when it answers.
        run(&["rpcbind"])?;
        let mut process = Command::new("ganesha.nfsd")
            .env_clear()
            .args(["-F", "-L", "STDOUT", "-f"])
            .arg(&configuration)
            .arg("-p")
            .arg(plan.folder.join("ganesha.pid"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .context("ganesha.nfsd could not be started")?;
        let log = plan.logs.join("ganesha.log");
        let output = process.stdout.take().context("ganesha.nfsd has no output")?;
        let ready = follow(BufReader::new(output), File::create(&log)?);
        wait_until_ready(&ready, &log)?;
        Ok(Self { process })
    }

    /// The number of its process, for [`signal`].
    pub(super) fn pid(&self) -> Pid {
        Pid::from_child(&self.process)
    }
}

/// Stops the server, or lets it go on.
pub(super) fn signal(server: Pid, signal: Signal) -> Result<()> {
    kill_process(server, signal).context("the NFS server could not be signalled")
}

/// What is exported.
pub(super) fn export(plan: &Plan) -> PathBuf {
    plan.folder.join("export")
}

/// A bridge with the server's address and one tap for each guest.
fn network() -> Result<()> {
    let server = format!("{SERVER}/24");
    run(&["ip", "link", "set", "lo", "up"])?;
    run(&["ip", "link", "add", "br0", "type", "bridge"])?;
    for host in GUESTS {
        let tap = format!("tap{}", host.name);
        run(&["ip", "tuntap", "add", "dev", &tap, "mode", "tap"])?;
        run(&["ip", "link", "set", &tap, "mtu", "65000", "master", "br0", "up"])?;
    }
    run(&["ip", "link", "set", "br0", "mtu", "65000", "up"])?;
    run(&["ip", "addr", "add", &server, "dev", "br0"])
}

fn run(words: &[&str]) -> Result<()> {
    let (program, arguments) = words.split_first().context("no command")?;
    let output = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("{program} could not be started"))?;
    if !output.status.success() {
        bail!("{}: {}", words.join(" "), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

/// Copies the log line by line, and tells when the server is ready.
fn follow(output: BufReader<impl std::io::Read + Send + 'static>, mut log: File) -> Receiver<()> {
    let (sender, receiver) = channel();
    thread::spawn(move || {
        for line in output.lines().map_while(Result::ok) {
            // Without the log the lab still works.
            let _ = writeln!(log, "{line}");
            if line.contains(READY) {
                let _ = sender.send(());
            }
        }
    });
    receiver
}

fn wait_until_ready(ready: &Receiver<()>, log: &Path) -> Result<()> {
    let start = Instant::now();
    match ready.recv_timeout(READY_LIMIT) {
        Ok(()) => Ok(()),
        Err(RecvTimeoutError::Timeout) => {
            bail!("the NFS server was not ready after {} s: {}", start.elapsed().as_secs(), log.display())
        }
        Err(RecvTimeoutError::Disconnected) => {
            bail!("the NFS server ended while it started: {}", log.display())
        }
    }
}

/// A server for both versions, without locks and without a grace period, which answers requests as large as Linux sends. It keeps no
/// directories and attributes of its own: what is tested are the clients' caches.
fn text(export: &Path) -> String {
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _ = write!(
        text,
        "NFS_CORE_PARAM {{ Protocols = 3,4; NFS_Port = 2049; MNT_Port = 20048; Enable_NLM = false; Enable_RQUOTA = false; Bind_addr = {SERVER}; }}
NFSv4 {{ Grace_Period = 1; Lease_Lifetime = 10; Graceless = true; Delegations = false; }}
MDCACHE {{ Dir_Chunk = 0; }}
EXPORT_DEFAULTS {{ Attr_Expiration_Time = 0; Access_Type = RW; Squash = None; SecType = sys; Protocols = 3,4; Transports = TCP; }}
EXPORT {{ Export_Id = 1; Path = {path}; Pseudo = /kv; Filesystem_id = 77.1; FSAL {{ Name = VFS; }}
  MaxRead = 1048576; MaxWrite = 1048576; PrefRead = 1048576; PrefWrite = 1048576; }}
LOG {{ Default_Log_Level = EVENT; }}
",
        path = export.display()
    );
    text
}
