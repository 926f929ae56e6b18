//! When a load writes the engine's blocks, and that nothing is touched before the engine's fence.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::sync::Arc;

use common::*;
use kv_device::{HostDevice, HostDeviceOptions};
use kv_format::*;
use kv_pipeline::*;
use kv_storage::posix::FsyncPolicy;
use kv_storage::{KvStore, PosixOptions, PosixStore};

const COUNT: u32 = 3 * CHUNK;

/// A posix store, whose threads call back, with three chunks in it; and a consumer in parts of a page.
async fn scene() -> (tempfile::TempDir, Arc<PosixStore>, Rank) {
    let folder = tempfile::tempdir().unwrap();
    let options =
        PosixOptions::default().fsync(FsyncPolicy::None).sweep_older_than(None).format_if_empty(true);
    let store = Arc::new(PosixStore::open(folder.path(), options).await.unwrap());
    assert!(store.calls_back_on_own_threads());
    let builder = || Pipeline::builder(namespace()).staging_bytes(2 << 20).part_bytes(4096);
    let producer = Rank::with(builder(), Arc::clone(&store) as _, amd_like(0..HEADS, Replica::ONLY));
    producer.prefill(COUNT);
    assert_eq!(producer.save(&tokens(COUNT)).await.unwrap().tokens, COUNT);
    producer.registered.close().await.unwrap();
    let consumer = Rank::with(builder(), Arc::clone(&store) as _, gaudi_like(0..HEADS, Replica::ONLY));
    (folder, store, consumer)
}

