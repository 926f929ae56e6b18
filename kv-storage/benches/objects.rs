//! Objects in and out of staging, beside the plain loop over the same bytes in the same directory on as many threads (one caller).
//!
//! Criterion shows each by itself. What counts is the ratio, so the run ends with one of its own: store and plain loop in turns,
//! medians. Files are in the page cache: this is the cost of the store above the file system, never a figure of a disk.
#![expect(clippy::unwrap_used, reason = "a benchmark stops at the first error")]
#![expect(clippy::print_stdout, reason = "a benchmark's output is the terminal's")]

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput};
use kv_format::{ChunkKey, NamespaceDigest, ObjectName};
use kv_memory::{HostBuf, HugePages, StagingPool};
use kv_storage::posix::FsyncPolicy;
use kv_storage::{KvStore, MemoryStore, PosixOptions, PosixStore, ReadPart};
use rustix::fs::{FallocateFlags, fallocate};
use tokio::runtime::Runtime;

const PART: usize = 1 << 20;
const MIB: [usize; 3] = [4, 10, 80];
/// Turns of each in the closing comparison; the first is dropped.
const TURNS: usize = 8;

/// What both ways share: a runtime, one object's worth of staging, a folder.
struct Scene {
    runtime: Runtime,
    staging: StagingPool,
    folder: tempfile::TempDir,
}

fn name() -> ObjectName {
    ObjectName { namespace: NamespaceDigest([1; 32]), key: ChunkKey([2; 32]), chunk_index: 0, slice: 0 }
}

impl Scene {
    fn new() -> Self {
        let largest = MIB[MIB.len() - 1] * PART;
        let staging = StagingPool::new(HugePages::allocate(largest).unwrap(), PART).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        Self { runtime, staging, folder: tempfile::tempdir().unwrap() }
    }

    fn stores(&self) -> Vec<(&'static str, Arc<dyn KvStore>)> {
        // Flushing would measure the disk below; the loop beside it does not flush either.
        let options = PosixOptions::default().fsync(FsyncPolicy::None).format_if_empty(true);
        let posix = self.runtime.block_on(PosixStore::open(self.folder.path(), options)).unwrap();
        vec![("memory", Arc::new(MemoryStore::new())), ("posix, no fsync", Arc::new(posix))]
    }

    /// Publishes an object part by part from staging. The name must be free.
    fn put(&self, store: &Arc<dyn KvStore>, parts: usize) -> Duration {
        self.runtime.block_on(async {
            let mut buffer = self.staging.acquire().await;
            let started = Instant::now();
            let upload = store.begin(&name(), (parts * PART) as u64).await.unwrap();
            for part in 0..parts {
                let (back, written) = upload.write((part * PART) as u64, buffer).await;
                written.unwrap();
                buffer = back;
            }
            upload.commit().await.unwrap();
            started.elapsed()
        })
    }

    /// Reads a whole object into staging with one call.
    fn get(&self, store: &Arc<dyn KvStore>, parts: usize) -> Duration {
        self.runtime.block_on(async {
            let buffers = self.staging.acquire_many(parts).await;
            let at = |(part, buffer)| ReadPart { offset: (part * PART) as u64, buffer };
            let reads = buffers.into_iter().enumerate().map(at).collect();
            let started = Instant::now();
            store.read(&name(), reads).await.result.unwrap().unwrap();
            started.elapsed()
        })
    }

    fn delete(&self, store: &Arc<dyn KvStore>) {
        assert!(self.runtime.block_on(store.delete(&name())).unwrap());
    }

    /// Writes a fresh file with one call per part.
    fn plain_put(&self, path: &Path, parts: usize) -> Duration {
        let buffer = self.staging.try_acquire().unwrap();
        let started = Instant::now();
        let file = OpenOptions::new().write(true).create_new(true).open(path).unwrap();
        // The store reserves the length; on some file systems that makes the writes faster. Where it cannot be done, both go without.
        let _ = fallocate(&file, FallocateFlags::empty(), 0, (parts * PART) as u64);
        for part in 0..parts {
            file.write_all_at(&buffer, (part * PART) as u64).unwrap();
        }
        drop(file);
        started.elapsed()
    }

    /// Reads a file with one call per part.
    fn plain_get(&self, path: &Path, parts: usize) -> Duration {
        let mut buffers: Vec<HostBuf> = (0..parts).map(|_| self.staging.try_acquire().unwrap()).collect();
        let started = Instant::now();
        let file = File::open(path).unwrap();
        for (part, buffer) in buffers.iter_mut().enumerate() {
            file.read_exact_at(buffer, (part * PART) as u64).unwrap();
        }
        started.elapsed()
    }
}

/// Each way by itself, through criterion. Removing what was put is not timed.
fn alone(criterion: &mut Criterion, scene: &Scene) {
    for (label, store) in scene.stores() {
        let mut group = criterion.benchmark_group(format!("objects, {label}"));
        for mib in MIB {
            group.throughput(Throughput::Bytes((mib * PART) as u64));
            group.bench_function(BenchmarkId::new("put", format!("{mib} MiB")), |bencher| {
                let put = |_| {
                    let took = scene.put(&store, mib);
                    scene.delete(&store);
                    took
                };
                bencher.iter_custom(|times| (0..times).map(put).sum());
            });
            scene.put(&store, mib);
            group.bench_function(BenchmarkId::new("get", format!("{mib} MiB")), |bencher| {
                bencher.iter_custom(|times| (0..times).map(|_| scene.get(&store, mib)).sum());
            });
            scene.delete(&store);
        }
        group.finish();
    }
}

/// The posix store and the plain loop in turns.
fn in_turns(scene: &Scene) {
    println!("\nposix store (no fsync) / plain pwrite and pread of 1 MiB, {}", scene.folder.path().display());
    println!("one caller, page cache warm: what the store costs above the file system, not a storage figure");
    println!("object   put GB/s (plain)  ratio   get GB/s (plain)  ratio");
    let Some((_, store)) = scene.stores().pop() else { return };
    let path = scene.folder.path().join("plain");
    for mib in MIB {
        let mut times: [Vec<Duration>; 4] = Default::default();
        for _ in 0..TURNS {
            let turn = [
                scene.put(&store, mib),
                scene.plain_put(&path, mib),
                scene.get(&store, mib),
                scene.plain_get(&path, mib),
            ];
            scene.delete(&store);
            std::fs::remove_file(&path).unwrap();
            times.iter_mut().zip(turn).for_each(|(times, took)| times.push(took));
        }
        let [put, plain_put, get, plain_get] = times.map(|times| rate(mib, times));
        println!(
            "{mib:>3} MiB  {put:>8.2} ({plain_put:>5.2})  {:>6.2}   {get:>8.2} ({plain_get:>5.2})  {:>6.2}",
            put / plain_put,
            get / plain_get
        );
    }
}

/// GB/s of the median turn, without the first.
fn rate(mib: usize, mut times: Vec<Duration>) -> f64 {
    times.remove(0);
    times.sort_unstable();
    let bytes = f64::from(u32::try_from(mib * PART).unwrap());
    bytes / times[times.len() / 2].as_secs_f64() / 1e9
}

fn main() {
    let scene = Scene::new();
    let mut criterion = Criterion::default()
        .sample_size(10)
        .measurement_time(Duration::from_millis(500))
        .warm_up_time(Duration::from_millis(100))
        .configure_from_args();
    alone(&mut criterion, &scene);
    criterion.final_summary();
    // Under `cargo test` cargo does not pass this flag, and nothing is to be measured.
    if std::env::args().any(|argument| argument == "--bench") {
        in_turns(&scene);
    }
}
