//! SeaweedFS processes on free ports: all in one, with a mount or without, or a master, three volume servers and a gateway. Dropped, they and
//! their files are gone.

use super::mount::Mount;
use anyhow::{Context as _, Result};
use rustix::process::{Pid, Signal, kill_process_group};
use std::fmt;
use std::fs::File;
use std::net::TcpListener;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

pub(super) const ACCESS_KEY: &str = "kvbridge";
pub(super) const SECRET_KEY: &str = "kvbridge-secret";
const BUCKET: &str = "kv-lab";
const VOLUME_SERVERS: usize = 3;

/// Which processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    /// One for everything.
    Single,
    /// The same, and a mount of its tree, reached by two directories.
    Mounted,
    /// Three volume servers, two copies on different ones.
    Cluster,
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Single => "one process",
            Self::Mounted => "one process and a mount of its tree",
            Self::Cluster => "three volume servers, replication 001",
        })
    }
}

/// Running servers.
pub(super) struct Lab {
    /// Goes before its server does.
    mount: Option<Mount>,
    servers: Servers,
    port: u16,
    /// A process that a test kills.
    victim: Option<u32>,
    /// The one that a test stops.
    mounts: Option<u32>,
    folder: tempfile::TempDir,
}

/// Processes that end with this, before their files do.
#[derive(Default)]
struct Servers(Vec<Child>);

impl Drop for Servers {
    fn drop(&mut self) {
        for child in &mut self.0 {
            // One that was killed by a test is only waited for.
            let _ = kill_process_group(Pid::from_child(child), Signal::KILL);
            let _ = child.wait();
        }
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        self.mount = None;
        self.servers = Servers::default();
    }
}

