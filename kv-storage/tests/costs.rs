//! What a save and a load of one object cost, in figures that no machine changes: calls that move bytes, bytes copied, allocations.
#![expect(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "the functions that tests share are test code too"
)]

mod engines;

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicU64, Ordering};

use kv_format::{ChunkKey, NamespaceDigest, ObjectName};
use kv_memory::{HostBuf, HugePages, StagingPool};
use kv_storage::posix::{FsyncPolicy, IoEngine};
use kv_storage::{KvStore, PosixOptions, PosixStore, Publication, ReadPart};

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

struct Counting;

// SAFETY: every call is passed on to the system's allocator unchanged; counting allocates nothing. The default `realloc` and
// `alloc_zeroed` come here, too.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const PART: usize = 2 << 20;
const PARTS: u64 = 8;
const LEN: u64 = PARTS * PART as u64;

/// The text of `/proc/self/io` is a few bytes longer one time than another.
const SLACK: u64 = 32;

/// What this process has asked of the kernel, from `/proc/self/io`, and of the allocator.
#[derive(Debug)]
struct Costs {
    bytes_read: u64,
    bytes_written: u64,
    reads: u64,
    writes: u64,
    allocations: u64,
}

impl Costs {
    fn now() -> Self {
        let allocations = ALLOCATIONS.load(Ordering::Relaxed);
        let text = std::fs::read_to_string("/proc/self/io").unwrap();
        let field = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap();
            line.trim_start_matches(':').trim().parse::<u64>().unwrap()
        };
        Self {
            bytes_read: field("rchar"),
            bytes_written: field("wchar"),
            reads: field("syscr"),
            writes: field("syscw"),
            allocations,
        }
    }

    /// Since `before`, without what looking costs.
    fn since(before: &Self) -> Self {
        let now = Self::now();
        let again = Self::now();
        Self {
            bytes_read: (now.bytes_read - before.bytes_read)
                .saturating_sub(again.bytes_read - now.bytes_read),
            bytes_written: now.bytes_written - before.bytes_written,
            reads: now.reads - before.reads - (again.reads - now.reads),
            writes: now.writes - before.writes,
            allocations: now.allocations - before.allocations - (again.allocations - now.allocations),
        }
    }
}

fn name(chunk_index: u32) -> ObjectName {
    ObjectName { namespace: NamespaceDigest([1; 32]), key: ChunkKey([2; 32]), chunk_index, slice: 0 }
}

async fn save(store: &PosixStore, name: &ObjectName, buffers: Vec<HostBuf>) -> Vec<HostBuf> {
    let upload = store.begin(name, LEN).await.unwrap();
    let mut back = Vec::with_capacity(buffers.len());
    for (part, buffer) in (0..).zip(buffers) {
        let (buffer, written) = upload.write(part * PART as u64, buffer).await;
        written.unwrap();
        back.push(buffer);
    }
    assert_eq!(upload.commit().await.unwrap(), Publication::Published);
    back
}

async fn load(store: &PosixStore, name: &ObjectName, buffers: Vec<HostBuf>) -> Vec<HostBuf> {
    let at = |(part, buffer)| ReadPart { offset: part * PART as u64, buffer };
    let read = store.read(name, (0..).zip(buffers).map(at).collect()).await;
    read.result.unwrap().unwrap();
    read.buffers
}

// One test, so that nothing else in this process allocates or writes meanwhile.
#[test]
fn calls_copies_and_allocations_of_an_object_are_what_they_must_be() {
    // Without the driver for sockets, which would be woken by writes that are not the store's.
    let executor = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    executor.block_on(costs_of_an_object());
}

async fn costs_of_an_object() {
    let staging =
        StagingPool::new(HugePages::allocate(usize::try_from(LEN).unwrap()).unwrap(), PART).unwrap();
    for engine in engines::engines(&std::env::temp_dir()).await {
        if engine == IoEngine::Nixl {
            continue; // its calls and allocations are the library's
        }
        let root = tempfile::tempdir().unwrap();
        let options = PosixOptions::default()
            .fsync(FsyncPolicy::None)
            .sweep_older_than(None)
            .threads(1)
            .io(engine)
            .format_if_empty(true);
        let store = PosixStore::open(root.path(), options).await.unwrap();
        // The first object makes directories, and whatever else is made once.
        let mut buffers = staging.acquire_many(8).await;
        buffers = save(&store, &name(0), buffers).await;
        buffers = load(&store, &name(0), buffers).await;

        let before = Costs::now();
        buffers = save(&store, &name(1), buffers).await;
        let saved = Costs::since(&before);
        let before = Costs::now();
        drop(load(&store, &name(1), buffers).await);
        let loaded = Costs::since(&before);
        eprintln!("{engine}, 16 MiB in parts of 2 MiB: save {saved:?}; load {loaded:?}");
        match engine {
            IoEngine::IoUring if store.io_engine().direct() => {
                // The bell: at most one ring for each part, of eight bytes, and as much to hear it.
                assert!(saved.writes <= PARTS && saved.reads <= PARTS, "save: {saved:?}");
                assert!(
                    saved.bytes_written <= 8 * PARTS + SLACK,
                    "save: bytes went through the page cache: {saved:?}"
                );
                assert!(loaded.writes <= PARTS && loaded.reads <= PARTS, "load: {loaded:?}");
                assert!(
                    loaded.bytes_read <= 8 * PARTS + SLACK,
                    "load: bytes went through the page cache: {loaded:?}"
                );
            }
            IoEngine::Threads => {
                assert_eq!((saved.writes, saved.bytes_written), (PARTS, LEN), "save");
                assert!(saved.reads == 0 && saved.bytes_read <= SLACK, "save: {saved:?}");
                assert_eq!(loaded.reads, PARTS, "load");
                assert!(loaded.bytes_read.abs_diff(LEN) <= SLACK, "load: {loaded:?}");
                assert_eq!((loaded.writes, loaded.bytes_written), (0, 0), "load");
            }
            _ => eprintln!("SKIPPED: O_DIRECT does not work in {}", root.path().display()),
        }
        assert!(saved.allocations <= 130, "save: {saved:?}");
        assert!(loaded.allocations <= 40, "load: {loaded:?}");
    }
}
