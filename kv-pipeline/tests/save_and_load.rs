//! Save on one engine, load on a different one.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::sync::Arc;

use common::*;
use kv_device::{HostDevice, HostDeviceOptions};
use kv_format::reference::{Shape, geometry};
use kv_format::*;
use kv_pipeline::{ErrorKind, *};
use kv_storage::MemoryStore;
use proptest::prelude::*;

/// Heads and replica of a rank under tensor parallelism, as vLLM shards or replicates them.
fn shard(rank: u32, degree: u32) -> (std::ops::Range<u32>, Replica) {
    if degree <= HEADS {
        let per_rank = HEADS / degree;
        return (rank * per_rank..(rank + 1) * per_rank, Replica::ONLY);
    }
    let count = degree / HEADS;
    (rank / count..rank / count + 1, Replica { index: rank % count, count })
}

/// Everything that a cluster of `degree` ranks saves.
async fn save_all(
    store: &MemoryStore,
    degree: u32,
    count: u32,
    layout: fn(std::ops::Range<u32>, Replica) -> Geometry,
) -> Vec<Saved> {
    let mut all = Vec::new();
    for rank in 0..degree {
        let (heads, replica) = shard(rank, degree);
        let rank = Rank::new(namespace(), Arc::new(store.clone()), layout(heads, replica));
        rank.prefill(count);
        all.push(rank.save(&tokens(count)).await.unwrap());
        rank.assert_at_rest();
        rank.registered.close().await.unwrap();
    }
    all
}

//= SPEC.md#replica-writer
#[tokio::test]
async fn any_parallelism_loads_what_any_other_saved() {
    const COUNT: u32 = 3 * CHUNK;
    for (prefill, decode) in [(1, 1), (1, 2), (2, 1), (4, 1), (4, 2), (2, 4), (4, 4)] {
        let store = MemoryStore::new();
        save_all(&store, prefill, COUNT, amd_like).await;
        for rank in 0..decode {
            let (heads, replica) = shard(rank, decode);
            let rank = Rank::new(namespace(), Arc::new(store.clone()), gaudi_like(heads.clone(), replica));
            let loaded = rank.load(&tokens(COUNT)).await.unwrap();
            assert_eq!((loaded.tokens, loaded.requested, loaded.failures), (COUNT, COUNT, vec![]));
            assert_eq!(loaded.verified_sections, u64::from(3 * 2 * LAYERS) * heads.len() as u64);
            rank.assert_holds(COUNT);
            rank.assert_at_rest();
        }
    }
}

//= SPEC.md#invariant
//= SPEC.md#section-checksum
#[tokio::test]
async fn objects_are_identical_whichever_parallelism_and_layout_saved_them() {
    const COUNT: u32 = 2 * CHUNK + 5;
    let mut reference = None;
    for (degree, layout) in [(1, amd_like as fn(_, _) -> _), (2, gaudi_like), (4, amd_like), (1, gaudi_like)]
    {
        let store = MemoryStore::new();
        let saved = save_all(&store, degree, COUNT, layout).await;
        let objects: u64 = saved.iter().map(|saved| saved.objects).sum();
        assert_eq!(objects, 3 * u64::from(HEADS), "three chunks, each head written by one replica");
        let contents = contents(&store, &namespace()).await;
        for (_, bytes) in &contents {
            let header = ObjectHeader::decode(bytes, bytes.len() as u64).unwrap();
            for (section, checksum) in header.layout.sections.iter().zip(&header.checksums) {
                let start = usize::try_from(section.offset).unwrap();
                assert_eq!(
                    Checksum::of(&bytes[start..start + usize::try_from(section.len).unwrap()]),
                    *checksum
                );
            }
        }
        assert_eq!(&contents, reference.get_or_insert(contents.clone()), "TP {degree}");
    }
}

#[tokio::test]
async fn what_is_stored_is_not_written_again() {
    let store = saved(&namespace(), 2 * CHUNK).await;
    let rank = Rank::new(namespace(), Arc::new(store.clone()), gaudi_like(0..HEADS, Replica::ONLY));
    rank.prefill(3 * CHUNK);
    let saved = rank.save(&tokens(3 * CHUNK)).await.unwrap();
    assert_eq!((saved.tokens, saved.objects, saved.deduplicated), (3 * CHUNK, 6, 4));
    assert_eq!(rank.kv.stats().objects_published, 2);
}

