//! Requests and their records; two producers of one chunk.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::sync::Arc;
use std::time::Duration;

use common::*;
use kv_format::*;
use kv_pipeline::{ErrorKind, Result, *};
use kv_storage::fault::{Call, Injection, When};
use kv_storage::{Fault, KvStore, MemoryStore, Operation};

const SHORT: Duration = Duration::from_millis(500);

fn rank(store: &MemoryStore, namespace: Namespace) -> Rank {
    Rank::new(namespace, Arc::new(store.clone()), amd_like(0..HEADS, Replica::ONLY))
}

async fn wait(rank: &Rank, id: &str, timeout: Duration) -> Result<Handoff> {
    rank.kv.consumer().wait_request(id, timeout).await
}

#[tokio::test]
async fn a_request_is_complete_when_every_rank_is() {
    let store = MemoryStore::new();
    let rank = rank(&store, namespace());
    let producer = rank.kv.producer();
    let error = wait(&rank, "r", SHORT).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Deadline);
    assert!(error.to_string().contains("rank 0, which has no record"), "{error}");
    let first = producer.open_request("r", 0, 2, PATIENCE).await.unwrap();
    assert!(wait(&rank, "r", SHORT).await.unwrap_err().to_string().contains("rank 0, which is pending"));
    rank.prefill(CHUNK + 1);
    let saved = rank.save(&tokens(CHUNK + 1)).await.unwrap();
    first.complete(&saved, PATIENCE).await.unwrap();
    assert!(wait(&rank, "r", SHORT).await.unwrap_err().to_string().contains("rank 1, which has no record"));
    let waiting = tokio::spawn({
        let consumer = rank.kv.consumer();
        async move { consumer.wait_request("r", PATIENCE).await }
    });
    let second = producer.open_request("r", 1, 2, PATIENCE).await.unwrap();
    second.complete(&saved, PATIENCE).await.unwrap();
    let handoff = waiting.await.unwrap().unwrap();
    assert_eq!((handoff.tokens, handoff.tail, handoff.ranks), (CHUNK + 1, saved.tail, 2));
    let error = producer.open_request("r", 0, 2, PATIENCE).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict, "an id is used once");
}

#[tokio::test]
async fn an_abort_is_final_and_a_dropped_request_aborts() {
    let store = MemoryStore::new();
    let rank = rank(&store, namespace());
    let producer = rank.kv.producer();
    let request = producer.open_request("a", 0, 1, PATIENCE).await.unwrap();
    request.abort("the prompt is too long", PATIENCE).await.unwrap();
    let error = wait(&rank, "a", PATIENCE).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Aborted);
    assert!(error.to_string().contains("the prompt is too long"), "{error}");
    // Seen at once from any rank, whatever the others do.
    let _pending = producer.open_request("c", 0, 3, PATIENCE).await.unwrap();
    producer.open_request("c", 2, 3, PATIENCE).await.unwrap().abort("out of memory", PATIENCE).await.unwrap();
    let error = wait(&rank, "c", PATIENCE).await.unwrap_err();
    assert!(
        error.kind() == ErrorKind::Aborted && error.to_string().contains("rank 2 gave up: out of memory"),
        "{error}"
    );
    drop(producer.open_request("b", 0, 1, PATIENCE).await.unwrap());
    assert_eq!(wait(&rank, "b", PATIENCE).await.unwrap_err().kind(), ErrorKind::Aborted);
}

#[tokio::test]
async fn ranks_that_contradict_each_other_are_not_believed() {
    let store = MemoryStore::new();
    let rank = rank(&store, namespace());
    let producer = rank.kv.producer();
    for (index, count) in [(0, CHUNK), (1, 2 * CHUNK)] {
        rank.prefill(count);
        let saved = rank.save(&tokens(count)).await.unwrap();
        producer
            .open_request("r", index, 2, PATIENCE)
            .await
            .unwrap()
            .complete(&saved, PATIENCE)
            .await
            .unwrap();
    }
    assert_eq!(wait(&rank, "r", PATIENCE).await.unwrap_err().kind(), ErrorKind::Incompatible);
}

