//! A process that is killed while it publishes leaves nothing or the whole, at every crash point.
//!
//! `cargo xtask soak` runs this with many rounds; each differs from the last in the engine, the object's length and what is flushed.
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
use kv_storage::posix::{CRASH_POINTS, FsyncPolicy, IoEngine};
use kv_storage::{KvStore, PosixOptions, PosixStore, Publication, ReadPart};

const POINT: &str = "KV_STORAGE_TEST_CRASH_POINT";
const ROOT: &str = "KV_STORAGE_TEST_CRASH_ROOT";
const ENGINE: &str = "KV_STORAGE_TEST_CRASH_ENGINE";
const ROUND: &str = "KV_STORAGE_TEST_CRASH_ROUND";
/// How often a process is killed at each point; `cargo xtask soak` sets it.
const ROUNDS: &str = "KV_SOAK_ROUNDS";

/// An object of three parts, longer with every round.
fn len(round: usize) -> usize {
    10_000 + 13 * (round % 100)
}

fn policy(round: usize) -> FsyncPolicy {
    [FsyncPolicy::Durable, FsyncPolicy::None, FsyncPolicy::CloseToOpen][round % 3]
}

/// A new directory, in memory where there is a tmpfs: kill -9 takes nothing from the page cache, so a disk would show no more. The
/// soak has a place of its own.
fn folder() -> tempfile::TempDir {
    match std::env::var(ROUNDS) {
        Ok(_) => tempfile::tempdir().unwrap(),
        Err(_) => tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap(),
    }
}

fn name() -> ObjectName {
    ObjectName { namespace: NamespaceDigest([1; 32]), key: ChunkKey([2; 32]), chunk_index: 3, slice: 4 }
}

fn record() -> RecordName {
    RecordName::request("crash", 0)
}

fn contents(round: usize) -> Vec<u8> {
    (0..len(round)).map(|i| u8::try_from(i % 251).unwrap()).collect()
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

async fn publish(store: &PosixStore, round: usize) -> Publication {
    let upload = store.begin(&name(), len(round) as u64).await.unwrap();
    let bytes = contents(round);
    for (offset, part) in (0..).step_by(4096).zip(bytes.chunks(4096)) {
        upload.write(offset, HostBuf::copy_of(part).unwrap()).await.1.unwrap();
    }
    upload.commit().await.unwrap()
}

/// The process that dies. Run by the test below, with the point at which it dies.
#[tokio::test]
#[ignore = "a child process of `killed_at_every_crash_point`"]
async fn dies_at_its_crash_point() {
    let [Ok(point), Ok(root), Ok(round)] = [POINT, ROOT, ROUND].map(std::env::var) else {
        panic!("this is run by `killed_at_every_crash_point` only");
    };
    let round = round.parse().unwrap();
    let environment =
        Environment { crash_points: std::sync::Arc::new(KillAt(point)), ..Environment::default() };
    let asked = std::env::var(ENGINE).unwrap();
    let engines = [IoEngine::Threads, IoEngine::IoUring, IoEngine::Nixl];
    let engine = engines.into_iter().find(|engine| engine.to_string() == asked).unwrap();
    let options = PosixOptions::default().fsync(policy(round)).io(engine).format_if_empty(true);
    let options = options.environment(environment);
    let store = PosixStore::open(Path::new(&root), options).await.unwrap();
    publish(&store, round).await;
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
    let engines = engines::engines(&std::env::temp_dir()).await;
    let rounds = std::env::var(ROUNDS).map_or(engines.len().max(2), |rounds| rounds.parse().unwrap());
    for round in 0..rounds {
        for (index, point) in CRASH_POINTS.iter().enumerate() {
            killed_at(index, *point, engines[round % engines.len()], round).await;
        }
        if (round + 1) % 10 == 0 || round + 1 == rounds {
            println!("kv-storage: round {} of {rounds}, {} crash points each", round + 1, CRASH_POINTS.len());
        }
    }
}

/// Kills a process at a point, and looks at what it left.
async fn killed_at(index: usize, point: CrashPoint, engine: IoEngine, round: usize) {
    let index_of = |name: &str| CRASH_POINTS.iter().position(|point| point.0 == name).unwrap();
    let context = format!("{} in round {round}, {engine}", point.0);
    let root = folder();
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "dies_at_its_crash_point"])
        .env(POINT, point.0)
        .env(ROOT, root.path())
        .env(ROUND, round.to_string())
        .env(ENGINE, engine.to_string())
        .output()
        .unwrap();
    let printed = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.signal(), Some(9), "{context}: the point was not reached: {printed}");

    let options = PosixOptions::default().fsync(policy(round)).io(engine).format_if_empty(true);
    let options = options.sweep_older_than(None);
    let store = PosixStore::open(root.path(), options).await.unwrap();
    let buffer = HostBuf::copy_of(&vec![0; len(round)]).unwrap();
    let read = store.read(&name(), vec![ReadPart { offset: 0, buffer }]).await;
    let visible = read.result.unwrap().is_some();
    assert_eq!(visible, index >= index_of("posix.object.linked"), "{context}");
    if visible {
        assert_eq!(*read.buffers[0], *contents(round), "{context}");
    }
    let listed = store.list(&name().namespace, None, 10).await.unwrap();
    assert_eq!(listed.len(), usize::from(visible), "{context}: {listed:?}");
    let found = store.read_record(&record()).await.unwrap().map(|record| record.body);
    let expected = (index >= index_of("posix.record.linked")).then(|| match point.0 {
        "posix.record.replaced" => b"the new one".to_vec(),
        _ => b"old".to_vec(),
    });
    assert_eq!(found, expected, "{context}");

    // The third is the marker, which is there whoever formatted the directory.
    let visible_files = usize::from(visible) + usize::from(found.is_some()) + 1;
    let left = files(root.path()).len() - visible_files;
    assert!(left <= 1, "{context}: {left} temporary files");
    let young = store.sweep(Duration::from_secs(3600)).await.unwrap();
    assert_eq!(young, 0, "{context}: a young file was swept");
    let swept = store.sweep(Duration::ZERO).await.unwrap();
    assert_eq!(swept, left as u64, "{context}");
    assert_eq!(files(root.path()).len(), visible_files, "{context}");

    // The next save heals it.
    let expected = if visible { Publication::AlreadyExists } else { Publication::Published };
    assert_eq!(publish(&store, round).await, expected, "{context}");
}