//= SPEC.md#tail
#[tokio::test]
async fn a_tail_is_loaded_only_through_its_request() {
    const COUNT: u32 = CHUNK + 7;
    let store = MemoryStore::new();
    let prefill = Rank::new(namespace(), Arc::new(store.clone()), amd_like(0..HEADS, Replica::ONLY));
    prefill.prefill(COUNT);
    let request = prefill.kv.producer().open_request("tail", 0, 1, PATIENCE).await.unwrap();
    let saved = prefill.save(&tokens(COUNT)).await.unwrap();
    assert_eq!((saved.tokens, saved.tail.is_some()), (COUNT, true));
    request.complete(&saved, PATIENCE).await.unwrap();

    let decode = Rank::new(namespace(), Arc::new(store), gaudi_like(0..HEADS, Replica::ONLY));
    assert_eq!(decode.load(&tokens(COUNT)).await.unwrap().tokens, CHUNK);
    decode.assert_holds(CHUNK);
    let handoff = decode.kv.consumer().wait_request("tail", PATIENCE).await.unwrap();
    assert_eq!(handoff.tokens, COUNT);
    let prompt = tokens(COUNT);
    let request = LoadRequest::new(&prompt).blocks(&decode.blocks).handoff(&handoff);
    let mut load = decode.kv.consumer().load(&decode.registered, request).unwrap();
    let mut layers = Vec::new();
    while let Some(layer) = load.next_layer().await.unwrap() {
        layers.push(layer);
    }
    assert_eq!(layers, (0..LAYERS).collect::<Vec<_>>());
    assert_eq!(load.finish().await.unwrap().tokens, COUNT);
    decode.assert_holds(COUNT);
    // Another prompt does not get at it, even with the hand-off in hand.
    decode.wipe();
    let mut other = prompt.clone();
    other[CHUNK as usize + 3] += 1;
    let request = LoadRequest::new(&other).blocks(&decode.blocks).handoff(&handoff);
    let loaded = decode.kv.consumer().load(&decode.registered, request).unwrap().finish().await.unwrap();
    assert_eq!(
        (loaded.tokens, loaded.failures),
        (CHUNK, vec![]),
        "a tail of another prompt is not even looked for"
    );
}

#[tokio::test]
async fn an_image_is_found_only_by_who_names_it() {
    let store = MemoryStore::new();
    let rank = Rank::new(namespace(), Arc::new(store), amd_like(0..HEADS, Replica::ONLY));
    rank.prefill(2 * CHUNK);
    let prompt = tokens(2 * CHUNK);
    let image = [Extra { position: CHUNK + 1, digest: InputDigest([8; 32]) }];
    let save = SaveRequest::new(&prompt).extras(&image).blocks(&rank.blocks);
    rank.kv.producer().save(&rank.registered, save).unwrap().finish().await.unwrap();
    let consumer = rank.kv.consumer();
    for (extras, found) in [(&image[..], 2 * CHUNK), (&[], CHUNK)] {
        let lookup = consumer.lookup(LookupRequest::new(&prompt).extras(extras)).await.unwrap();
        assert_eq!(lookup.tokens, found, "{extras:?}");
        let load = LoadRequest::new(&prompt).extras(extras).blocks(&rank.blocks);
        let loaded = consumer.load(&rank.registered, load).unwrap().finish().await.unwrap();
        assert_eq!(loaded.tokens, found, "{extras:?}");
    }
}