#[tokio::test]
async fn a_record_of_another_owner_or_namespace_or_format_is_not_believed() {
    let store = MemoryStore::new();
    let rank = rank(&store, namespace());
    let name = RecordName::request("r", 0);
    let request = rank.kv.producer().open_request("r", 0, 1, PATIENCE).await.unwrap();
    let record = store.read_record(&name).await.unwrap().unwrap();
    let text = String::from_utf8(record.body).unwrap();
    let mut version = record.version;
    let digest = namespace().digest().to_string();
    let strange = [
        text.replace(&digest, &"0".repeat(64)),
        text.replace("\"format\": 1", "\"format\": 2"),
        text.replace("\"rank\": 0", "\"rank\": 1"),
        text.replace("\"ranks\": 1", "\"ranks\": 0"),
        text.replace("pending", "exploded"),
        text[..text.len() / 2].to_owned(),
        String::new(),
    ];
    for body in strange {
        assert_ne!(body, text);
        version = store.replace_record(&name, &version, body.as_bytes()).await.unwrap().unwrap();
        let error = wait(&rank, "r", PATIENCE).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Incompatible, "{body}: {error}");
    }
    // The owner notices that somebody else wrote its record.
    let error = request.complete(&Saved::default(), PATIENCE).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    assert_eq!(
        rank.kv.producer().open_request("x", 1, 1, PATIENCE).await.unwrap_err().kind(),
        ErrorKind::Invalid
    );
}

#[tokio::test]
async fn two_producers_of_one_chunk_leave_one_object_and_both_learn_which() {
    let store = MemoryStore::new();
    rank_with_first_byte(&store, 0).await;
    for (first_byte, deduplicated, first_wins) in [(0, 2, 0), (1, 0, 1)] {
        // The second producer does not see the first one's objects until it publishes.
        let fault = Fault::new(Arc::new(store.clone()));
        for slice in 0..HEADS {
            let of_slice = move |call: &Call| call.object.is_some_and(|object| object.slice == slice);
            fault.inject(When::next(Operation::Read).matching(of_slice), Injection::Vanish);
        }
        let rank = Rank::new(namespace(), Arc::new(fault.clone()), amd_like(0..HEADS, Replica::ONLY));
        rank.prefill(CHUNK);
        rank.memory[0].with(|bytes| bytes[rank_offset(&rank)] ^= first_byte);
        let saved = rank.save(&tokens(CHUNK)).await.unwrap();
        assert_eq!(fault.fired(), 2);
        assert_eq!(
            (saved.first_wins, saved.deduplicated),
            (first_wins, if first_wins == 1 { 1 } else { deduplicated })
        );
        assert_eq!(rank.kv.stats().objects_first_wins, first_wins);
        let consumer = Rank::new(namespace(), Arc::new(store.clone()), gaudi_like(0..HEADS, Replica::ONLY));
        consumer.load(&tokens(CHUNK)).await.unwrap();
        consumer.assert_holds(CHUNK);
    }
}

/// Byte of the first K element of the rank's first token.
fn rank_offset(rank: &Rank) -> usize {
    let geometry = &rank.registered.geometries()[0];
    usize::try_from(geometry.paging(TensorKind::Key).unwrap().offset(rank.blocks[0], 0, 0, 0) * 2).unwrap()
}

async fn rank_with_first_byte(store: &MemoryStore, flip: u8) {
    let rank = rank(store, namespace());
    rank.prefill(CHUNK);
    rank.memory[0].with(|bytes| bytes[rank_offset(&rank)] ^= flip);
    rank.save(&tokens(CHUNK)).await.unwrap();
}

#[tokio::test]
async fn an_object_of_another_identity_is_a_conflict_and_stays() {
    let store = saved(&namespace(), 2 * CHUNK).await;
    let objects = contents(&store, &namespace()).await;
    let of = |chunk| objects.iter().find(|(name, _)| name.chunk_index == chunk && name.slice == 0).unwrap();
    plant(&store, &of(0).0, &of(1).1).await;
    let rank = rank(&store, namespace());
    rank.prefill(CHUNK);
    let error = rank.save(&tokens(CHUNK)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
    assert_eq!(rank.kv.stats().objects_conflicting, 1);
    assert!(
        contents(&store, &namespace())
            .await
            .iter()
            .any(|(name, bytes)| *name == of(0).0 && *bytes == of(1).1)
    );
}
