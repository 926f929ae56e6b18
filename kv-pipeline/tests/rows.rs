//! A device that moves rows only: what is stored is what any other device stores, and what is loaded is whole, whatever the staging.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::sync::Arc;

use common::*;
use kv_device::{Granularity, HostDevice, HostDeviceOptions};
use kv_format::*;
use kv_pipeline::{ErrorKind, *};
use kv_storage::MemoryStore;

/// Bytes of a token's row: both heads of the rank. A single head is refused.
const ROW: u64 = 2 * (DIM as u64) * 2;
/// Two chunks and a tail of one token, in the second block.
const COUNT: u32 = 4 * CHUNK + 1;

/// A rank with all heads on a device that refuses anything shorter than a row.
fn rows_only(store: &MemoryStore, part_bytes: usize, parts: usize) -> Rank {
    let granularity = Granularity::Rows { min_bytes: ROW };
    let device = HostDevice::new(HostDeviceOptions { granularity, ..Default::default() }).unwrap();
    let builder = Pipeline::builder(namespace()).staging_bytes(parts * part_bytes).part_bytes(part_bytes);
    let geometry = gaudi_like(0..HEADS, Replica::ONLY);
    let blocks = scattered(&geometry);
    Rank::on(builder, Arc::new(store.clone()), &device, geometry, blocks)
}

#[tokio::test]
async fn a_save_in_rows_stores_the_same_objects() {
    let (ours, theirs) = (MemoryStore::new(), MemoryStore::new());
    for parts in [2, 64] {
        let rank = rows_only(&ours, 8 << 10, parts);
        rank.prefill(COUNT);
        assert_eq!(rank.save(&tokens(COUNT)).await.unwrap().tokens, COUNT);
        rank.assert_at_rest();
    }
    let other = Rank::new(namespace(), Arc::new(theirs.clone()), gaudi_like(0..HEADS, Replica::ONLY));
    other.prefill(COUNT);
    other.save(&tokens(COUNT)).await.unwrap();
    assert!(contents(&ours, &namespace()).await == contents(&theirs, &namespace()).await);
}

#[tokio::test]
async fn a_load_in_rows_is_whole_and_touches_nothing_else() {
    let loaded = 4 * CHUNK;
    let store = saved(&namespace(), loaded).await;
    for delivery in [Delivery::WholeChunk, Delivery::AsVerified] {
        // Both slices' parts and rows at once; parts through a small pool; as little as works.
        for (part_bytes, parts) in [(64 << 10, 32), (8 << 10, 4), (8 << 10, 3)] {
            let rank = rows_only(&store, part_bytes, parts);
            let tokens = tokens(loaded);
            let request = LoadRequest::new(&tokens).blocks(&rank.blocks).delivery(delivery).timeout(PATIENCE);
            let load = rank.kv.consumer().load(&rank.registered, request).unwrap().finish().await.unwrap();
            assert_eq!((load.tokens, load.failures), (loaded, vec![]), "{delivery:?}, {parts} parts");
            assert_eq!(load.verified_sections, u64::from(4 * LAYERS * HEADS * 2));
            rank.assert_holds(loaded);
            rank.assert_at_rest();
        }
    }
}

#[tokio::test]
async fn staging_that_is_too_small_for_rows_is_told_with_what_is_enough() {
    let store = saved(&namespace(), CHUNK).await;
    let tokens = tokens(CHUNK);
    let load = async |part_bytes, parts| {
        let rank = rows_only(&store, part_bytes, parts);
        let request = LoadRequest::new(&tokens).blocks(&rank.blocks).timeout(PATIENCE);
        let error = rank.kv.consumer().load(&rank.registered, request).unwrap().finish().await.unwrap_err();
        rank.assert_at_rest();
        (error.kind(), error.to_string())
    };
    let (kind, text) = load(8 << 10, 2).await;
    assert!(kind == ErrorKind::Invalid && text.contains("give staging_bytes(24576) or more"), "{text}");
}

#[tokio::test]
async fn a_chunk_with_a_damaged_slice_is_not_laid_out() {
    let store = saved(&namespace(), 2 * CHUNK).await;
    let (name, mut bytes) =
        contents(&store, &namespace()).await.into_iter().max_by_key(|(name, _)| name.slice).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    plant(&store, &name, &bytes).await;
    let rank = rows_only(&store, 64 << 10, 32);
    let load = rank.load(&tokens(2 * CHUNK)).await.unwrap();
    assert_eq!(load.tokens, name.chunk_index * CHUNK);
    assert_eq!(load.failures[0].reason, StopReason::Corrupt);
    rank.assert_holds(load.tokens);
}