impl Lab {
    /// Starts the servers; they answer in a few seconds.
    pub(super) fn start(weed: &Path, target: &Path, shape: Shape) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("s3-lab-").tempdir_in(target)?;
        let identities = format!(
            r#"{{"identities":[{{"name":"lab","credentials":[{{"accessKey":"{ACCESS_KEY}","secretKey":"{SECRET_KEY}"}}],"actions":["Admin","Read","Write","List","Tagging"]}}]}}"#
        );
        std::fs::write(folder.path().join("identities.json"), identities)?;
        // Held together until all are known, so that no two are the same.
        let listeners = (0..16).map(|_| TcpListener::bind("127.0.0.1:0")).collect::<Result<Vec<_>, _>>()?;
        let ports = listeners.iter().map(TcpListener::local_addr).collect::<Result<Vec<_>, _>>()?;
        let mut ports = ports.into_iter().map(|address| address.port());
        let mut port = move || ports.next().context("more servers than ports");
        let (master, s3) = (port()?, port()?);
        let mut lab =
            Self { mount: None, servers: Servers::default(), port: s3, victim: None, mounts: None, folder };
        let (master_grpc, filer, filer_grpc, s3_grpc) = (port()?, port()?, port()?, port()?);
        let mut volumes = Vec::new();
        for _ in 0..VOLUME_SERVERS {
            volumes.push((port()?, port()?));
        }
        drop(listeners);
        let master_at = format!("127.0.0.1:{master}.{master_grpc}");
        if shape != Shape::Cluster {
            let (volume, volume_grpc) = volumes[0];
            let arguments = [
                "server".to_owned(),
                "-dir=.".into(),
                "-filer".into(),
                format!("-master.port={master}"),
                format!("-master.port.grpc={master_grpc}"),
                "-master.volumeSizeLimitMB=64".into(),
                "-master.telemetry=false".into(),
                format!("-volume.port={volume}"),
                format!("-volume.port.grpc={volume_grpc}"),
                "-volume.max=100".into(),
                format!("-filer.port={filer}"),
                format!("-filer.port.grpc={filer_grpc}"),
                format!("-s3.port={s3}"),
                format!("-s3.port.grpc={s3_grpc}"),
                "-s3.port.iceberg=0".into(),
                "-s3.port.lance=0".into(),
                "-s3.config=identities.json".into(),
                // As a store in a directory makes files; the default, 0660, is one that it does not believe.
                "-s3.defaultFileMode=0600".into(),
                "-s3".into(),
                "-ip=127.0.0.1".into(),
            ];
            lab.spawn(weed, "server", &arguments)?;
            if shape == Shape::Mounted {
                lab.mount(weed, filer, filer_grpc)?;
            }
            return Ok(lab);
        }
        let arguments = [
            "master".to_owned(),
            "-mdir=.".into(),
            "-ip=127.0.0.1".into(),
            format!("-port={master}"),
            format!("-port.grpc={master_grpc}"),
            "-volumeSizeLimitMB=64".into(),
            "-defaultReplication=001".into(),
            "-telemetry=false".into(),
            "-peers=none".into(),
        ];
        lab.spawn(weed, "master", &arguments)?;
        for (number, (volume, volume_grpc)) in volumes.into_iter().enumerate() {
            let arguments = [
                "volume".to_owned(),
                "-dir=.".into(),
                "-ip=127.0.0.1".into(),
                format!("-port={volume}"),
                format!("-port.grpc={volume_grpc}"),
                format!("-master={master_at}"),
                "-max=100".into(),
            ];
            lab.victim = Some(lab.spawn(weed, &format!("volume-{number}"), &arguments)?);
        }
        let arguments = [
            "filer".to_owned(),
            "-ip=127.0.0.1".into(),
            format!("-master={master_at}"),
            format!("-port={filer}"),
            format!("-port.grpc={filer_grpc}"),
            "-defaultReplicaPlacement=001".into(),
        ];
        lab.spawn(weed, "filer", &arguments)?;
        let arguments = [
            "s3".to_owned(),
            "-ip.bind=127.0.0.1".into(),
            format!("-filer=127.0.0.1:{filer}.{filer_grpc}"),
            format!("-port={s3}"),
            format!("-port.grpc={s3_grpc}"),
            "-port.iceberg=0".into(),
            "-port.lance=0".into(),
            "-config=identities.json".into(),
        ];
        lab.spawn(weed, "gateway", &arguments)?;
        Ok(lab)
    }

    /// Mounts the tree in which buckets are directories.
    fn mount(&mut self, weed: &Path, filer: u16, filer_grpc: u16) -> Result<()> {
        let mount = Mount::prepare(self.folder.path(), filer_grpc)?;
        let arguments = [
            "mount".to_owned(),
            format!("-filer=127.0.0.1:{filer}.{filer_grpc}"),
            "-filer.path=/buckets".into(),
            format!("-dir={}", mount.point().display()),
            "-cacheDir=.".into(),
            "-localSocket=mount.sock".into(),
            "-disableXAttr".into(),
        ];
        self.mounts = Some(self.spawn(weed, "mount", &arguments)?);
        let clusters = mount.clusters(BUCKET, &self.url());
        std::fs::write(self.folder.path().join("clusters.json"), clusters)?;
        self.mount.insert(mount).ready(BUCKET)?;
        Ok(())
    }

    /// Starts a process that ends with the lab, its output in the lab's folder.
    pub(super) fn start_beside(&mut self, mut command: Command, output: &str) -> Result<u32> {
        let log = File::create(self.log_of(output))?;
        command.stdin(Stdio::null()).process_group(0).stdout(log.try_clone()?).stderr(log);
        let child = command.spawn().context("a process could not be started")?;
        let id = child.id();
        self.servers.0.push(child);
        Ok(id)
    }

    /// Whether a process was content, and what it said; `None` before its end.
    pub(super) fn end_of(&mut self, id: u32, output: &str) -> Result<Option<(bool, String)>> {
        let child = self.servers.0.iter_mut().find(|child| child.id() == id);
        let Some(status) = child.context("no such process")?.try_wait()? else { return Ok(None) };
        Ok(Some((status.success(), std::fs::read_to_string(self.log_of(output))?)))
    }

    /// Starts one process with a folder of its own; its number.
    fn spawn(&mut self, weed: &Path, name: &str, arguments: &[String]) -> Result<u32> {
        let folder = self.folder.path().join(name);
        std::fs::create_dir(&folder)?;
        std::fs::copy(self.folder.path().join("identities.json"), folder.join("identities.json"))?;
        let log = File::create(self.log_of(name))?;
        let mut command = Command::new(weed);
        command.args(arguments).current_dir(&folder).stdin(Stdio::null()).process_group(0);
        command.stdout(log.try_clone()?).stderr(log);
        let child = command.spawn().with_context(|| format!("{} could not be started", weed.display()))?;
        let id = child.id();
        self.servers.0.push(child);
        Ok(id)
    }

    fn log_of(&self, name: &str) -> PathBuf {
        self.folder.path().join(format!("{name}.log"))
    }

    /// Where a store finds the bucket, which is created by the first upload.
    pub(super) fn url(&self) -> String {
        format!("s3://{BUCKET}?endpoint=http://127.0.0.1:{}&allow_http=true", self.port)
    }

    /// What the tests take from the environment.
    pub(super) fn environment(&self) -> Vec<(&'static str, String)> {
        let mut variables = vec![
            ("KVBRIDGE_S3_URL", self.url()),
            ("AWS_ACCESS_KEY_ID", ACCESS_KEY.to_owned()),
            ("AWS_SECRET_ACCESS_KEY", SECRET_KEY.to_owned()),
        ];
        variables.extend(self.victim.map(|victim| ("KVBRIDGE_S3_VICTIM", victim.to_string())));
        variables.extend(self.mounts.map(|process| ("KVBRIDGE_VAST_MOUNT", process.to_string())));
        if self.mount.is_some() {
            variables.push(("KVBRIDGE_VAST", self.folder.path().join("clusters.json").display().to_string()));
        }
        variables
    }

    /// The last lines that the servers wrote.
    pub(super) fn log(&self) -> String {
        let logs = ["server", "mount", "master", "volume-0", "volume-1", "volume-2", "filer", "gateway"].map(
            |name| {
                let text = std::fs::read_to_string(self.log_of(name)).unwrap_or_default();
                let lines: Vec<&str> = text.lines().collect();
                lines[lines.len().saturating_sub(15)..].join("\n")
            },
        );
        logs.join("\n")
    }
}
