//! When a load writes the engine's blocks, and that a store's thread which comes late touches nothing.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::fmt;
use std::sync::Arc;
use std::sync::mpsc;

use async_trait::async_trait;
use common::*;
use kv_format::*;
use kv_memory::HostBuf;
use kv_pipeline::*;
use kv_storage::posix::FsyncPolicy;
use kv_storage::{
    Capabilities, KvStore, Next, ObjectMeta, PosixOptions, PosixStore, ReadOutcome, ReadPart, ReadRange,
    ReadSink, Record, StoreHealth, Upload, Version,
};
use tokio::sync::Notify;

const COUNT: u32 = 3 * CHUNK;

/// A posix store, whose threads call back, with three chunks in it; and a consumer in parts of a page.
async fn scene() -> (tempfile::TempDir, Arc<PosixStore>, Rank) {
    let folder = tempfile::tempdir().unwrap();
    let options = PosixOptions::default().fsync(FsyncPolicy::None).sweep_older_than(None);
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

/// Calls the sinks of reads and the sources of writes late, on threads of its own, when the test says so.
#[derive(Debug)]
struct Late {
    inner: Arc<PosixStore>,
    /// A call that is about to call back.
    arrived: Arc<Notify>,
    go: Arc<std::sync::Mutex<mpsc::Receiver<()>>>,
    done: mpsc::Sender<bool>,
    /// How many calls pass before.
    skip: std::sync::atomic::AtomicUsize,
}

impl Late {
    fn new(inner: &Arc<PosixStore>, skip: usize) -> (Arc<Self>, mpsc::Sender<()>, mpsc::Receiver<bool>) {
        let (go, wait) = mpsc::channel();
        let (done, is_done) = mpsc::channel();
        let late = Self {
            inner: Arc::clone(inner),
            arrived: Arc::default(),
            go: Arc::new(std::sync::Mutex::new(wait)),
            done,
            skip: skip.into(),
        };
        (Arc::new(late), go, is_done)
    }
}

impl fmt::Display for Late {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("late")
    }
}

/// Waits before it passes a range on, and says whether that was refused.
struct LateSink {
    inner: Arc<dyn ReadSink>,
    arrived: Arc<Notify>,
    go: Arc<std::sync::Mutex<mpsc::Receiver<()>>>,
    done: mpsc::Sender<bool>,
}

impl ReadSink for LateSink {
    fn filled(&self, meta: &ObjectMeta, index: usize, buffer: HostBuf) -> Next {
        if index < 2 {
            return self.inner.filled(meta, index, buffer);
        }
        self.arrived.notify_one();
        let _ = self.go.lock().unwrap().recv();
        let next = self.inner.filled(meta, index, buffer);
        let _ = self.done.send(matches!(next, Next::Stop));
        next
    }
}

#[derive(Debug)]
struct LateUpload {
    inner: Box<dyn Upload>,
    arrived: Arc<Notify>,
    go: Arc<std::sync::Mutex<mpsc::Receiver<()>>>,
    done: mpsc::Sender<bool>,
}

#[async_trait]
impl Upload for LateUpload {
    async fn write(&self, offset: u64, part: HostBuf) -> (HostBuf, kv_storage::Result<()>) {
        self.inner.write(offset, part).await
    }

    async fn write_from(
        &self,
        offset: u64,
        part: HostBuf,
        source: kv_storage::WriteSource,
    ) -> (HostBuf, kv_storage::Result<()>) {
        let (arrived, go, done) = (Arc::clone(&self.arrived), Arc::clone(&self.go), self.done.clone());
        let late = Box::new(move |buffer: &mut HostBuf| {
            arrived.notify_one();
            let _ = go.lock().unwrap().recv();
            let filled = source(buffer);
            let _ = done.send(!filled);
            filled
        });
        self.inner.write_from(offset, part, late).await
    }

    async fn commit(self: Box<Self>) -> kv_storage::Result<kv_storage::Publication> {
        self.inner.commit().await
    }

    async fn abort(self: Box<Self>) -> kv_storage::Result<()> {
        self.inner.abort().await
    }
}

#[async_trait]
impl KvStore for Late {
    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    fn health(&self) -> StoreHealth {
        self.inner.health()
    }

    async fn idle(&self) {
        self.inner.idle().await;
    }

    async fn begin(&self, name: &ObjectName, len: u64) -> kv_storage::Result<Box<dyn Upload>> {
        let inner = self.inner.begin(name, len).await?;
        let (arrived, go, done) = (Arc::clone(&self.arrived), Arc::clone(&self.go), self.done.clone());
        Ok(Box::new(LateUpload { inner, arrived, go, done }))
    }

    async fn read(&self, name: &ObjectName, parts: Vec<ReadPart>) -> ReadOutcome {
        self.inner.read(name, parts).await
    }

    fn calls_back_on_own_threads(&self) -> bool {
        true
    }

