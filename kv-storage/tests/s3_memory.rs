//! What uploads and reads allocate: nothing of the size of an object, however many there are. The server has a process of its own, so that
//! its memory is not counted.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "the functions that tests share are test code too"
)]

#[path = "remote_store/process.rs"]
mod process;
#[path = "s3_server/mod.rs"]
#[expect(dead_code, reason = "the suite of the S3 store uses the rest")]
mod s3_server;

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use kv_format::{ChunkKey, NamespaceDigest, ObjectName};
use kv_memory::{HostBuf, HugePages, StagingPool};
use kv_storage::s3::S3Store;
use kv_storage::{ByteRange, KvStore, Next, ObjectMeta, Publication, ReadPart, ReadSink, WriteSource};
use tokio::task::JoinSet;

use process::{Process, announce};
use s3_server::backend::BUCKET;
use s3_server::{Server, options};

const PART: usize = 1 << 20;
const OBJECT: usize = 8 << 20;
const IN_FLIGHT: u8 = 64;
/// Uploads that the staging holds.
const STAGED: usize = 4;

static LIVE: AtomicUsize = AtomicUsize::new(0);
static MOST_LIVE: AtomicUsize = AtomicUsize::new(0);
static LARGEST: AtomicUsize = AtomicUsize::new(0);

struct Counting;

// SAFETY: every call is passed on to the system's allocator unchanged; counting allocates nothing. The default `realloc` and
// `alloc_zeroed` come here, too.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let live = LIVE.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        MOST_LIVE.fetch_max(live, Ordering::Relaxed);
        LARGEST.fetch_max(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Bytes of the largest allocation, and the most that were allocated at a time, since the last look.
fn allocated() -> (usize, usize) {
    let live = LIVE.load(Ordering::Relaxed);
    let largest = LARGEST.swap(0, Ordering::Relaxed);
    (largest, MOST_LIVE.swap(live, Ordering::Relaxed))
}

fn name(number: u8) -> ObjectName {
    ObjectName { namespace: NamespaceDigest([1; 32]), key: ChunkKey([number; 32]), chunk_index: 0, slice: 0 }
}

fn ranges() -> Vec<ByteRange> {
    (0..OBJECT).step_by(PART).map(|offset| ByteRange { offset: offset as u64, len: PART }).collect()
}

struct Fill(u8);

impl WriteSource for Fill {
    fn fill(&self, _: usize, buffer: &mut HostBuf) -> bool {
        buffer.fill(self.0);
        true
    }
}

struct Check(u8);

impl ReadSink for Check {
    fn filled(&self, _: &ObjectMeta, _: usize, buffer: HostBuf) -> Next {
        assert!(buffer.iter().all(|byte| *byte == self.0), "another object's bytes");
        Next::Reuse(buffer)
    }
}

/// Every second object through the store's own memory, the others copied.
async fn put(store: S3Store, number: u8, pool: StagingPool) {
    let upload = store.begin(&name(number), OBJECT as u64).await.unwrap();
    let mut buffer = pool.acquire().await;
    if number.is_multiple_of(2) {
        upload.write_from(ranges(), buffer, Arc::new(Fill(number))).await.1.unwrap();
    } else {
        buffer.fill(number);
        for range in ranges() {
            let written;
            (buffer, written) = upload.write(range.offset, buffer).await;
            written.unwrap();
        }
    }
    assert_eq!(upload.commit().await.unwrap(), Publication::Published);
}

/// Every second object through two buffers, the others whole.
async fn get(store: S3Store, number: u8, pool: StagingPool) {
    if number.is_multiple_of(2) {
        let buffers = pool.acquire_many(2).await;
        let read = store.read_into(&name(number), ranges(), buffers, Arc::new(Check(number))).await;
        read.unwrap().unwrap();
        return;
    }
    let buffers = pool.acquire_many(OBJECT / PART).await;
    let parts = ranges().into_iter().zip(buffers);
    let parts = parts.map(|(range, buffer)| ReadPart { offset: range.offset, buffer }).collect();
    let read = store.read(&name(number), parts).await;
    read.result.unwrap().unwrap();
    assert!(
        read.buffers.iter().all(|part| part.iter().all(|byte| *byte == number)),
        "another object's bytes"
    );
}

//= SEMANTICS.md#s3-memory
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sixty_four_objects_in_flight_allocate_nothing_of_their_size() {
    let server = Process::start("serves_s3");
    let url = format!("s3://{BUCKET}?endpoint=http://{}&allow_http=true", server.address);
    let pool =
        |objects: usize| StagingPool::new(HugePages::allocate(objects * OBJECT).unwrap(), PART).unwrap();
    let (staging, callers) = (pool(STAGED), pool(STAGED));
    let store = S3Store::open(&url, options().staging(staging.clone())).await.unwrap();
    allocated();
    let before = LIVE.load(Ordering::Relaxed);
    let mut moving = JoinSet::new();
    for number in 0..IN_FLIGHT {
        moving.spawn(put(store.clone(), number, callers.clone()));
    }
    moving.join_all().await;
    let (largest, most) = allocated();
    println!("put: largest allocation {largest} bytes, at most {} bytes at a time", most - before);
    assert!(largest < PART / 8, "an upload allocated {largest} bytes at once");
    assert!(most - before < 4 * PART, "{} bytes for {IN_FLIGHT} uploads", most - before);
    assert_eq!(staging.usage().bytes_high_water, STAGED * OBJECT, "the pool is the bound, and is used");
    let mut moving = JoinSet::new();
    for number in 0..IN_FLIGHT {
        moving.spawn(get(store.clone(), number, callers.clone()));
    }
    moving.join_all().await;
    let (largest, most) = allocated();
    println!("get: largest allocation {largest} bytes, at most {} bytes at a time", most - before);
    // Bodies are read into the callers' buffers, but for what comes with the head.
    assert!(largest < PART / 8, "a read allocated {largest} bytes at once");
    assert!(most - before < 4 * PART, "{} bytes for {IN_FLIGHT} reads", most - before);
}

#[test]
#[ignore = "a child process of `sixty_four_objects_in_flight_allocate_nothing_of_their_size`"]
fn serves_s3() {
    let server = Server::start();
    announce(server.address);
    loop {
        std::thread::park(); // until this process ends
    }
}
