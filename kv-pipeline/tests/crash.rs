//! A producer killed at each crash point leaves nothing or a whole object, and a consumer is never misled.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use std::collections::HashMap;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::*;
use kv_format::*;
use kv_pipeline::*;
use kv_storage::env::{CrashPoint, CrashPoints, Environment};
use kv_storage::posix::{self, FsyncPolicy};
use kv_storage::{PosixOptions, PosixStore};

const CRASH_AT: &str = "KV_TEST_CRASH_AT";
const CRASH_AFTER: &str = "KV_TEST_CRASH_AFTER";
const ROOT: &str = "KV_TEST_CRASH_ROOT";
/// How often a producer is killed at each point; `cargo xtask soak` sets it.
const ROUNDS: &str = "KV_SOAK_ROUNDS";
const COUNT: u32 = 2 * CHUNK + 3;

/// A new directory, in memory where there is a tmpfs: kill -9 takes nothing from the page cache, so a disk would show no more. The
/// soak has a place of its own.
fn folder() -> tempfile::TempDir {
    match std::env::var(ROUNDS) {
        Ok(_) => tempfile::tempdir().unwrap(),
        Err(_) => tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap(),
    }
}

/// Kills the process the `after`-th time it passes a point.
#[derive(Debug)]
struct KillAt {
    point: String,
    after: u64,
    passed: Mutex<HashMap<CrashPoint, u64>>,
}

impl CrashPoints for KillAt {
    fn reach(&self, point: CrashPoint) {
        let mut passed = self.passed.lock().unwrap();
        let times = passed.entry(point).or_default();
        *times += 1;
        if point.0 == self.point && *times == self.after {
            rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL).unwrap();
        }
    }
}

async fn open(root: &Path, environment: Environment) -> Arc<PosixStore> {
    let options = PosixOptions::default()
        .environment(environment)
        .fsync(FsyncPolicy::CloseToOpen)
        .format_if_empty(true);
    Arc::new(PosixStore::open(root, options).await.unwrap())
}

/// The producer that dies; run by the test below in a process of its own.
#[test]
#[ignore = "started by every_crash_point_leaves_nothing_or_a_whole_object"]
fn dying_producer() {
    let var = |name| std::env::var(name).unwrap();
    let kill =
        KillAt { point: var(CRASH_AT), after: var(CRASH_AFTER).parse().unwrap(), passed: Mutex::default() };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let environment = Environment { crash_points: Arc::new(kill), ..Environment::default() };
        let store = open(Path::new(&var(ROOT)), environment.clone()).await;
        let builder =
            Pipeline::builder(namespace()).staging_bytes(2 << 20).part_bytes(4096).environment(environment);
        let rank = Rank::with(builder, store, amd_like(0..HEADS, Replica::ONLY));
        rank.prefill(COUNT);
        let request = rank.kv.producer().open_request("crash", 0, 1, PATIENCE).await.unwrap();
        let saved = rank.save(&tokens(COUNT)).await.unwrap();
        request.complete(&saved, PATIENCE).await.unwrap();
    });
}

#[test]
fn every_crash_point_leaves_nothing_or_a_whole_object() {
    let points: Vec<CrashPoint> = CRASH_POINTS.iter().chain(posix::CRASH_POINTS).copied().collect();
    assert!(points.len() >= 12, "the registry lost points: {points:?}");
    let rounds = std::env::var(ROUNDS).map_or(1, |rounds| rounds.parse().unwrap());
    for round in 1..=rounds {
        kill_at_each(&points);
        if round % 10 == 0 || round == rounds {
            println!("kv-pipeline: round {round} of {rounds}, {} crash points each", points.len());
        }
    }
}

fn kill_at_each(points: &[CrashPoint]) {
    // Points within objects are passed more than once: die at the first object and at a later one.
    for (point, after) in points.iter().flat_map(|point| [(point, 1), (point, 3)]) {
        let once = ["request", "record", "format", "fan-out"].iter().any(|what| point.0.contains(what));
        if after > 1 && once {
            continue;
        }
        let root = folder();
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "dying_producer", "--ignored", "--nocapture"])
            .env(CRASH_AT, point.0)
            .env(CRASH_AFTER, after.to_string())
            .env(ROOT, root.path())
            .output()
            .unwrap();
        let output = String::from_utf8_lossy(&child.stderr);
        assert_eq!(child.status.signal(), Some(9), "{point:?} was not reached {after} times: {output}");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(check(root.path(), *point));
    }
}

/// Whatever is visible is whole, loads, and heals.
async fn check(root: &Path, point: CrashPoint) {
    let store = open(root, Environment::default()).await;
    for (name, bytes) in contents(&*store, &namespace()).await {
        let header = ObjectHeader::decode(&bytes, bytes.len() as u64)
            .unwrap_or_else(|e| panic!("{point:?}: {name}: {e}"));
        for (section, checksum) in header.layout.sections.iter().zip(&header.checksums) {
            let start = usize::try_from(section.offset).unwrap();
            let range = start..start + usize::try_from(section.len).unwrap();
            assert_eq!(Checksum::of(&bytes[range]), *checksum, "{point:?}: {name}");
        }
    }
    let consumer = Rank::new(namespace(), Arc::clone(&store) as _, gaudi_like(0..HEADS, Replica::ONLY));
    let loaded = consumer.load(&tokens(COUNT)).await.unwrap();
    consumer.assert_holds(loaded.tokens);
    assert!(
        loaded.failures.iter().all(|failure| failure.reason == StopReason::NotFound),
        "{point:?}: {loaded:?}"
    );
    match consumer.kv.consumer().wait_request("crash", Duration::from_millis(20)).await {
        // Complete means complete: everything loads, tail included.
        Ok(handoff) => {
            let prompt = tokens(COUNT);
            let request = LoadRequest::new(&prompt).blocks(&consumer.blocks).handoff(&handoff);
            let loaded =
                consumer.kv.consumer().load(&consumer.registered, request).unwrap().finish().await.unwrap();
            assert_eq!(loaded.tokens, COUNT, "{point:?}");
            consumer.assert_holds(COUNT);
        }
        Err(error) => assert_eq!(error.kind(), kv_pipeline::ErrorKind::Deadline, "{point:?}: {error}"),
    }
    // What the dead producer left lying about is swept, and another producer finishes the work.
    store.sweep(Duration::ZERO).await.unwrap();
    assert_eq!(temporary_files(root), Vec::<String>::new(), "{point:?}");
    let producer = Rank::new(namespace(), store, amd_like(0..HEADS, Replica::ONLY));
    producer.prefill(COUNT);
    assert_eq!(producer.save(&tokens(COUNT)).await.unwrap().tokens, COUNT);
    assert_eq!(consumer.load(&tokens(COUNT)).await.unwrap().tokens, 2 * CHUNK, "{point:?}");
}

/// Files below the store that are neither an object nor a record.
fn temporary_files(root: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut directories = vec![root.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            let name = path.strip_prefix(root).unwrap().display().to_string();
            if name == "kvbridge-store" {
                continue; // the marker
            }
            if path.is_dir() && !name.contains("tmp") {
                directories.push(path);
                continue;
            }
            if name.parse::<ObjectName>().is_err() && !name.starts_with("v1/records/request/")
                || name.contains("tmp")
            {
                found.push(name);
            }
        }
    }
    found
}