    async fn read_into(
        &self,
        name: &ObjectName,
        ranges: Vec<ReadRange>,
        buffers: Vec<HostBuf>,
        sink: Arc<dyn ReadSink>,
    ) -> kv_storage::Result<Option<ObjectMeta>> {
        let before = self.skip.fetch_update(
            std::sync::atomic::Ordering::SeqCst,
            std::sync::atomic::Ordering::SeqCst,
            |skip| skip.checked_sub(1),
        );
        if before.is_ok() {
            return self.inner.read_into(name, ranges, buffers, sink).await;
        }
        let (arrived, go, done) = (Arc::clone(&self.arrived), Arc::clone(&self.go), self.done.clone());
        let late = Arc::new(LateSink { inner: sink, arrived, go, done });
        self.inner.read_into(name, ranges, buffers, late).await
    }

    async fn head(&self, name: &ObjectName) -> kv_storage::Result<Option<ObjectMeta>> {
        self.inner.head(name).await
    }

    async fn list(
        &self,
        namespace: &NamespaceDigest,
        after: Option<&ObjectName>,
        limit: usize,
    ) -> kv_storage::Result<Vec<ObjectMeta>> {
        self.inner.list(namespace, after, limit).await
    }

    async fn delete(&self, name: &ObjectName) -> kv_storage::Result<bool> {
        self.inner.delete(name).await
    }

    async fn quarantine(&self, name: &ObjectName, version: &Version) -> kv_storage::Result<bool> {
        self.inner.quarantine(name, version).await
    }

    async fn create_record(&self, name: &RecordName, body: &[u8]) -> kv_storage::Result<Option<Version>> {
        self.inner.create_record(name, body).await
    }

    async fn replace_record(
        &self,
        name: &RecordName,
        expected: &Version,
        body: &[u8],
    ) -> kv_storage::Result<Option<Version>> {
        self.inner.replace_record(name, expected, body).await
    }

    async fn read_record(&self, name: &RecordName) -> kv_storage::Result<Option<Record>> {
        self.inner.read_record(name).await
    }

    async fn delete_record(&self, name: &RecordName) -> kv_storage::Result<bool> {
        self.inner.delete_record(name).await
    }
}

/// The engine has given its blocks to another request; the store's thread comes back from the kernel, and must not write them.
#[tokio::test(flavor = "multi_thread")]
async fn a_read_that_ends_after_the_cancellation_writes_nothing() {
    let (_folder, store, _) = scene().await;
    for skip in 0..4 {
        let (late, go, done) = Late::new(&store, skip);
        let builder = Pipeline::builder(namespace()).staging_bytes(2 << 20).part_bytes(4096);
        let rank = Rank::with(builder, Arc::clone(&late) as _, gaudi_like(0..HEADS, Replica::ONLY));
        let prompt = tokens(COUNT);
        let request =
            LoadRequest::new(&prompt).blocks(&rank.blocks).delivery(Delivery::AsVerified).timeout(PATIENCE);
        let load = rank.kv.consumer().load(&rank.registered, request).unwrap();
        tokio::time::timeout(PATIENCE, late.arrived.notified()).await.unwrap();
        tokio::time::timeout(PATIENCE, load.cancel()).await.unwrap().unwrap();
        let before = rank.snapshot();
        drop(go);
        assert!(done.recv().unwrap(), "a sink took a part after the cancellation");
        tokio::time::timeout(PATIENCE, late.idle()).await.unwrap();
        assert!(rank.snapshot() == before, "read {skip}: the engine's memory changed after the cancellation");
        rank.registered.close().await.unwrap();
    }
}

/// The same for a save: the engine may overwrite its blocks, and nothing of what it writes then may be read.
#[tokio::test(flavor = "multi_thread")]
async fn a_write_that_begins_after_the_cancellation_reads_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let options = PosixOptions::default().fsync(FsyncPolicy::None).sweep_older_than(None);
    let store = Arc::new(PosixStore::open(folder.path(), options).await.unwrap());
    let (late, go, done) = Late::new(&store, 0);
    let builder = Pipeline::builder(namespace()).staging_bytes(2 << 20).part_bytes(4096);
    let rank = Rank::with(builder, Arc::clone(&late) as _, amd_like(0..HEADS, Replica::ONLY));
    rank.prefill(COUNT);
    let prompt = tokens(COUNT);
    let request = SaveRequest::new(&prompt).blocks(&rank.blocks).timeout(PATIENCE);
    let save = rank.kv.producer().save(&rank.registered, request).unwrap();
    tokio::time::timeout(PATIENCE, late.arrived.notified()).await.unwrap();
    let canceller = save.canceller();
    canceller.cancel();
    let error = tokio::time::timeout(PATIENCE, save.finish()).await.unwrap().unwrap_err();
    assert_eq!(error.kind(), kv_pipeline::ErrorKind::Cancelled);
    drop(go);
    assert!(done.recv().unwrap(), "a source filled a part after the cancellation");
    tokio::time::timeout(PATIENCE, late.idle()).await.unwrap();
    assert!(contents(&*store, &namespace()).await.is_empty(), "a cancelled save published");
    rank.registered.close().await.unwrap();
}
