//! Saves into a store that takes objects whole and has room for one at a time, as an S3 store with little staging.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use common::*;
use kv_format::*;
use kv_memory::HostBuf;
use kv_storage::{
    Capabilities, KvStore, MemoryStore, ObjectMeta, Publication, ReadOutcome, ReadPart, Record, Result,
    StoreHealth, Upload, Version, WriteOrder,
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

const CHUNKS: u32 = 6;

/// Memory in front of which one object waits for its commit. Whoever asks for the first chunk is answered last.
#[derive(Debug)]
struct RoomForOne {
    inner: MemoryStore,
    room: Arc<Semaphore>,
}

#[derive(Debug)]
struct InTheRoom {
    inner: Box<dyn Upload>,
    _room: OwnedSemaphorePermit,
}

impl RoomForOne {
    /// Lets everything else of this thread's runtime go as far as it can.
    async fn dawdle(name: &ObjectName) {
        for _ in 0..if name.chunk_index == 0 { 1000 } else { 0 } {
            tokio::task::yield_now().await;
        }
    }
}

impl fmt::Display for RoomForOne {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("room for one")
    }
}

#[async_trait]
impl KvStore for RoomForOne {
    fn capabilities(&self) -> Capabilities {
        Capabilities { write_order: WriteOrder::Whole, ..self.inner.capabilities() }
    }
    fn health(&self) -> StoreHealth {
        self.inner.health()
    }
    async fn idle(&self) {
        self.inner.idle().await;
    }
    async fn begin(&self, name: &ObjectName, len: u64) -> Result<Box<dyn Upload>> {
        let _room = Arc::clone(&self.room).acquire_owned().await.unwrap();
        Ok(Box::new(InTheRoom { inner: self.inner.begin(name, len).await?, _room }))
    }
    async fn read(&self, name: &ObjectName, parts: Vec<ReadPart>) -> ReadOutcome {
        Self::dawdle(name).await;
        self.inner.read(name, parts).await
    }
    async fn head(&self, name: &ObjectName) -> Result<Option<ObjectMeta>> {
        Self::dawdle(name).await;
        self.inner.head(name).await
    }
    async fn list(
        &self,
        namespace: &NamespaceDigest,
        after: Option<&ObjectName>,
        limit: usize,
    ) -> Result<Vec<ObjectMeta>> {
        self.inner.list(namespace, after, limit).await
    }
    async fn delete(&self, name: &ObjectName) -> Result<bool> {
        self.inner.delete(name).await
    }
    async fn quarantine(&self, name: &ObjectName, version: &Version) -> Result<bool> {
        self.inner.quarantine(name, version).await
    }
    async fn create_record(&self, name: &RecordName, body: &[u8]) -> Result<Option<Version>> {
        self.inner.create_record(name, body).await
    }
    async fn replace_record(&self, name: &RecordName, old: &Version, body: &[u8]) -> Result<Option<Version>> {
        self.inner.replace_record(name, old, body).await
    }
    async fn read_record(&self, name: &RecordName) -> Result<Option<Record>> {
        self.inner.read_record(name).await
    }
    async fn delete_record(&self, name: &RecordName) -> Result<bool> {
        self.inner.delete_record(name).await
    }
}

#[async_trait]
impl Upload for InTheRoom {
    async fn write(&self, offset: u64, part: HostBuf) -> (HostBuf, Result<()>) {
        self.inner.write(offset, part).await
    }
    async fn commit(self: Box<Self>) -> Result<Publication> {
        self.inner.commit().await
    }
    async fn abort(self: Box<Self>) -> Result<()> {
        self.inner.abort().await
    }
}

/// A rank over room for one, with what stands behind it.
fn rank() -> (Rank, MemoryStore) {
    let inner = MemoryStore::new();
    let store = RoomForOne { inner: inner.clone(), room: Arc::new(Semaphore::new(1)) };
    (Rank::new(namespace(), Arc::new(store), amd_like(0..HEADS, Replica::ONLY)), inner)
}

#[tokio::test]
async fn an_object_that_is_asked_about_for_long_does_not_find_its_room_taken_by_one_behind_it() {
    let (rank, _) = rank();
    rank.prefill(CHUNKS * CHUNK);
    let saved = rank.save(&tokens(CHUNKS * CHUNK)).await.unwrap();
    assert_eq!((saved.tokens, saved.deduplicated), (CHUNKS * CHUNK, 0));
    rank.assert_at_rest();
}

#[tokio::test]
async fn objects_that_are_there_already_let_those_behind_them_begin() {
    let (rank, inner) = rank();
    rank.prefill(CHUNKS * CHUNK);
    rank.save(&tokens(CHUNKS * CHUNK)).await.unwrap();
    let objects = contents(&inner, &namespace()).await;
    let lost: Vec<_> = objects.iter().filter(|(name, _)| name.chunk_index % 2 == 1).collect();
    for (name, _) in &lost {
        assert!(inner.delete(name).await.unwrap());
    }
    let saved = rank.save(&tokens(CHUNKS * CHUNK)).await.unwrap();
    assert_eq!(saved.deduplicated, (objects.len() - lost.len()) as u64);
    assert_eq!(contents(&inner, &namespace()).await, objects);
    rank.assert_at_rest();
}
