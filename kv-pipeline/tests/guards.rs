//! Figures that do not depend on the machine, and that a careless change makes worse: bytes copied, calls, allocations.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test fails by panicking, and tells its figures"
)]

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use common::{PATIENCE, tokens};
use kv_device::{Device, HostAllocation, HostDevice, HostDeviceOptions};
use kv_format::reference::builder;
use kv_format::*;
use kv_pipeline::*;
use kv_storage::posix::FsyncPolicy;
use kv_storage::{Metered, Operation, PosixOptions, PosixStore};

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);
static LARGEST: AtomicUsize = AtomicUsize::new(0);

struct Counting;

impl Counting {
    fn note(size: usize) {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        LARGEST.fetch_max(size, Ordering::Relaxed);
    }
}

// SAFETY: every call is passed on to the system's allocator unchanged; counting allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        Self::note(layout.size());
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        Self::note(size);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const CHUNKS: u32 = 8;
const LAYERS: u32 = 20;
/// Sections of 64 KiB, 31 to the first part of 2 MiB beside the header, 32 to any other: 40 sections are two parts.
const PARTS: u64 = 2;
/// Parts of half a MiB of an object, in which it is moved where a thread of the store does all that is done to a part.
const SMALL_PARTS: u64 = 6;
/// A save gathers two sections at a time: four times for each small part, which has seven or eight, and once for the last one.
const GATHERS: u64 = 21;

/// What the kernel has copied and how often it was asked to, from `/proc/self/io`.
#[derive(Debug, Clone, Copy, Default)]
struct KernelIo {
    bytes_read: u64,
    bytes_written: u64,
    reads: u64,
    writes: u64,
}

impl KernelIo {
    fn now() -> Self {
        let text = std::fs::read_to_string("/proc/self/io").unwrap();
        let field = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap();
            line.trim_start_matches(':').trim().parse::<u64>().unwrap()
        };
        let (bytes_read, bytes_written) = (field("rchar"), field("wchar"));
        Self { bytes_read, bytes_written, reads: field("syscr"), writes: field("syscw") }
    }

    fn since(self, before: Self) -> Self {
        Self {
            bytes_read: self.bytes_read - before.bytes_read,
            bytes_written: self.bytes_written - before.bytes_written,
            reads: self.reads - before.reads,
            writes: self.writes - before.writes,
        }
    }
}

/// One rank of TP 8 of a model like Llama-3.1-70B, with fewer layers.
fn geometry(block_tokens: u32) -> Geometry {
    let layout = PagingLayout::token_major(block_tokens, 1, 128);
    let blocks = CHUNKS * 256 / block_tokens;
    let tensors = 2 * LAYERS;
    Geometry::new(AttentionParts {
        dtype: Dtype::Bf16,
        rope: RopePairing::RotateHalf,
        layers: 0..LAYERS,
        heads: 3..4,
        replica: Replica::ONLY,
        key_dim: 128,
        value_dim: 128,
        block_tokens,
        blocks,
        key: layout,
        value: layout,
        tensors: (0..tensors).map(|region| TensorBase { region, offset: 0 }).collect(),
        regions: vec![layout.block_stride * u64::from(blocks) * 2; tensors as usize],
    })
    .unwrap()
}

// One test, so that nothing else in this process allocates or writes meanwhile.
#[test]
fn copies_calls_and_allocations_of_a_chunk_are_what_they_must_be() {
    // Without the driver for sockets, which would be woken by writes that are not the store's.
    let executor = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    executor.block_on(copies_calls_and_allocations());
}

