//! What a consumer refuses: nothing of a bad chunk reaches the engine, and the reason is told.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use std::sync::Arc;

use common::*;
use kv_format::*;
use kv_pipeline::{ErrorKind, *};
use kv_storage::fault::{Injection, When};
use kv_storage::{ErrorKind as StorageKind, Fault, KvStore, MemoryStore, Operation};

const COUNT: u32 = 3 * CHUNK;

/// A store with three chunks, a consumer with two objects a chunk, and the objects of chunk 1.
async fn scene() -> (MemoryStore, Rank, Vec<(ObjectName, Vec<u8>)>) {
    let store = saved(&namespace(), COUNT).await;
    let consumer = Rank::new(namespace(), Arc::new(store.clone()), gaudi_like(0..HEADS, Replica::ONLY));
    let mut objects = contents(&store, &namespace()).await;
    objects.retain(|(name, _)| name.chunk_index == 1);
    objects.sort_by_key(|(name, _)| name.slice);
    (store, consumer, objects)
}

/// Loads and asserts that chunk 0 arrived, that chunk 1 and all behind left the memory alone, and why.
async fn assert_refused(consumer: &Rank, reason: StopReason, what: &str) -> ChunkFailure {
    consumer.wipe();
    let loaded = consumer.load(&tokens(COUNT)).await.unwrap();
    assert_eq!(loaded.tokens, CHUNK, "{what}");
    assert_eq!(loaded.failures.len(), 1, "{what}");
    assert_eq!(
        (loaded.failures[0].chunk_index, loaded.failures[0].reason),
        (1, reason),
        "{what}: {}",
        loaded.failures[0]
    );
    consumer.assert_holds(CHUNK);
    consumer.assert_at_rest();
    loaded.failures[0].clone()
}

/// Changes header bytes and makes the checksum right again.
fn forged(object: &[u8], change: impl FnOnce(&mut [u8])) -> Vec<u8> {
    let mut object = object.to_vec();
    let header = &mut object[..HEADER_PAGE];
    change(header);
    header[288..296].fill(0);
    let checksum = Checksum::of(header);
    header[288..296].copy_from_slice(&checksum.to_le_bytes());
    object
}

//= SPEC.md#read-verified
#[tokio::test]
async fn a_flipped_payload_bit_is_noticed_wherever_it_is() {
    let (store, consumer, objects) = scene().await;
    for (name, bytes) in &objects {
        for at in [HEADER_PAGE, HEADER_PAGE + 777, bytes.len() / 2, bytes.len() - 1] {
            let mut bad = bytes.clone();
            bad[at] ^= 0x10;
            plant(&store, name, &bad).await;
            let failure = assert_refused(&consumer, StopReason::Corrupt, &format!("byte {at}")).await;
            assert_eq!(failure.object, Some(*name));
            // The corrupt object is out of the way, so that a save heals it.
            assert_eq!(store.head(name).await.unwrap(), None);
        }
        plant(&store, name, bytes).await;
    }
    consumer.wipe();
    assert_eq!(consumer.load(&tokens(COUNT)).await.unwrap().tokens, COUNT);
    assert_eq!(consumer.kv.stats().objects_quarantined, 8);
}

#[tokio::test]
async fn a_save_heals_what_a_load_refused() {
    let (store, consumer, objects) = scene().await;
    let mut bad = objects[1].1.clone();
    bad[HEADER_PAGE] ^= 1;
    plant(&store, &objects[1].0, &bad).await;
    assert_refused(&consumer, StopReason::Corrupt, "before healing").await;
    let producer = Rank::new(namespace(), Arc::new(store.clone()), amd_like(0..HEADS, Replica::ONLY));
    producer.prefill(COUNT);
    let saved = producer.save(&tokens(COUNT)).await.unwrap();
    assert_eq!(saved.objects - saved.deduplicated, 1);
    assert_eq!(consumer.load(&tokens(COUNT)).await.unwrap().tokens, COUNT);
    consumer.assert_holds(COUNT);
}

