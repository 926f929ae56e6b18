//! A mount that really hangs: a frozen file system, whose writers the kernel holds until it is thawed.
#![expect(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "the functions that tests share are test code too"
)]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use kv_format::{ChunkKey, NamespaceDigest, ObjectName};
use kv_memory::{HostBuf, HugePages, StagingPool};
use kv_storage::health::PROBE_NAMESPACE;
use kv_storage::posix::FsyncPolicy;
use kv_storage::{
    DownReason, ErrorKind, GateOptions, HealthGate, KvStore, PosixOptions, PosixStore, Publication,
};

const DEADLINE: Duration = Duration::from_secs(60);

/// An ext4 in a file, mounted for one test; thawed and unmounted whatever happens.
struct Disk {
    directory: tempfile::TempDir,
}

impl Disk {
    /// `None`, with a word on stderr, where this is not permitted.
    fn mount() -> Option<Self> {
        let directory = tempfile::tempdir().unwrap();
        let image = directory.path().join("image");
        std::fs::File::create(&image).unwrap().set_len(32 << 20).unwrap();
        let disk = Self { directory };
        std::fs::create_dir(disk.root()).unwrap();
        let made = run("mkfs.ext4", &["-q".as_ref(), &image])
            .and_then(|()| run("mount", &["-o".as_ref(), "loop".as_ref(), &image, &disk.root()]))
            .and_then(|()| run("fsfreeze", &["-f".as_ref(), &disk.root()]))
            .and_then(|()| disk.thaw());
        match made {
            Ok(()) => Some(disk),
            Err(error) => {
                eprintln!("SKIPPED: no file system can be mounted and frozen here ({error}); run as root");
                None
            }
        }
    }

    fn root(&self) -> PathBuf {
        self.directory.path().join("mount")
    }

    fn freeze(&self) {
        run("fsfreeze", &["-f".as_ref(), &self.root()]).unwrap();
    }

    fn thaw(&self) -> Result<(), String> {
        run("fsfreeze", &["-u".as_ref(), &self.root()])
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = self.thaw(); // it is not frozen, unless a test fails
        let _ = run("umount", &["-l".as_ref(), &self.root()]);
    }
}

fn run(program: &str, arguments: &[&Path]) -> Result<(), String> {
    let output =
        Command::new(program).args(arguments).output().map_err(|error| format!("{program}: {error}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    if output.status.success() { Ok(()) } else { Err(format!("{program}: {}", said.trim())) }
}

fn name(n: u8) -> ObjectName {
    ObjectName { namespace: NamespaceDigest([1; 32]), key: ChunkKey([n; 32]), chunk_index: 0, slice: 0 }
}

async fn publish(store: &dyn KvStore, name: &ObjectName, part: HostBuf) -> kv_storage::Result<Publication> {
    let upload = store.begin(name, part.len() as u64).await?;
    upload.write(0, part).await.1?;
    upload.commit().await
}

//= SEMANTICS.md#hung-deadline
//= SEMANTICS.md#hung-bounded
//= SEMANTICS.md#down-probe
#[tokio::test]
async fn a_mount_that_hangs_goes_down_and_comes_back_when_the_kernel_lets_go() {
    let Some(disk) = Disk::mount() else { return };
    let bound = 4;
    let options = PosixOptions::default().threads(2).stranded_bound(bound).fsync(FsyncPolicy::None);
    let root = disk.root().join("store"); // beside lost+found
    std::fs::create_dir(&root).unwrap();
    let posix = PosixStore::open(&root, options.format_if_empty(true)).await.unwrap();
    posix.idle().await;
    let millis = Duration::from_millis;
    let options = GateOptions::default()
        .deadline(Some(millis(1000)))
        .failures(3)
        .probe_deadline(millis(500))
        .intervals(millis(20), millis(200));
    let gate = HealthGate::new(Arc::new(posix.clone()), options);
    let pool = StagingPool::new(HugePages::allocate(4 << 20).unwrap(), 1 << 20).unwrap();
    publish(&gate, &name(0), pool.acquire().await).await.unwrap();
    let open_upload = gate.begin(&name(100), 1 << 20).await.unwrap();

    disk.freeze();
    // Everybody gets an answer, whoever hangs: a write that holds its buffer, and begins.
    let (buffer, result) = open_upload.write(0, pool.acquire().await).await;
    assert_eq!((result.unwrap_err().kind(), buffer.len()), (ErrorKind::Unavailable, 0));
    assert_eq!(pool.usage().bytes_lent, 1 << 20, "the kernel holds it");
    for n in 1..50 {
        let error = gate.begin(&name(n), 1 << 20).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
        assert!(gate.health().stranded <= bound, "{:?}", gate.health());
    }
    assert_eq!((gate.health().down, gate.health().reason), (true, Some(DownReason::Failing)));
    let error = gate.begin(&name(50), 1).await.unwrap_err();
    assert!(error.to_string().contains("store marked down"), "{error}");
    // Probes hang as well, one after the other, up to the bound and no further.
    let hangs = async {
        while gate.history().probes_failed < 2 * u64::try_from(bound).unwrap() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(DEADLINE, hangs).await.unwrap();
    assert!(gate.health().stranded <= bound, "{:?}", gate.health());

    disk.thaw().unwrap();
    let comes_back = async {
        while gate.health().down {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(DEADLINE, comes_back).await.unwrap();
    assert_eq!(publish(&gate, &name(51), pool.acquire().await).await.unwrap(), Publication::Published);
    drop(open_upload);
    tokio::time::timeout(DEADLINE, gate.idle()).await.unwrap();
    assert_eq!((gate.health().in_flight, gate.health().stranded, pool.usage().bytes_lent), (0, 0, 0));
    assert_eq!(gate.list(&PROBE_NAMESPACE, None, 10).await.unwrap(), [], "a probe was left");
    let left = posix.sweep(Duration::ZERO).await.unwrap();
    assert_eq!(left, 0, "temporary files of calls that hung were left");
    drop((gate, posix));
}
