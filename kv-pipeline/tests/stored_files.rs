//! Files of a posix store that somebody changed: what a load and a save make of them.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::path::Path;
use std::sync::Arc;

use common::*;
use kv_format::Replica;
use kv_pipeline::StopReason;
use kv_storage::posix::FsyncPolicy;
use kv_storage::{PosixOptions, PosixStore};

/// Changes the length of a file; what is added is zeros.
fn set_len(path: &Path, len: u64) {
    std::fs::File::options().write(true).open(path).unwrap().set_len(len).unwrap();
}

// Rows 13, 14, 21 and 22.
#[tokio::test]
async fn truncated_torn_and_over_long_objects_end_the_prefix_and_are_healed_by_the_next_save() {
    let root = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
    let options = PosixOptions::default().fsync(FsyncPolicy::None).format_if_empty(true);
    let store = Arc::new(PosixStore::open(root.path(), options).await.unwrap());
    let producer = Rank::new(namespace(), Arc::clone(&store) as _, amd_like(0..HEADS, Replica::ONLY));
    let consumer = Rank::new(namespace(), Arc::clone(&store) as _, gaudi_like(0..HEADS, Replica::ONLY));
    producer.prefill(2 * CHUNK);
    let prompt = tokens(2 * CHUNK);
    producer.save(&prompt).await.unwrap();
    let objects = contents(&*store, &namespace()).await;
    let (name, bytes) = objects.iter().find(|(name, _)| name.chunk_index == 1).unwrap();
    let path = root.path().join(name.to_string());
    let len = bytes.len() as u64;
    type Damage<'a> = (&'a str, Vec<u64>);
    let damages: [Damage<'_>; 7] = [
        ("one byte too long", vec![len + 1]),
        ("twice as long", vec![2 * len]),
        ("one byte too short", vec![len - 1]),
        ("half", vec![len / 2]),
        ("empty", vec![0]),
        ("its first page, and zeros to its length", vec![4096, len]),
        ("zeros of its length", vec![0, len]),
    ];
    for (what, lengths) in damages {
        lengths.into_iter().for_each(|len| set_len(&path, len));
        consumer.wipe();
        let loaded = consumer.load(&prompt).await.unwrap();
        assert_eq!(loaded.tokens, CHUNK, "{what}: {loaded:?}");
        consumer.assert_holds(CHUNK);
        assert_eq!(loaded.failures[0].reason, StopReason::Corrupt, "{what}: {loaded:?}");
        producer.save(&prompt).await.unwrap();
        assert!(std::fs::read(&path).unwrap() == *bytes, "{what}: the next save did not heal it");
        assert_eq!(consumer.load(&prompt).await.unwrap().tokens, 2 * CHUNK, "{what}");
    }
}
