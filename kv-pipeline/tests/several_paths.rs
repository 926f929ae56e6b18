//! Saves and loads over several paths to one store, of which one garbles, fails, or hangs.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::sync::Arc;
use std::time::Duration;

use common::*;
use kv_format::*;
use kv_pipeline::*;
use kv_storage::fault::{Injection, When};
use kv_storage::{
    ErrorKind as StorageKind, Fault, GateOptions, KvStore, MemoryStore, Operation, RetryOptions, Retrying,
    Vast, VastOptions, VastPath,
};

const COUNT: u32 = 3 * CHUNK;

/// Two faulty paths to one memory, and the store over them, behind a wrapper as in production.
fn paths(memory: &MemoryStore) -> ([Fault; 2], Vast, Arc<dyn KvStore>) {
    let paths = [(); 2].map(|()| Fault::new(Arc::new(memory.clone())));
    let ways = paths.iter().map(|path| VastPath::new("nfs", Arc::new(path.clone()))).collect();
    // Real time, since a device's thread knows no other.
    let gate = GateOptions::default().deadline(Some(Duration::from_millis(200)));
    let vast = Vast::new("lab", ways, VastOptions::default().gate(gate)).unwrap();
    let store = Arc::new(Retrying::new(Arc::new(vast.clone()), RetryOptions::default()));
    (paths, vast, store)
}

fn consumer(store: &Arc<dyn KvStore>) -> Rank {
    Rank::new(namespace(), Arc::clone(store), gaudi_like(0..HEADS, Replica::ONLY))
}

//= SEMANTICS.md#vast-another-way
#[tokio::test]
async fn a_load_past_a_path_that_garbles_is_right_and_takes_nothing_away() {
    let garbled = [
        Injection::Flip { at: 7, bit: 0 },
        Injection::Flip { at: HEADER_PAGE as u64 + 100, bit: 5 },
        Injection::Zero(HEADER_PAGE as u64..HEADER_PAGE as u64 + 64),
        Injection::Truncate(HEADER_PAGE as u64 + 9),
        Injection::Extend(4096),
    ];
    for delivery in [Delivery::WholeChunk, Delivery::AsVerified] {
        for injection in &garbled {
            let memory = saved(&namespace(), COUNT).await;
            let objects = contents(&memory, &namespace()).await;
            let (paths, vast, store) = paths(&memory);
            paths[0].inject(When::every(Operation::Read), injection.clone());
            let consumer = consumer(&store);
            let tokens = tokens(COUNT);
            let request =
                LoadRequest::new(&tokens).blocks(&consumer.blocks).delivery(delivery).timeout(PATIENCE);
            let load = consumer.kv.consumer().load(&consumer.registered, request).unwrap();
            let loaded = load.finish().await.unwrap();
            assert_eq!(loaded.tokens, COUNT, "{injection:?} {delivery:?}: {:?}", loaded.failures);
            consumer.assert_holds(COUNT);
            consumer.assert_at_rest();
            assert!(paths[0].fired() > 0);
            let stats = consumer.kv.stats();
            assert_eq!(stats.objects_quarantined, 0, "{injection:?}");
            assert_eq!(contents(&memory, &namespace()).await, objects, "nothing was taken away");
            // A path that shows too few bytes is noticed by the store already.
            if !matches!(injection, Injection::Truncate(_)) {
                assert!(stats.objects_read_again > 0 && vast.paths()[0].doubted > 0, "{injection:?}");
            }
        }
    }
}

//= SEMANTICS.md#vast-another-way
#[tokio::test]
async fn an_object_that_every_path_garbles_is_damaged_and_is_taken_away() {
    let memory = saved(&namespace(), COUNT).await;
    let objects = contents(&memory, &namespace()).await;
    let (name, mut bytes) = objects.iter().find(|(name, _)| name.chunk_index == 1).cloned().unwrap();
    bytes[HEADER_PAGE + 5] ^= 1;
    plant(&memory, &name, &bytes).await;
    let (_, _, store) = paths(&memory);
    let consumer = consumer(&store);
    let loaded = consumer.load(&tokens(COUNT)).await.unwrap();
    assert_eq!((loaded.tokens, loaded.failures[0].reason), (CHUNK, StopReason::Corrupt));
    consumer.assert_holds(CHUNK);
    let stats = consumer.kv.stats();
    assert_eq!((stats.objects_read_again, stats.objects_quarantined, stats.verify_failures), (1, 1, 2));
    assert_eq!(memory.head(&name).await.unwrap(), None);
}

/// Each of a path's first calls fails once.
//= SEMANTICS.md#vast-upload
#[tokio::test]
async fn a_save_whose_path_fails_in_the_middle_ends_by_the_other() {
    let operations = [Operation::Begin, Operation::Write, Operation::Commit, Operation::Read];
    let mut again = 0;
    let expected = contents(&saved(&namespace(), COUNT).await, &namespace()).await;
    for operation in operations {
        for (nth, bad) in (1..=3).flat_map(|nth| [(nth, 0), (nth, 1)]) {
            let memory = MemoryStore::new();
            let (paths, _, store) = paths(&memory);
            paths[bad].inject(When::nth(operation, nth), Injection::Fail(StorageKind::Unavailable));
            let producer = Rank::new(namespace(), store, amd_like(0..HEADS, Replica::ONLY));
            producer.prefill(COUNT);
            let stored = producer.save(&tokens(COUNT)).await.unwrap();
            assert_eq!(stored.tokens, COUNT, "{operation} {nth} of path {bad}");
            assert_eq!(contents(&memory, &namespace()).await, expected);
            again += producer.kv.stats().objects_saved_again;
            producer.assert_at_rest();
        }
    }
    assert!(again >= 4, "{again} objects were saved again");
}

//= SEMANTICS.md#vast-hang
#[tokio::test]
async fn a_path_that_hangs_in_the_middle_of_a_load_or_a_save_is_left_at_its_deadline() {
    for operation in [Operation::Read, Operation::Write, Operation::Commit] {
        let memory = MemoryStore::new();
        let (paths, _, store) = paths(&memory);
        let producer = Rank::new(namespace(), Arc::clone(&store), amd_like(0..HEADS, Replica::ONLY));
        producer.prefill(COUNT);
        let hold = paths[0].hang(When::every(operation));
        assert_eq!(producer.save(&tokens(COUNT)).await.unwrap().tokens, COUNT, "{operation}");
        let consumer = consumer(&store);
        let loaded = consumer.load(&tokens(COUNT)).await.unwrap();
        assert_eq!(loaded.tokens, COUNT, "{operation}: {:?}", loaded.failures);
        consumer.assert_holds(COUNT);
        hold.release();
        store.idle().await;
        consumer.assert_at_rest();
    }
}

/// All paths fail: the load says so, within its deadline, and nothing is quarantined.
//= SEMANTICS.md#vast-all-down
#[tokio::test]
async fn without_a_path_a_load_is_a_miss_with_its_reason() {
    let memory = saved(&namespace(), COUNT).await;
    let (paths, _, store) = paths(&memory);
    let holds = paths.each_ref().map(|path| path.hang(When::every(Operation::Read)));
    let consumer = consumer(&store);
    let loaded = consumer.load(&tokens(COUNT)).await.unwrap();
    assert_eq!((loaded.tokens, loaded.failures[0].reason), (0, StopReason::Unavailable));
    consumer.assert_holds(0);
    drop(holds);
    store.idle().await;
    consumer.assert_at_rest();
}
