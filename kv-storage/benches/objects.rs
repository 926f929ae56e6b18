//! Objects in and out of staging, each store by itself, for criterion to compare with the run before (one caller).
//!
//! Files are in the page cache: this is the cost of the store above the file system, never a figure of a disk. How close the posix
//! store comes to a plain loop is `store_alone`.
#![expect(clippy::unwrap_used, reason = "a benchmark stops at the first error")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput};
use kv_format::{ChunkKey, NamespaceDigest, ObjectName};
use kv_memory::{HugePages, StagingPool};
use kv_storage::posix::FsyncPolicy;
use kv_storage::{KvStore, MemoryStore, PosixOptions, PosixStore, ReadPart};
use tokio::runtime::Runtime;

const PART: usize = 1 << 20;
const MIB: [usize; 3] = [4, 10, 80];

/// What all share: a runtime, one object's worth of staging, a folder.
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
        // Flushing would measure the disk below.
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

fn main() {
    let scene = Scene::new();
    let mut criterion = Criterion::default()
        .sample_size(10)
        .measurement_time(Duration::from_millis(500))
        .warm_up_time(Duration::from_millis(100))
        .configure_from_args();
    alone(&mut criterion, &scene);
    criterion.final_summary();
}