#[tokio::test]
async fn staging_smaller_than_a_chunk_still_delivers_it() {
    let store = saved(&namespace(), 2 * CHUNK).await;
    let builder = Pipeline::builder(namespace()).staging_bytes(2 << 20).part_bytes(1 << 20);
    let roomy = Rank::with(builder, Arc::new(store.clone()), gaudi_like(0..HEADS, Replica::ONLY));
    // Two parts of 4 KiB: a chunk of this rank has 2 objects of a header and 6 sections of 1 KiB.
    let device = HostDevice::new(HostDeviceOptions::default()).unwrap();
    let geometry = gaudi_like(0..HEADS, Replica::ONLY);
    let blocks = scattered(&geometry);
    let builder = Pipeline::builder(namespace()).staging_bytes(8192).part_bytes(4096);
    let narrow = Rank::on(builder, Arc::new(store), &device, geometry, blocks);
    for rank in [roomy, narrow] {
        assert_eq!(rank.load(&tokens(2 * CHUNK)).await.unwrap().tokens, 2 * CHUNK);
        rank.assert_holds(2 * CHUNK);
    }
}

#[tokio::test]
async fn requests_that_contradict_themselves_are_refused_at_once() {
    let rank = Rank::new(namespace(), Arc::new(MemoryStore::new()), amd_like(0..HEADS, Replica::ONLY));
    let prompt = tokens(2 * CHUNK);
    for (what, blocks) in
        [("too few", vec![0, 1]), ("out of range", vec![0, 1, 2, 24]), ("twice", vec![0, 1, 2, 1])]
    {
        let load = LoadRequest::new(&prompt).blocks(&blocks);
        let error = rank.kv.consumer().load(&rank.registered, load).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{what}");
        let save = SaveRequest::new(&prompt).blocks(&blocks);
        assert_eq!(
            rank.kv.producer().save(&rank.registered, save).unwrap_err().kind(),
            ErrorKind::Invalid,
            "{what}"
        );
    }
}

#[tokio::test]
async fn an_engine_that_does_not_fit_the_namespace_is_refused() {
    let rank = Rank::new(namespace(), Arc::new(MemoryStore::new()), amd_like(0..HEADS, Replica::ONLY));
    let parts = || (*rank.registered.geometries()[0]).clone();
    let regions = || rank.memory.iter().map(kv_device::HostAllocation::region).collect::<Vec<_>>();
    let wrong = [
        GeometryParts { dtype: Dtype::F16, ..parts() },
        GeometryParts { rope: RopePairing::Interleaved, ..parts() },
        GeometryParts { heads: 1..3, ..parts() },
        GeometryParts { layers: (1..LAYERS + 1).into(), ..parts() },
    ];
    for parts in wrong {
        // SAFETY: the allocations outlive the pipeline, and the registration is refused.
        let error = unsafe { rank.kv.register(Geometry::new(parts).unwrap(), regions()) }.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Incompatible, "{error}");
    }
    let mut short = regions();
    short.pop();
    // SAFETY: as above.
    let error = unsafe { rank.kv.register(rank.registered.geometries().to_vec(), short) }.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    //= SPEC.md#invariant
    #[test]
    fn any_geometry_saves_the_same_objects_and_gets_its_own_memory_back(
        (a, b) in {
            let shape = Shape { layers: 0..LAYERS, heads: 0..HEADS, dim: DIM, dtype: Dtype::Bf16 };
            (geometry(shape.clone(), 3 * CHUNK), geometry(shape, 3 * CHUNK))
        },
        count in 1..=3 * CHUNK,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let device = HostDevice::new(HostDeviceOptions::default()).unwrap();
            let mut stores = Vec::new();
            for (geometry, blocks) in [&a, &b] {
                let store = MemoryStore::new();
                let builder = Pipeline::builder(namespace()).staging_bytes(2 << 20).part_bytes(8 << 10);
                let rank = Rank::on(builder, Arc::new(store.clone()), &device, geometry.clone(), blocks.clone());
                rank.prefill(count);
                rank.save(&tokens(count)).await.unwrap();
                stores.push((store, rank));
            }
            assert_eq!(contents(&stores[0].0, &namespace()).await, contents(&stores[1].0, &namespace()).await);
            // b loads what a saved.
            let whole = count / CHUNK * CHUNK;
            let builder = Pipeline::builder(namespace()).staging_bytes(2 << 20).part_bytes(8 << 10);
            let rank = Rank::on(builder, Arc::new(stores[0].0.clone()), &device, b.0.clone(), b.1.clone());
            assert_eq!(rank.load(&tokens(count)).await.unwrap().tokens, whole);
            rank.assert_holds(whole);
        });
    }
}