//= SPEC.md#read-header-checksum
#[tokio::test]
async fn every_flipped_header_bit_is_noticed() {
    let (store, consumer, objects) = scene().await;
    let (name, bytes) = &objects[0];
    let chunk_0_only = consumer.expected(CHUNK);
    for bit in 0..HEADER_PAGE * 8 {
        let mut bad = bytes.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        plant(&store, name, &bad).await;
        consumer.wipe();
        let loaded = consumer.load(&tokens(COUNT)).await.unwrap();
        assert_eq!(loaded.tokens, CHUNK, "bit {bit} of the header");
        assert!(consumer.snapshot() == chunk_0_only, "bit {bit} of the header: the memory was touched");
    }
}

#[tokio::test]
async fn swapped_objects_are_incompatible() {
    let (store, consumer, objects) = scene().await;
    let [(a, a_bytes), (b, b_bytes)] = &objects[..] else { panic!("two objects a chunk") };
    plant(&store, a, b_bytes).await;
    plant(&store, b, a_bytes).await;
    assert_refused(&consumer, StopReason::Incompatible, "two slices swapped").await;
    plant(&store, a, a_bytes).await;
    plant(&store, b, b_bytes).await;
    let other_chunk = contents(&store, &namespace()).await;
    let (_, chunk_2) = other_chunk.iter().find(|(name, _)| name.chunk_index == 2 && name.slice == 0).unwrap();
    plant(&store, a, chunk_2).await;
    assert_refused(&consumer, StopReason::Incompatible, "another chunk's object").await;
}

//= SPEC.md#read-length
#[tokio::test]
async fn other_lengths_are_noticed() {
    let (store, consumer, objects) = scene().await;
    let (name, bytes) = &objects[1];
    for len in [bytes.len() - 1, bytes.len() / 2, HEADER_PAGE, HEADER_PAGE - 1, 1] {
        plant(&store, name, &bytes[..len]).await;
        assert_refused(&consumer, StopReason::Corrupt, &format!("truncated to {len} bytes")).await;
    }
    for extra in [1, 4096] {
        let mut long = bytes.clone();
        long.resize(bytes.len() + extra, 0);
        plant(&store, name, &long).await;
        assert_refused(&consumer, StopReason::Corrupt, &format!("{extra} bytes too long")).await;
    }
    let mut zeroed = bytes.clone();
    let half = bytes.len() / 2;
    zeroed[half..].fill(0);
    plant(&store, name, &zeroed).await;
    assert_refused(&consumer, StopReason::Corrupt, "a tail of zeros").await;
}

#[tokio::test]
async fn a_cut_object_is_taken_out_of_the_way_unless_it_is_whole_by_now() {
    let (store, consumer, objects) = scene().await;
    let (name, bytes) = &objects[1];
    for len in [bytes.len() - 1, 1] {
        plant(&store, name, &bytes[..len]).await;
        assert_refused(&consumer, StopReason::Corrupt, &format!("cut to {len} bytes")).await;
        assert_eq!(store.head(name).await.unwrap(), None, "{len} bytes");
    }
    // Cut when it is read, whole when it is asked for its length, as if a save had healed it meanwhile.
    plant(&store, name, bytes).await;
    let fault = Fault::new(Arc::new(store.clone()));
    let name = *name;
    let reads = When::every(Operation::Read).matching(move |call| call.object == Some(name));
    fault.inject(reads, Injection::Truncate(100));
    let consumer = Rank::new(namespace(), Arc::new(fault.clone()), gaudi_like(0..HEADS, Replica::ONLY));
    assert_refused(&consumer, StopReason::Corrupt, "cut when read").await;
    assert!(fault.fired() > 0);
    assert!(store.head(&name).await.unwrap().is_some(), "an object that may be right was taken away");
}

#[tokio::test]
async fn a_store_that_refuses_to_read_says_whether_it_may_or_cannot() {
    let (store, _, objects) = scene().await;
    let name = objects[1].0;
    for (kind, reason) in [
        (StorageKind::PermissionDenied, StopReason::Denied),
        (StorageKind::Unavailable, StopReason::Unavailable),
        (StorageKind::Backend, StopReason::Unavailable),
    ] {
        let fault = Fault::new(Arc::new(store.clone()));
        let reads = When::every(Operation::Read).matching(move |call| call.object == Some(name));
        fault.inject(reads, Injection::Fail(kind));
        let consumer = Rank::new(namespace(), Arc::new(fault), gaudi_like(0..HEADS, Replica::ONLY));
        let failure = assert_refused(&consumer, reason, &format!("{kind:?}")).await;
        assert_eq!(failure.object, Some(name));
        assert!(store.head(&name).await.unwrap().is_some(), "{kind:?}: an object that was not read is gone");
    }
}