async fn copies_calls_and_allocations() {
    let directory = tempfile::tempdir().unwrap();
    let options =
        PosixOptions::default().fsync(FsyncPolicy::None).sweep_older_than(None).format_if_empty(true);
    let store = Metered::new(Arc::new(PosixStore::open(directory.path(), options).await.unwrap()));
    let device = HostDevice::new(HostDeviceOptions::default()).unwrap();
    let geometry = geometry(16);
    let allocate = |len: &u64| device.allocate(usize::try_from(*len).unwrap()).unwrap();
    let memory: Vec<HostAllocation> = geometry.regions.iter().map(allocate).collect();
    let namespace = builder(LAYERS, 8, 128).tensor_parallel(&[8]).build().unwrap();
    let kv = Pipeline::builder(namespace)
        .device(Arc::clone(&device) as Arc<dyn Device>)
        .store(Arc::new(store.clone()))
        .staging_bytes(32 << 20)
        .build()
        .unwrap();
    let blocks: Vec<u32> = (0..geometry.blocks).rev().collect();
    // SAFETY: the allocations are dropped after the registration was closed.
    let registered =
        unsafe { kv.register(geometry, memory.iter().map(HostAllocation::region).collect()) }.unwrap();
    let prompt = tokens(CHUNKS * 256);
    let chunks = u64::from(CHUNKS);

    // A first chunk, so that directories, threads and lazily made things exist.
    let first = SaveRequest::new(&prompt[..256]).blocks(&blocks).timeout(PATIENCE);
    kv.producer().save(&registered, first).unwrap().finish().await.unwrap();
    store.snapshot();

    let (calls, io, moved) = (store.snapshot(), KernelIo::now(), device.counts());
    reset();
    let save = SaveRequest::new(&prompt).blocks(&blocks).timeout(PATIENCE);
    let saved = kv.producer().save(&registered, save).unwrap().finish().await.unwrap();
    let allocations = ALLOCATIONS.load(Ordering::Relaxed);
    let (after, io, gathered) =
        (store.snapshot(), KernelIo::now().since(io), device.counts().gathered.bytes - moved.gathered.bytes);
    let new = chunks - 1; // the first is there already
    assert_eq!(saved.deduplicated, 1);
    at_most("save: bytes copied per byte", gathered + io.bytes_written, saved.bytes, 2.01);
    let of = |operation| after.of(operation).calls - calls.of(operation).calls;
    assert_eq!(total(&after) - total(&calls), chunks + new * 3, "store calls of all kinds");
    assert_eq!((of(Operation::Read), of(Operation::Begin), of(Operation::Commit)), (chunks, new, new));
    assert_eq!(of(Operation::Write), new, "one streamed write an object");
    assert_eq!(io.writes, new * (SMALL_PARTS + 1), "one system call a part, and one for the header");
    assert_eq!(
        device.counts().gathered.transfers - moved.gathered.transfers,
        new * GATHERS,
        "one device call for 128 KiB"
    );
    at_most("save: allocations per chunk", allocations, chunks, 350.0);
    assert!(LARGEST.load(Ordering::Relaxed) <= 64 << 10, "save: an allocation of {LARGEST:?} bytes");

    for delivery in [Delivery::WholeChunk, Delivery::AsVerified] {
        let (calls, io, moved) = (store.snapshot(), KernelIo::now(), device.counts());
        reset();
        let load = LoadRequest::new(&prompt).blocks(&blocks).delivery(delivery).timeout(PATIENCE);
        let loaded = kv.consumer().load(&registered, load).unwrap().finish().await.unwrap();
        let allocations = ALLOCATIONS.load(Ordering::Relaxed);
        let (after, io, scattered) = (
            store.snapshot(),
            KernelIo::now().since(io),
            device.counts().scattered.bytes - moved.scattered.bytes,
        );
        assert_eq!(loaded.tokens, CHUNKS * 256);
        at_most(
            &format!("load, {delivery:?}: bytes copied per byte"),
            scattered + io.bytes_read,
            loaded.bytes,
            2.01,
        );
        assert_eq!(
            after.of(Operation::Read).calls - calls.of(Operation::Read).calls,
            chunks,
            "one read an object"
        );
        assert_eq!(total(&after) - total(&calls), chunks, "store calls of all kinds");
        let looking = KernelIo::now();
        let looking = KernelIo::now().since(looking);
        let parts = if delivery == Delivery::AsVerified { SMALL_PARTS } else { PARTS };
        assert_eq!(io.reads - looking.reads, chunks * parts, "one system call a part");
        at_most(&format!("load, {delivery:?}: allocations per chunk"), allocations, chunks, 330.0);
        assert!(LARGEST.load(Ordering::Relaxed) <= 64 << 10, "load: an allocation of {LARGEST:?} bytes");
    }
    registered.close().await.unwrap();
}

/// Calls of every kind.
fn total(snapshot: &kv_storage::Snapshot) -> u64 {
    snapshot.operations.values().map(|metrics| metrics.calls).sum()
}

fn reset() {
    ALLOCATIONS.store(0, Ordering::Relaxed);
    LARGEST.store(0, Ordering::Relaxed);
}

/// Asserts an upper bound, and prints the figure for whoever runs with `--nocapture`.
fn at_most(what: &str, figure: u64, per: u64, bound: f64) {
    #[expect(clippy::cast_precision_loss, reason = "counts far below 2^52")]
    let ratio = figure as f64 / per as f64;
    println!("{what}: {ratio:.3} (at most {bound})");
    assert!(ratio <= bound, "{what}: {ratio:.3}, at most {bound}");
}
