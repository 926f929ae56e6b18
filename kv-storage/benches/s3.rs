//! Objects to and from an S3 server in this process, beside `object_store` alone at its best settings, discarding what it reads.
//!
//! Criterion shows each by itself. What counts is the ratio, so the run ends with one of its own: both in turns, medians. Client and
//! server share the machine's cores, so this is the cost of the store above HTTP, never a figure of a network.
//!
//! With `KV_COMPARE=1` only the ratios. On two cores of a Sapphire Rapids guest, three runs, 8 MiB x 4 and 80 MiB x 1: put in place 0.92 to 1.00
//! and 0.98 to 1.02, put through `write`, which has to copy, 0.85 to 0.90 and 0.74 to 0.79; get through a buffer 0.93 to 0.99 and 0.97 to
//! 1.12, get into as many buffers as the object has parts, which no cache holds, 0.84 to 0.95 and 0.92 to 1.05 (ADR 22).
#![expect(clippy::unwrap_used, clippy::panic, reason = "a benchmark stops at the first error")]
#![expect(clippy::print_stdout, reason = "a benchmark's output is the terminal's")]

#[path = "../tests/s3_server/mod.rs"]
#[expect(dead_code, reason = "shared with the tests, which use other parts of it")]
mod s3_server;

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use criterion::{BenchmarkId, Criterion, Throughput};
use futures_util::StreamExt;
use kv_format::{ChunkKey, NamespaceDigest, ObjectName};
use kv_memory::{HostBuf, HugePages, StagingPool};
use kv_storage::s3::{BodyChecksum, S3Store};
use kv_storage::{ByteRange, KvStore, Next, ObjectMeta, ReadPart, ReadSink, WriteSource};
use object_store::aws::AmazonS3;
use object_store::path::Path;
use object_store::{ObjectStoreExt, PutPayload, RetryConfig};
use tokio::runtime::Runtime;
use tokio::task::JoinSet;

use s3_server::{Server, options};

const PART: usize = 1 << 20;
/// Object bytes, and objects in flight.
const SHAPES: [(usize, usize); 2] = [(8 * PART, 4), (80 * PART, 1)];
/// Turns of each in the closing comparison; the first is dropped.
const TURNS: usize = 10;
/// Bytes of one turn.
const TURN_BYTES: usize = 640 * PART;

/// Both clients of one server.
struct Scene {
    runtime: Runtime,
    server: Server,
    bare: Arc<AmazonS3>,
    store: S3Store,
    staging: StagingPool,
}

/// Leaves the bytes as they are, as a device does that has written them.
struct Filled;

impl WriteSource for Filled {
    fn fill(&self, _: usize, _: &mut HostBuf) -> bool {
        true
    }
}

/// Gives every buffer back.
struct Seen;

impl ReadSink for Seen {
    fn filled(&self, _: &ObjectMeta, _: usize, buffer: HostBuf) -> Next {
        Next::Reuse(buffer)
    }
}

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    BarePut,
    /// Filled in place.
    Put,
    /// Copied out of the caller's buffers.
    PutCopied,
    BareGet,
    /// Through one buffer into a sink.
    Get,
    /// Into as many buffers as the object has parts.
    GetWhole,
}

fn name(number: usize) -> ObjectName {
    let key = ChunkKey([u8::try_from(number % 251).unwrap(); 32]);
    ObjectName { namespace: NamespaceDigest([1; 32]), key, chunk_index: 0, slice: 0 }
}

fn ranges(len: usize) -> Vec<ByteRange> {
    (0..len).step_by(PART).map(|offset| ByteRange { offset: offset as u64, len: PART }).collect()
}

impl Scene {
    fn new() -> Self {
        let server = Server::start();
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let bare = server.usual_client(RetryConfig::default());
        let pool = |parts: usize| StagingPool::new(HugePages::allocate(parts * PART).unwrap(), PART).unwrap();
        let ours = options().checksum(BodyChecksum::None).staging(pool(160));
        let store = runtime.block_on(server.open(ours)).unwrap();
        Self { runtime, bare: Arc::new(bare), store, server, staging: pool(160) }
    }

    /// The objects that reads read, and what writes wrote gone.
    fn prepare(&self, way: Way, len: usize, in_flight: usize) {
        let mut objects = self.server.backend.objects.lock().unwrap();
        if matches!(way, Way::BarePut | Way::Put | Way::PutCopied) {
            return objects.clear();
        }
        let held = objects.values().filter(|object| object.len == len).count();
        objects.retain(|_, object| object.len == len);
        drop(objects);
        if held < in_flight {
            self.run(Way::Put, len, in_flight, in_flight);
        }
    }