#[tokio::test]
async fn another_model_is_another_namespace_and_a_miss() {
    let (store, ..) = scene().await;
    let mut pairing = planned().build().unwrap().model().clone();
    pairing.rope_pairing = RopePairing::Interleaved;
    let mut weights = pairing.clone();
    weights.rope_pairing = RopePairing::RotateHalf;
    weights.weights = InputDigest([0xAB; 32]);
    for model in [pairing, weights] {
        let rope = model.rope_pairing;
        let other =
            Namespace::builder(model).chunk_tokens(CHUNK).tensor_parallel(&[1, 2, 4]).build().unwrap();
        let parts = GeometryParts { rope, ..(*gaudi_like(0..HEADS, Replica::ONLY)).clone() };
        let consumer = Rank::new(other, Arc::new(store.clone()), Geometry::new(parts).unwrap());
        let loaded = consumer.load(&tokens(COUNT)).await.unwrap();
        assert_eq!((loaded.tokens, loaded.failures[0].reason), (0, StopReason::NotFound));
        consumer.assert_holds(0);
        let found = consumer.kv.consumer().lookup(LookupRequest::new(&tokens(COUNT))).await.unwrap();
        assert_eq!((found.tokens, found.stopped), (0, Some(StopReason::NotFound)));
    }
}

//= SPEC.md#read-identity
#[tokio::test]
async fn another_model_forged_under_the_right_key_is_incompatible() {
    let (store, consumer, objects) = scene().await;
    let (name, bytes) = &objects[0];
    let redigested = |change: fn(&mut ObjectHeader)| {
        let mut header = ObjectHeader::decode(bytes, bytes.len() as u64).unwrap();
        change(&mut header);
        let mut object = bytes.clone();
        header.encode(&mut object[..HEADER_PAGE]).unwrap();
        object
    };
    let mut other = namespace().model().clone();
    other.weights = InputDigest([0xAB; 32]);
    let other = Namespace::builder(other).chunk_tokens(CHUNK).tensor_parallel(&[1, 2, 4]).build().unwrap();
    let forgeries = [
        ("rope pairing", redigested(|header| header.identity.rope = RopePairing::Interleaved)),
        ("weights digest", {
            let mut header = ObjectHeader::decode(bytes, bytes.len() as u64).unwrap();
            header.identity.namespace = other.digest();
            let mut object = bytes.clone();
            header.encode(&mut object[..HEADER_PAGE]).unwrap();
            object
        }),
        ("token range", redigested(|header| header.identity.token_start += 1)),
        ("major version", forged(bytes, |header| header[8] = 2)),
        ("required feature", forged(bytes, |header| header[16] = 1)),
    ];
    for (what, object) in forgeries {
        plant(&store, name, &object).await;
        assert_refused(&consumer, StopReason::Incompatible, what).await;
        assert!(
            store.head(name).await.unwrap().is_some(),
            "{what}: an incompatible object is left where it is"
        );
    }
}

#[tokio::test]
async fn a_deleted_object_ends_the_prefix_at_its_chunk() {
    let (store, consumer, objects) = scene().await;
    store.delete(&objects[1].0).await.unwrap();
    assert_refused(&consumer, StopReason::NotFound, "deleted").await;
    let found = consumer.kv.consumer().lookup(LookupRequest::new(&tokens(COUNT))).await.unwrap();
    assert_eq!((found.tokens, found.stopped), (CHUNK, Some(StopReason::NotFound)));
    let prompt = tokens(COUNT);
    let request = LoadRequest::new(&prompt).blocks(&consumer.blocks).policy(LoadPolicy::Fail);
    let error =
        consumer.kv.consumer().load(&consumer.registered, request).unwrap().finish().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Incomplete);
    let stats = consumer.kv.stats();
    assert_eq!((stats.loads_recomputed, stats.loads_failed), (1, 1));
}

