//! Memory does not grow with the context: a pool of 8 MiB serves 1K and 64K tokens, and nothing big is allocated beside it.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use common::{PATIENCE, gaudi_like, tokens};
use kv_device::{DeviceRegion, NullDevice};
use kv_format::reference::builder;
use kv_format::*;
use kv_pipeline::*;
use kv_storage::posix::FsyncPolicy;
use kv_storage::{KvStore, NullStore, PosixOptions, PosixStore};

/// Largest single allocation since the last reset.
static LARGEST: AtomicUsize = AtomicUsize::new(0);

struct Counting;

// SAFETY: every call is passed on to the system's allocator unchanged; noting a size allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LARGEST.fetch_max(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        LARGEST.fetch_max(size, Ordering::Relaxed);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const STAGING: usize = 8 << 20;
const LIMIT: usize = 64 << 10;

/// Peak resident memory of this process in bytes since the last call.
fn peak_resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let kib: usize = line.trim().trim_end_matches(" kB").parse().unwrap();
    // "5" resets the peak; a kernel that refuses leaves it growing, which makes the test stricter.
    let _ = std::fs::write("/proc/self/clear_refs", "5");
    kib * 1024
}

fn large_model() -> Namespace {
    builder(80, 8, 128).tensor_parallel(&[1, 8, 16]).build().unwrap()
}

/// One rank of TP 1 of a model the size of Llama-3.1-70B, block 16.
fn large_geometry(token_count: u32) -> Geometry {
    let blocks = token_count.div_ceil(16);
    let layout = PagingLayout::token_major(16, 8, 128);
    Geometry::new(AttentionParts {
        dtype: Dtype::Bf16,
        rope: RopePairing::RotateHalf,
        layers: 0..80,
        heads: 0..8,
        replica: Replica::ONLY,
        key_dim: 128,
        value_dim: 128,
        block_tokens: 16,
        blocks,
        key: layout,
        value: layout,
        tensors: (0..160).map(|region| TensorBase { region, offset: 0 }).collect(),
        regions: vec![layout.block_stride * u64::from(blocks) * 2; 160],
    })
    .unwrap()
}

// One test, so that nothing else allocates meanwhile.
#[tokio::test]
async fn a_pool_of_8_mib_serves_any_context() {
    let store: Arc<dyn KvStore> = Arc::new(NullStore);
    let kv = Pipeline::builder(large_model())
        .device(NullDevice::new().unwrap())
        .store(store)
        .staging_bytes(STAGING)
        .build()
        .unwrap();
    let mut peaks = Vec::new();
    for count in [1 << 10, 64 << 10] {
        let geometry = large_geometry(count);
        let prompt = tokens(count);
        let blocks: Vec<u32> = (0..geometry.blocks).rev().collect();
        let regions =
            geometry.regions.iter().map(|len| DeviceRegion { address: 1 << 40, len: *len }).collect();
        // SAFETY: a null device touches no memory.
        let registered = unsafe { kv.register(geometry, regions) }.unwrap();
        peak_resident();
        LARGEST.store(0, Ordering::Relaxed);
        let request = SaveRequest::new(&prompt).blocks(&blocks).timeout(10 * PATIENCE);
        let saved = kv.producer().save(&registered, request).unwrap().finish().await.unwrap();
        assert_eq!(saved.bytes, u64::from(count) * 320 * 1024, "every byte of KV went through the pool");
        let request = LoadRequest::new(&prompt).blocks(&blocks).timeout(PATIENCE);
        let loaded = kv.consumer().load(&registered, request).unwrap().finish().await.unwrap();
        assert_eq!((loaded.tokens, loaded.failures[0].reason), (0, StopReason::NotFound));
        check(&kv, "null", count);
        peaks.push(peak_resident());
        registered.close().await.unwrap();
    }
    assert!(peaks[0].abs_diff(peaks[1]) < 16 << 20, "peak resident memory of 1K and 64K tokens: {peaks:?}");
    save_and_load_for_real().await;
}

/// The same on a real store and device, with a small model: what a load needs is bounded too.
async fn save_and_load_for_real() {
    let directory = tempfile::tempdir().unwrap();
    let options = PosixOptions::default().fsync(FsyncPolicy::None).format_if_empty(true);
    let store = Arc::new(PosixStore::open(directory.path(), options).await.unwrap());
    let namespace = common::planned().chunk_tokens(256).build().unwrap();
    let count = 64 << 10;
    let small = gaudi_like(0..common::HEADS, Replica::ONLY);
    let parts = (*small).clone();
    let blocks = count / 128;
    let block = small.paging(TensorKind::Key).unwrap().block_stride * 2;
    let regions = vec![block * u64::from(blocks); parts.regions.len()];
    let geometry = Geometry::new(GeometryParts { blocks, regions, ..parts }).unwrap();
    let pipeline = Pipeline::builder(namespace).staging_bytes(STAGING);
    let rank = common::Rank::with(pipeline, store, geometry);
    let prompt = tokens(count);
    LARGEST.store(0, Ordering::Relaxed);
    assert_eq!(rank.save(&prompt).await.unwrap().tokens, count);
    check(&rank.kv, "posix save", count);
    for delivery in [Delivery::WholeChunk, Delivery::AsVerified] {
        rank.wipe();
        LARGEST.store(0, Ordering::Relaxed);
        let request = LoadRequest::new(&prompt).blocks(&rank.blocks).delivery(delivery).timeout(PATIENCE);
        let loaded = rank.kv.consumer().load(&rank.registered, request).unwrap().finish().await.unwrap();
        assert_eq!(loaded.tokens, count, "{delivery:?}");
        check(&rank.kv, &format!("posix load, {delivery:?}"), count);
    }
}

fn check(kv: &Pipeline, what: &str, count: u32) {
    let largest = LARGEST.load(Ordering::Relaxed);
    let usage = kv.staging();
    assert!(
        usage.bytes_high_water <= STAGING && usage.bytes_total <= STAGING,
        "{what}, {count} tokens: {usage:?}"
    );
    assert!(largest <= LIMIT, "{what}, {count} tokens: an allocation of {largest} bytes beside the pool");
    assert_eq!(usage.bytes_lent, 0, "{what}, {count} tokens");
}
