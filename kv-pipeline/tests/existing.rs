//! What a save does with what is stored under its objects' names already: damage is replaced, somebody else's object is not touched, and
//! what cannot be read is not judged.

mod common;

use std::sync::Arc;

use common::*;
use kv_format::*;
use kv_pipeline::ErrorKind;
use kv_storage::fault::{Injection, When};
use kv_storage::{ErrorKind as StorageKind, Fault, KvStore, MemoryStore, Operation};

/// A store with one chunk, and one of its objects.
async fn scene() -> (MemoryStore, ObjectName, Vec<u8>) {
    let store = saved(&namespace(), CHUNK).await;
    let (name, bytes) = contents(&store, &namespace()).await.swap_remove(1);
    (store, name, bytes)
}

/// Saves the chunk again.
async fn save_again(store: Arc<dyn KvStore>) -> Result<u64, ErrorKind> {
    let producer = Rank::new(namespace(), store, amd_like(0..HEADS, Replica::ONLY));
    producer.prefill(CHUNK);
    let saved = producer.save(&tokens(CHUNK)).await;
    producer.assert_at_rest();
    saved.map(|saved| saved.objects - saved.deduplicated).map_err(|error| error.kind())
}

async fn stored(store: &MemoryStore, name: &ObjectName) -> Option<Vec<u8>> {
    let objects = contents(store, &namespace()).await;
    objects.into_iter().find(|(other, _)| other == name).map(|(_, bytes)| bytes)
}

#[tokio::test]
async fn a_save_replaces_an_object_that_is_cut_or_whose_header_is_corrupt() {
    let (store, name, bytes) = scene().await;
    let mut flipped = bytes.clone();
    flipped[100] ^= 1;
    let cut = [1, HEADER_PAGE - 1, HEADER_PAGE, bytes.len() - 1].map(|len| bytes[..len].to_vec());
    for bad in cut.into_iter().chain([flipped]) {
        plant(&store, &name, &bad).await;
        assert_eq!(save_again(Arc::new(store.clone())).await, Ok(1), "{} bytes", bad.len());
        assert!(
            stored(&store, &name).await.as_ref() == Some(&bytes),
            "{} bytes were not replaced",
            bad.len()
        );
    }
    assert_eq!(save_again(Arc::new(store.clone())).await, Ok(0), "what is right is saved once");
}

#[tokio::test]
async fn a_save_leaves_an_object_of_another_identity_or_version_alone() {
    let (store, name, bytes) = scene().await;
    let other = contents(&store, &namespace()).await.into_iter().find(|(other, _)| *other != name).unwrap().1;
    let mut newer = bytes;
    newer[8] = 2;
    for foreign in [other, newer] {
        plant(&store, &name, &foreign).await;
        assert_eq!(save_again(Arc::new(store.clone())).await, Err(ErrorKind::Conflict));
        assert!(stored(&store, &name).await.as_ref() == Some(&foreign), "it was replaced");
    }
}

#[tokio::test]
async fn a_save_does_not_judge_what_it_cannot_read() {
    let (store, name, bytes) = scene().await;
    for (len, injection) in [
        // Too short to be an object, but that is not why the read fails.
        (100, Injection::Fail(StorageKind::Unavailable)),
        // Read when it was short; whole when it is asked for its length, as if it had been replaced meanwhile.
        (bytes.len(), Injection::Truncate(100)),
        (HEADER_PAGE, Injection::Truncate(100)),
    ] {
        plant(&store, &name, &bytes[..len]).await;
        let fault = Fault::new(Arc::new(store.clone()));
        fault.inject(When::every(Operation::Read).matching(move |call| call.object == Some(name)), injection);
        assert_eq!(save_again(Arc::new(fault.clone())).await, Err(ErrorKind::Storage), "{len} bytes");
        assert!(fault.fired() > 0);
        assert_eq!(stored(&store, &name).await.map(|bytes| bytes.len()), Some(len), "it was taken away");
    }
}