#[tokio::test]
async fn the_staging_pool_never_leaks_one_object_into_the_padding_of_another() {
    let store = saved(&namespace(), COUNT + 3).await;
    for (name, bytes) in contents(&store, &namespace()).await {
        let header = ObjectHeader::decode(&bytes, bytes.len() as u64).unwrap();
        let mut end = HEADER_PAGE;
        for section in &header.layout.sections {
            let start = usize::try_from(section.offset).unwrap();
            assert!(bytes[end..start].iter().all(|byte| *byte == 0), "{name}: padding before {start}");
            end = start + usize::try_from(section.len).unwrap();
        }
    }
}

/// Runs a future that never waits, such as any call of a memory store.
fn at_once<T>(future: impl Future<Output = T>) -> T {
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    match std::pin::pin!(future).poll(&mut context) {
        std::task::Poll::Ready(output) => output,
        std::task::Poll::Pending => panic!("the future waits"),
    }
}

#[tokio::test]
async fn an_object_that_is_replaced_between_two_passes_is_not_delivered() {
    let (store, _, objects) = scene().await;
    // Another payload of the same identity, in itself valid.
    let (name, bytes) = objects[0].clone();
    let mut other = bytes.clone();
    other[HEADER_PAGE] ^= 1;
    let mut header = ObjectHeader::decode(&bytes, bytes.len() as u64).unwrap();
    let len = usize::try_from(header.layout.sections[0].len).unwrap();
    header.checksums[0] = Checksum::of(&other[HEADER_PAGE..HEADER_PAGE + len]);
    header.encode(&mut other[..HEADER_PAGE]).unwrap();
    let fault = Fault::new(Arc::new(store.clone()));
    let (reads, writer) = (std::sync::atomic::AtomicU32::new(0), store.clone());
    let parts = u32::try_from(bytes.len().div_ceil(HEADER_PAGE)).unwrap();
    fault.on_call(move |call| {
        let read = call.operation == Operation::Read && call.object == Some(name);
        // The first read of the second pass sees the old object, all others the new one.
        if read && reads.fetch_add(1, std::sync::atomic::Ordering::Relaxed) == parts + 1 {
            at_once(plant(&writer, &name, &other));
        }
    });
    let builder = Pipeline::builder(namespace()).staging_bytes(8192).part_bytes(4096);
    let narrow = Rank::with(builder, Arc::new(fault.clone()), gaudi_like(0..HEADS, Replica::ONLY));
    let loaded = narrow.load(&tokens(COUNT)).await.unwrap();
    assert!(fault.calls(Operation::Read) > u64::from(parts), "the chunk was read in two passes");
    assert_eq!((loaded.tokens, loaded.failures[0].chunk_index), (CHUNK, 1));
    assert_eq!(loaded.failures[0].reason, StopReason::Unavailable, "{}", loaded.failures[0]);
    assert!(store.head(&name).await.unwrap().is_some(), "the new object is valid and stays");
}

/// A backend that ends a read early and says that it is done, as NIXL does up to 1.4: the length is right, and the rest is something else.
#[tokio::test]
async fn a_short_read_that_is_called_done_is_refused_wherever_it_ends() {
    let (store, _, objects) = scene().await;
    for (name, bytes) in &objects {
        let len = bytes.len();
        for end in [0, 100, HEADER_PAGE, HEADER_PAGE + 1, len / 2, len - 1] {
            assert!(bytes[end..].iter().any(|byte| *byte != 0), "the damage would be none");
            let fault = Fault::new(Arc::new(store.clone()));
            let name = *name;
            let reads = When::every(Operation::Read).matching(move |call| call.object == Some(name));
            fault.inject(reads, Injection::Zero(end as u64..len as u64));
            let consumer =
                Rank::new(namespace(), Arc::new(fault.clone()), gaudi_like(0..HEADS, Replica::ONLY));
            assert_refused(&consumer, StopReason::Corrupt, &format!("{end} of {len} bytes came")).await;
            assert!(fault.fired() > 0);
            plant(&store, &name, bytes).await; // what was refused is out of the way
        }
    }
}
