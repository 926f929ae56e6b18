//! Two pipelines that save one prompt at once to one directory, each over a handle of its own: what the second is told.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::path::Path;
use std::sync::Arc;

use common::*;
use kv_format::{ObjectName, Replica};
use kv_pipeline::{ErrorKind, Result, SaveRequest, Saved};
use kv_storage::fault::When;
use kv_storage::posix::FsyncPolicy;
use kv_storage::{Fault, KvStore, Operation, PosixOptions, PosixStore};

const ROUNDS: u32 = 100;

/// A new directory, in memory where there is a tmpfs.
fn folder() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

async fn open(root: &Path) -> Arc<PosixStore> {
    let options = PosixOptions::default().fsync(FsyncPolicy::None).format_if_empty(true);
    Arc::new(PosixStore::open(root, options).await.unwrap())
}

/// A rank on a store, with KV in its memory.
fn rank(store: Arc<dyn KvStore>) -> Rank {
    let rank = Rank::new(namespace(), store, amd_like(0..HEADS, Replica::ONLY));
    rank.prefill(CHUNK);
    rank
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_object_of_racing_equal_saves_is_published_once_and_deduplicated_once() {
    let root = folder();
    let (first, second) = (rank(open(root.path()).await), rank(open(root.path()).await));
    let store = open(root.path()).await;
    let mut together = 0;
    for round in 0..ROUNDS {
        let prompt: Vec<u32> = tokens(CHUNK).iter().map(|token| token + 1000 * round).collect();
        let (one, other) = tokio::join!(first.save(&prompt), second.save(&prompt));
        let (one, other) = (one.unwrap(), other.unwrap());
        for saved in [&one, &other] {
            assert_eq!((saved.tokens, saved.first_wins), (CHUNK, 0), "round {round}: {saved:?}");
        }
        assert_eq!(one.objects, other.objects);
        assert_eq!(one.deduplicated + other.deduplicated, one.objects, "round {round}: {one:?} {other:?}");
        together += u32::from(one.deduplicated > 0 && other.deduplicated > 0);
        assert_eq!(contents(&*store, &namespace()).await.len() as u64, one.objects * u64::from(round + 1));
    }
    let consumer = Rank::new(namespace(), store, gaudi_like(0..HEADS, Replica::ONLY));
    assert_eq!(consumer.load(&tokens(CHUNK)).await.unwrap().tokens, CHUNK);
    consumer.assert_holds(CHUNK);
    println!("in {together} of {ROUNDS} rounds each had objects of the other's");
}

/// Saves a prompt with a commit that hangs while `meanwhile` runs.
async fn save_that_comes_second(rank: &Rank, fault: &Fault, meanwhile: impl AsyncFnOnce()) -> Result<Saved> {
    let hold = fault.hang(When::nth(Operation::Commit, 1));
    let prompt = tokens(CHUNK);
    let request = SaveRequest::new(&prompt).blocks(&rank.blocks).timeout(PATIENCE);
    let save = rank.kv.producer().save(&rank.registered, request).unwrap();
    let reached = async {
        while fault.calls(Operation::Commit) == 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, reached).await.unwrap();
    meanwhile().await;
    hold.release();
    let saved = save.finish().await;
    rank.assert_at_rest();
    saved
}

#[tokio::test]
async fn a_second_save_with_an_equal_payload_is_deduplicated() {
    let root = folder();
    let fault = Fault::new(open(root.path()).await);
    let (first, second) = (rank(open(root.path()).await), rank(Arc::new(fault.clone())));
    let saved = save_that_comes_second(&second, &fault, async || {
        first.save(&tokens(CHUNK)).await.unwrap();
    });
    let saved = saved.await.unwrap();
    assert_eq!((saved.deduplicated, saved.first_wins), (saved.objects, 0), "{saved:?}");
}

// Row 47: another parallelism or batch rounds differently, and the key is the same.
#[tokio::test]
async fn of_two_saves_with_different_payloads_the_first_wins_and_the_second_is_told() {
    let root = folder();
    let fault = Fault::new(open(root.path()).await);
    let (first, second) = (rank(open(root.path()).await), rank(Arc::new(fault.clone())));
    for memory in &second.memory {
        memory.with(|bytes| bytes.iter_mut().for_each(|byte| *byte ^= 1));
    }
    let saved = save_that_comes_second(&second, &fault, async || {
        first.save(&tokens(CHUNK)).await.unwrap();
    });
    let saved = saved.await.unwrap();
    assert!(saved.first_wins > 0, "{saved:?}");
    // Objects that it had not begun to gather when the first one's appeared are not compared.
    assert_eq!(saved.first_wins + saved.deduplicated, saved.objects, "{saved:?}");
    assert_eq!(second.kv.stats().objects_first_wins, saved.first_wins);
    let consumer = Rank::new(namespace(), open(root.path()).await, gaudi_like(0..HEADS, Replica::ONLY));
    assert_eq!(consumer.load(&tokens(CHUNK)).await.unwrap().tokens, CHUNK);
    consumer.assert_holds(CHUNK); // the first one's
}

#[tokio::test]
async fn a_second_save_under_the_name_of_another_identity_is_a_conflict() {
    let root = folder();
    let store = open(root.path()).await;
    let fault = Fault::new(open(root.path()).await);
    let second = rank(Arc::new(fault.clone()));
    let mut objects = contents(&saved(&namespace(), CHUNK).await, &namespace()).await;
    assert!(objects.len() > 1);
    // Each object's bytes under its neighbour's name.
    let names: Vec<ObjectName> = objects.iter().map(|(name, _)| *name).collect();
    objects.rotate_left(1);
    let outcome = save_that_comes_second(&second, &fault, async || {
        for (name, (_, bytes)) in names.iter().zip(&objects) {
            plant(&*store, name, bytes).await;
        }
    });
    assert_eq!(outcome.await.unwrap_err().kind(), ErrorKind::Conflict);
    assert_eq!(second.kv.stats().objects_conflicting, 1);
    for (name, bytes) in contents(&*store, &namespace()).await {
        let planted = names.iter().zip(&objects).find(|(planted, _)| **planted == name).unwrap();
        assert!(planted.1.1 == bytes, "{name} was replaced");
    }
}