async fn load(rank: &Rank, delivery: Delivery) -> Loaded {
    let prompt = tokens(COUNT);
    let request = LoadRequest::new(&prompt).blocks(&rank.blocks).delivery(delivery).timeout(PATIENCE);
    rank.kv.consumer().load(&rank.registered, request).unwrap().finish().await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn both_deliveries_give_the_engine_the_same_memory() {
    let (_folder, _store, consumer) = scene().await;
    // K and V of each layer, head and chunk; two bytes an element.
    let sections = u64::from(2 * LAYERS * HEADS * COUNT / CHUNK);
    let bytes = sections * u64::from(CHUNK * DIM * 2);
    for (times, delivery) in (1..).zip([Delivery::WholeChunk, Delivery::AsVerified]) {
        consumer.wipe();
        let loaded = load(&consumer, delivery).await;
        assert_eq!((loaded.tokens, loaded.failures.len()), (COUNT, 0), "{delivery:?}");
        assert_eq!((loaded.verified_sections, loaded.bytes), (sections, bytes), "{delivery:?}");
        let stats = consumer.kv.stats();
        let counted = (stats.sections_verified, stats.bytes_loaded);
        assert_eq!(counted, (times * sections, times * bytes), "{delivery:?}");
        consumer.assert_holds(COUNT);
        consumer.assert_at_rest();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fence_that_is_never_reached_ends_a_load_at_its_deadline() {
    let (_folder, _store, consumer) = scene().await;
    let prompt = tokens(COUNT);
    for delivery in [Delivery::WholeChunk, Delivery::AsVerified] {
        let after = kv_device::HostFence::new(&"engine") as Arc<dyn kv_device::Fence>;
        let request = LoadRequest::new(&prompt).blocks(&consumer.blocks).delivery(delivery).after(after);
        let request = request.timeout(std::time::Duration::from_millis(100));
        let load = consumer.kv.consumer().load(&consumer.registered, request).unwrap();
        let loaded = tokio::time::timeout(PATIENCE, load.finish()).await.unwrap().unwrap();
        assert_eq!((loaded.tokens, loaded.failures[0].reason), (0, StopReason::Deadline), "{delivery:?}");
        consumer.assert_holds(0);
        consumer.assert_at_rest();
    }
}

/// Whatever byte of a chunk is bad: with whole chunks its blocks hold what they held, with parts as they are verified each byte is
/// what it was or what it should be.
//= SPEC.md#read-verified
#[tokio::test(flavor = "multi_thread")]
async fn no_unverified_byte_is_written_under_either_delivery() {
    let (_folder, store, consumer) = scene().await;
    let (whole, before) = (consumer.expected(COUNT), consumer.expected(CHUNK));
    let mut objects = contents(&*store, &namespace()).await;
    objects.retain(|(name, _)| name.chunk_index == 1);
    let (name, bytes) = &objects[1];
    let mut partial = 0;
    for at in (HEADER_PAGE..bytes.len()).step_by(1499) {
        for delivery in [Delivery::WholeChunk, Delivery::AsVerified] {
            let mut bad = bytes.clone();
            bad[at] ^= 0x40;
            plant(&*store, name, &bad).await;
            consumer.wipe();
            let loaded = load(&consumer, delivery).await;
            assert_eq!((loaded.tokens, loaded.failures[0].reason), (CHUNK, StopReason::Corrupt), "byte {at}");
            if delivery == Delivery::WholeChunk {
                consumer.assert_holds(CHUNK);
                continue;
            }
            let snapshot = consumer.snapshot();
            for (region, have) in snapshot.iter().enumerate() {
                for (offset, byte) in have.iter().enumerate() {
                    let right = *byte == whole[region][offset];
                    assert!(
                        right || *byte == SENTINEL,
                        "bad byte {at}: region {region}, byte {offset} is {byte:#x}"
                    );
                }
            }
            assert!(snapshot.iter().zip(&before).all(|(have, first)| {
                have.iter().zip(first).all(|(have, first)| *first == SENTINEL || have == first)
            }));
            partial += usize::from(snapshot != before);
        }
    }
    assert!(partial > 0, "no part of a bad chunk was ever delivered: this test shows nothing");
}

/// Until the engine has reached its fence, a load writes nothing and a save reads nothing, on whichever thread they would.
#[tokio::test(flavor = "multi_thread")]
async fn the_stores_threads_wait_for_the_engines_fence() {
    let (_folder, store, _) = scene().await;
    let prompt = tokens(COUNT);
    let device = HostDevice::new(HostDeviceOptions::default()).unwrap();
    for delivery in [Delivery::WholeChunk, Delivery::AsVerified] {
        let builder = Pipeline::builder(namespace()).staging_bytes(2 << 20).part_bytes(4096);
        let geometry = gaudi_like(0..HEADS, Replica::ONLY);
        let blocks = scattered(&geometry);
        let rank = Rank::on(builder, Arc::clone(&store) as _, &device, geometry, blocks);
        let fence = device.fence();
        let request = LoadRequest::new(&prompt).blocks(&rank.blocks).delivery(delivery).timeout(PATIENCE);
        let load = rank.kv.consumer().load(&rank.registered, request.after(Arc::clone(&fence) as _)).unwrap();
        working(&rank).await;
        rank.assert_holds(0);
        fence.signal();
        assert_eq!(load.finish().await.unwrap().tokens, COUNT, "{delivery:?}");
        rank.assert_holds(COUNT);
        rank.registered.close().await.unwrap();
    }

    let folder = tempfile::tempdir().unwrap();
    let options =
        PosixOptions::default().fsync(FsyncPolicy::None).sweep_older_than(None).format_if_empty(true);
    let store = Arc::new(PosixStore::open(folder.path(), options).await.unwrap());
    let builder = Pipeline::builder(namespace()).staging_bytes(2 << 20).part_bytes(4096);
    let geometry = amd_like(0..HEADS, Replica::ONLY);
    let blocks = scattered(&geometry);
    let rank = Rank::on(builder, Arc::clone(&store) as _, &device, geometry, blocks);
    let fence = device.fence();
    let request = SaveRequest::new(&prompt).blocks(&rank.blocks).timeout(PATIENCE);
    let save = rank.kv.producer().save(&rank.registered, request.after(Arc::clone(&fence) as _)).unwrap();
    working(&rank).await;
    rank.prefill(COUNT); // the engine's kernel, which the fence stands for
    fence.signal();
    assert_eq!(save.finish().await.unwrap().tokens, COUNT);
    rank.wipe();
    assert_eq!(load(&rank, Delivery::WholeChunk).await.tokens, COUNT);
    rank.assert_holds(COUNT);
    rank.registered.close().await.unwrap();
}

/// Waits until an operation has staging in its hands: it has begun, and would go on if nothing held it.
async fn working(rank: &Rank) {
    let begun = async {
        while rank.kv.staging().bytes_lent == 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, begun).await.unwrap();
    for _ in 0..1000 {
        tokio::task::yield_now().await;
    }
}