    /// Moves `objects` objects, `in_flight` at a time.
    fn run(&self, way: Way, len: usize, in_flight: usize, objects: usize) -> Duration {
        let started = Instant::now();
        self.runtime.block_on(async {
            let mut moving = JoinSet::new();
            for number in 0..objects {
                if moving.len() == in_flight {
                    moving.join_next().await.unwrap().unwrap();
                }
                let number = if matches!(way, Way::BareGet | Way::Get | Way::GetWhole) {
                    number % in_flight
                } else {
                    number
                };
                let (bare, store, staging) =
                    (Arc::clone(&self.bare), self.store.clone(), self.staging.clone());
                moving.spawn(async move { one(way, &bare, &store, &staging, number, len).await });
            }
            while let Some(moved) = moving.join_next().await {
                moved.unwrap();
            }
        });
        started.elapsed()
    }
}

async fn one(way: Way, bare: &AmazonS3, store: &S3Store, staging: &StagingPool, number: usize, len: usize) {
    let path = Path::from(format!("some/prefix/{}", name(number)));
    match way {
        Way::BarePut => {
            // The payload exists already: huge pages, in parts, as ours.
            let parts = staging.acquire_many(len / PART).await;
            let payload: PutPayload = parts.into_iter().map(|part| Bytes::from_owner(Owned(part))).collect();
            bare.put(&path, payload).await.unwrap();
        }
        Way::Put | Way::PutCopied => {
            let upload = store.begin(&name(number), len as u64).await.unwrap();
            let mut buffer = staging.acquire().await;
            if way == Way::Put {
                upload.write_from(ranges(len), buffer, Arc::new(Filled)).await.1.unwrap();
            } else {
                for range in ranges(len) {
                    let written;
                    (buffer, written) = upload.write(range.offset, buffer).await;
                    written.unwrap();
                }
            }
            upload.commit().await.unwrap();
        }
        Way::BareGet => {
            let mut stream = bare.get(&path).await.unwrap().into_stream();
            while let Some(piece) = stream.next().await {
                drop(piece.unwrap());
            }
        }
        Way::Get => {
            let buffers = staging.acquire_many(1).await;
            let read = store.read_into(&name(number), ranges(len), buffers, Arc::new(Seen)).await;
            read.unwrap().unwrap();
        }
        Way::GetWhole => {
            let buffers = staging.acquire_many(len / PART).await;
            let parts = ranges(len).into_iter().zip(buffers);
            let parts = parts.map(|(range, buffer)| ReadPart { offset: range.offset, buffer }).collect();
            store.read(&name(number), parts).await.result.unwrap().unwrap();
        }
    }
}

struct Owned(HostBuf);

impl AsRef<[u8]> for Owned {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

fn single(scene: &Scene, criterion: &mut Criterion) {
    for (len, in_flight) in SHAPES {
        let mut group = criterion.benchmark_group(format!("s3 {} MiB x {in_flight}", len / PART));
        group.sample_size(10).throughput(Throughput::Bytes((len * in_flight) as u64));
        for way in [Way::BarePut, Way::Put, Way::PutCopied, Way::BareGet, Way::Get, Way::GetWhole] {
            group.bench_function(BenchmarkId::from_parameter(format!("{way:?}")), |bencher| {
                bencher.iter_custom(|turns| {
                    let turn = |_| {
                        scene.prepare(way, len, in_flight);
                        scene.run(way, len, in_flight, in_flight)
                    };
                    (0..turns).map(turn).sum()
                });
            });
        }
        group.finish();
    }
}

/// Both in turns: GB/s, and what of the bare client's speed is left.
fn compare(scene: &Scene) {
    println!("\nMedians of {} turns of {} MiB each, in turns:", TURNS - 1, TURN_BYTES / PART);
    for (len, in_flight) in SHAPES {
        for (bare, ways) in
            [(Way::BarePut, [Way::Put, Way::PutCopied]), (Way::BareGet, [Way::Get, Way::GetWhole])]
        {
            let ways = [bare, ways[0], ways[1]];
            let mut times = ways.map(|_| Vec::new());
            for _ in 0..TURNS {
                for (way, times) in ways.iter().zip(&mut times) {
                    scene.prepare(*way, len, in_flight);
                    times.push(scene.run(*way, len, in_flight, TURN_BYTES / len));
                }
            }
            let speeds = times.map(|mut times| {
                times.remove(0);
                times.sort_unstable();
                TURN_BYTES as f64 / times[times.len() / 2].as_secs_f64() / 1e9
            });
            for (way, speed) in ways.iter().zip(speeds) {
                let ratio = speed / speeds[0];
                println!(
                    "{:>3} MiB x {in_flight}  {:<10} {speed:6.2} GB/s  {ratio:5.2}",
                    len / PART,
                    format!("{way:?}")
                );
            }
        }
    }
}

fn main() {
    let scene = Scene::new();
    if std::env::var_os("KV_COMPARE").is_some() {
        return compare(&scene);
    }
    let mut criterion = Criterion::default().configure_from_args();
    single(&scene, &mut criterion);
    criterion.final_summary();
    if std::env::args().any(|argument| argument == "--bench") {
        compare(&scene);
    }
}
