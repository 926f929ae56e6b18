//! A process that is killed while it publishes leaves nothing or the whole, at every crash point.
#![expect(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "the functions that tests share are test code too"
)]

mod engines;

use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use kv_format::{ChunkKey, NamespaceDigest, ObjectName, RecordName};
use kv_memory::HostBuf;
use kv_storage::env::{CrashPoint, CrashPoints, Environment};
use kv_storage::posix::{CRASH_POINTS, IoEngine};
use kv_storage::{KvStore, PosixOptions, PosixStore, Publication, ReadPart};

const POINT: &str = "KV_STORAGE_TEST_CRASH_POINT";
const ROOT: &str = "KV_STORAGE_TEST_CRASH_ROOT";
const ENGINE: &str = "KV_STORAGE_TEST_CRASH_ENGINE";
const LEN: usize = 10_000;

fn name() -> ObjectName {
    ObjectName { namespace: NamespaceDigest([1; 32]), key: ChunkKey([2; 32]), chunk_index: 3, slice: 4 }
}

fn record() -> RecordName {
    RecordName::request("crash", 0)
}

fn contents() -> Vec<u8> {
    (0..LEN).map(|i| u8::try_from(i % 251).unwrap()).collect()
}

#[derive(Debug)]
struct KillAt(String);

impl CrashPoints for KillAt {
    fn reach(&self, point: CrashPoint) {
        if point.0 == self.0 {
            let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
            loop {
                std::thread::park(); // the signal ends the process, not this call
            }
        }
    }
}

async fn publish(store: &PosixStore) -> Publication {
    let upload = store.begin(&name(), LEN as u64).await.unwrap();
    let bytes = contents();
    for (offset, part) in (0..).step_by(4096).zip(bytes.chunks(4096)) {
        upload.write(offset, HostBuf::copy_of(part).unwrap()).await.1.unwrap();
    }
    upload.commit().await.unwrap()
}

/// The process that dies. Run by the test below, with the point at which it dies.
#[tokio::test]
#[ignore = "a child process of `killed_at_every_crash_point`"]
async fn dies_at_its_crash_point() {
    let (Ok(point), Ok(root)) = (std::env::var(POINT), std::env::var(ROOT)) else {
        panic!("this is run by `killed_at_every_crash_point` only");
    };
    let environment =
        Environment { crash_points: std::sync::Arc::new(KillAt(point)), ..Environment::default() };
    let asked = std::env::var(ENGINE).unwrap();
    let engine = if asked == IoEngine::IoUring.to_string() { IoEngine::IoUring } else { IoEngine::Threads };
    let options = PosixOptions::default().environment(environment).io(engine).format_if_empty(true);
    let store = PosixStore::open(Path::new(&root), options).await.unwrap();
    publish(&store).await;
    let version = store.create_record(&record(), b"old").await.unwrap().unwrap();
    store.replace_record(&record(), &version, b"the new one").await.unwrap().unwrap();
}

/// Files below a directory, and directories that never got their name.
fn files(directory: &Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in directory.read_dir().unwrap() {
        let path = entry.unwrap().path();
        let temporary = path.file_name().unwrap().to_string_lossy().starts_with(".kv-tmp.");
        if path.is_dir() && !temporary {
            found.extend(files(&path));
        } else {
            found.push(path);
        }
    }
    found
}

//= SEMANTICS.md#posix-crash
//= SEMANTICS.md#posix-publish-atomic
//= SEMANTICS.md#posix-sweep
//= SEMANTICS.md#nfs-crash
#[tokio::test(flavor = "multi_thread")]
async fn killed_at_every_crash_point() {
    for engine in engines::engines(&std::env::temp_dir()).await {
        killed_with(engine).await;
    }
}

async fn killed_with(engine: IoEngine) {
    let index = |name: &str| CRASH_POINTS.iter().position(|point| point.0 == name).unwrap();
    let linked = index("posix.object.linked");
    let record_linked = index("posix.record.linked");
    for (i, point) in CRASH_POINTS.iter().enumerate() {
        let root = tempfile::tempdir().unwrap();
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", "dies_at_its_crash_point"])
            .env(POINT, point.0)
            .env(ROOT, root.path())
            .env(ENGINE, engine.to_string())
            .output()
            .unwrap();
        assert_eq!(
            output.status.signal(),
            Some(9),
            "{}, {engine}: the point was not reached: {}",
            point.0,
            String::from_utf8_lossy(&output.stdout)
        );

        let options = PosixOptions::default().sweep_older_than(None).io(engine).format_if_empty(true);
        let store = PosixStore::open(root.path(), options).await.unwrap();
        let buffer = HostBuf::copy_of(&vec![0; LEN]).unwrap();
        let read = store.read(&name(), vec![ReadPart { offset: 0, buffer }]).await;
        let visible = read.result.unwrap().is_some();
        assert_eq!(visible, i >= linked, "{}", point.0);
        if visible {
            assert_eq!(*read.buffers[0], *contents(), "{}", point.0);
        }
        let listed = store.list(&name().namespace, None, 10).await.unwrap();
        assert_eq!(listed.len(), usize::from(visible), "{}: {listed:?}", point.0);
        let found = store.read_record(&record()).await.unwrap().map(|record| record.body);
        let expected = (i >= record_linked).then(|| match point.0 {
            "posix.record.replaced" => b"the new one".to_vec(),
            _ => b"old".to_vec(),
        });
        assert_eq!(found, expected, "{}", point.0);

        // The third is the marker, which is there whoever formatted the directory.
        let visible_files = usize::from(visible) + usize::from(found.is_some()) + 1;
        let left = files(root.path()).len() - visible_files;
        assert!(left <= 1, "{}: {left} temporary files", point.0);
        let young = store.sweep(Duration::from_secs(3600)).await.unwrap();
        assert_eq!(young, 0, "{}: a young file was swept", point.0);
        let swept = store.sweep(Duration::ZERO).await.unwrap();
        assert_eq!(swept, left as u64, "{}", point.0);
        assert_eq!(files(root.path()).len(), visible_files, "{}", point.0);

        // The next save heals it.
        let expected = if visible { Publication::AlreadyExists } else { Publication::Published };
        assert_eq!(publish(&store).await, expected, "{}", point.0);
    }
}
