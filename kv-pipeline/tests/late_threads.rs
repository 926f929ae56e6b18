//! A store's thread that comes back late, or is in the middle of a copy, when its operation is cancelled: the engine's blocks are its own
//! again when `finish` or `cancel` has returned.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::fmt;
use std::sync::Arc;
use std::sync::mpsc;
use std::time::Duration;

use async_trait::async_trait;
use common::*;
use kv_device::{
    Device, DeviceCapabilities, DeviceInfo, DeviceRegion, HostDevice, HostDeviceOptions, RegisteredMemory,
    TransferRequest,
};
use kv_format::*;
use kv_memory::{HostBuf, HostRegion};
use kv_pipeline::{Result, *};
use kv_storage::posix::FsyncPolicy;
use kv_storage::{
    ByteRange, Capabilities, KvStore, Next, ObjectMeta, PosixOptions, PosixStore, ReadOutcome, ReadPart,
    ReadSink, Record, StoreHealth, Upload, Version, WriteSource,
};
use tokio::sync::Notify;

const COUNT: u32 = 3 * CHUNK;

/// A posix store, whose threads call back, with three chunks in it.
async fn stored() -> (tempfile::TempDir, Arc<PosixStore>) {
    let (folder, store) = empty().await;
    let producer = Rank::with(builder(), Arc::clone(&store) as _, amd_like(0..HEADS, Replica::ONLY));
    producer.prefill(COUNT);
    assert_eq!(producer.save(&tokens(COUNT)).await.unwrap().tokens, COUNT);
    producer.registered.close().await.unwrap();
    (folder, store)
}

async fn empty() -> (tempfile::TempDir, Arc<PosixStore>) {
    let folder = tempfile::tempdir().unwrap();
    let options =
        PosixOptions::default().fsync(FsyncPolicy::None).sweep_older_than(None).format_if_empty(true);
    let store = Arc::new(PosixStore::open(folder.path(), options).await.unwrap());
    (folder, store)
}

/// Staging in parts of a page, so that an object has several.
fn builder() -> PipelineBuilder {
    Pipeline::builder(namespace()).staging_bytes(2 << 20).part_bytes(4096)
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

/// Waits before it lets a range be filled, and says whether that was refused.
struct LateSource {
    inner: Arc<dyn WriteSource>,
    arrived: Arc<Notify>,
    go: Arc<std::sync::Mutex<mpsc::Receiver<()>>>,
    done: mpsc::Sender<bool>,
}

impl WriteSource for LateSource {
    fn fill(&self, index: usize, buffer: &mut HostBuf) -> bool {
        self.arrived.notify_one();
        let _ = self.go.lock().unwrap().recv();
        let filled = self.inner.fill(index, buffer);
        let _ = self.done.send(!filled);
        filled
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
        ranges: Vec<ByteRange>,
        buffer: HostBuf,
        source: Arc<dyn WriteSource>,
    ) -> (HostBuf, kv_storage::Result<()>) {
        let (arrived, go, done) = (Arc::clone(&self.arrived), Arc::clone(&self.go), self.done.clone());
        let late = Arc::new(LateSource { inner: source, arrived, go, done });
        self.inner.write_from(ranges, buffer, late).await
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
        ranges: Vec<ByteRange>,
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
    let (_folder, store) = stored().await;
    for (skip, delivery) in
        (0..4).flat_map(|skip| [Delivery::WholeChunk, Delivery::AsVerified].map(|delivery| (skip, delivery)))
    {
        let (late, go, done) = Late::new(&store, skip);
        let rank = Rank::with(builder(), Arc::clone(&late) as _, gaudi_like(0..HEADS, Replica::ONLY));
        let prompt = tokens(COUNT);
        let request = LoadRequest::new(&prompt).blocks(&rank.blocks).delivery(delivery).timeout(PATIENCE);
        let load = rank.kv.consumer().load(&rank.registered, request).unwrap();
        tokio::time::timeout(PATIENCE, late.arrived.notified()).await.unwrap();
        tokio::time::timeout(PATIENCE, load.cancel()).await.unwrap().unwrap();
        let before = rank.snapshot();
        drop(go);
        // With whole chunks a sink takes and verifies what comes late; it must not be written.
        let stopped = done.recv().unwrap();
        assert!(stopped || delivery == Delivery::WholeChunk, "a sink took a part after the cancellation");
        tokio::time::timeout(PATIENCE, late.idle()).await.unwrap();
        assert!(
            rank.snapshot() == before,
            "read {skip}, {delivery:?}: the engine's memory changed after the cancellation"
        );
        rank.registered.close().await.unwrap();
    }
}

/// The same for a save: the engine may overwrite its blocks, and nothing of what it writes then may be read.
#[tokio::test(flavor = "multi_thread")]
async fn a_write_that_begins_after_the_cancellation_reads_nothing() {
    let (_folder, store) = empty().await;
    let (late, go, done) = Late::new(&store, 0);
    let rank = Rank::with(builder(), Arc::clone(&late) as _, amd_like(0..HEADS, Replica::ONLY));
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

/// A device whose copies on the caller's thread take until the test lets them go on.
#[derive(Debug)]
struct Slow {
    inner: Arc<HostDevice>,
    arrived: Arc<Notify>,
    go: Arc<std::sync::Mutex<mpsc::Receiver<()>>>,
}

impl fmt::Display for Slow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("slow")
    }
}

impl Device for Slow {
    fn info(&self) -> &DeviceInfo {
        self.inner.info()
    }

    fn capabilities(&self) -> DeviceCapabilities {
        self.inner.capabilities()
    }

    fn allocate_staging(&self, bytes: usize) -> kv_device::Result<Box<dyn HostRegion>> {
        self.inner.allocate_staging(bytes)
    }

    unsafe fn register(&self, regions: Vec<DeviceRegion>) -> kv_device::Result<Arc<dyn RegisteredMemory>> {
        // SAFETY: the caller's promise is passed on.
        let inner = unsafe { self.inner.register(regions) }?;
        Ok(Arc::new(SlowMemory { inner, arrived: Arc::clone(&self.arrived), go: Arc::clone(&self.go) }))
    }
}

#[derive(Debug)]
struct SlowMemory {
    inner: Arc<dyn RegisteredMemory>,
    arrived: Arc<Notify>,
    go: Arc<std::sync::Mutex<mpsc::Receiver<()>>>,
}

impl SlowMemory {
    fn wait(&self) {
        self.arrived.notify_one();
        let _ = self.go.lock().unwrap().recv();
    }
}

#[async_trait]
impl RegisteredMemory for SlowMemory {
    fn regions(&self) -> &[DeviceRegion] {
        self.inner.regions()
    }

    async fn gather(&self, request: TransferRequest) -> (HostBuf, kv_device::Result<()>) {
        self.inner.gather(request).await
    }

    async fn scatter(&self, request: TransferRequest) -> (HostBuf, kv_device::Result<()>) {
        self.inner.scatter(request).await
    }

    fn copies_now(&self) -> bool {
        true
    }

    fn gather_now(&self, transfer: &Transfer, staging: &mut [u8]) -> kv_device::Result<()> {
        self.wait();
        self.inner.gather_now(transfer, staging)
    }

    fn scatter_now(&self, transfer: &Transfer, staging: &[u8]) -> kv_device::Result<()> {
        self.wait();
        self.inner.scatter_now(transfer, staging)
    }

    async fn quiesce(&self) -> kv_device::Result<()> {
        self.inner.quiesce().await
    }

    async fn close(&self) -> kv_device::Result<()> {
        self.inner.close().await
    }
}

/// A rank on a slow device, which tells that a copy has begun and goes on when the sender is dropped.
fn slow(builder: PipelineBuilder, store: Arc<PosixStore>) -> (Rank, Arc<Notify>, mpsc::Sender<()>) {
    let (go, wait) = mpsc::channel();
    let inner = HostDevice::new(HostDeviceOptions::default()).unwrap();
    let arrived = Arc::<Notify>::default();
    let device = Slow { inner: Arc::clone(&inner), arrived: Arc::clone(&arrived), go: Arc::new(wait.into()) };
    let geometry = gaudi_like(0..HEADS, Replica::ONLY);
    let blocks = scattered(&geometry);
    let allocate = |len: &u64| inner.allocate(usize::try_from(*len).unwrap()).unwrap();
    let memory: Vec<_> = geometry.regions.iter().map(allocate).collect();
    let kv = builder.device(Arc::new(device)).store(store).build().unwrap();
    let regions = memory.iter().map(|memory| memory.region()).collect();
    // SAFETY: the rank keeps the allocations beside the registration, which the tests close.
    let registered = unsafe { kv.register(geometry, regions) }.unwrap();
    (Rank { kv, registered, blocks, memory }, arrived, go)
}

/// A device that does not let go is given up on when its time is up, and the caller learns that it still has the blocks.
#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_does_not_end_is_told_when_its_time_is_up() {
    let short = Duration::from_millis(50);
    let prompt = tokens(COUNT);
    let (_folder, stored) = stored().await;
    let (rank, arrived, go) = slow(builder().device_grace(Duration::ZERO), stored);
    let request =
        LoadRequest::new(&prompt).blocks(&rank.blocks).delivery(Delivery::AsVerified).timeout(short);
    let load = rank.kv.consumer().load(&rank.registered, request).unwrap();
    let loaded = tokio::time::timeout(PATIENCE, load.finish()).await.unwrap();
    let copying = tokio::time::timeout(Duration::ZERO, arrived.notified()).await.is_ok();
    // On a machine so slow that nothing had begun, the deadline alone is told.
    assert_eq!(loaded.is_err_and(|error| error.kind() == kv_pipeline::ErrorKind::Device), copying);
    drop(go);
    tokio::time::timeout(PATIENCE, rank.registered.close()).await.unwrap().unwrap();

    let (_folder, empty) = empty().await;
    let (rank, arrived, go) = slow(builder().device_grace(Duration::ZERO), empty);
    let request = SaveRequest::new(&prompt).blocks(&rank.blocks).timeout(short);
    let save = rank.kv.producer().save(&rank.registered, request).unwrap();
    let error = tokio::time::timeout(PATIENCE, save.finish()).await.unwrap().unwrap_err();
    let copying = tokio::time::timeout(Duration::ZERO, arrived.notified()).await.is_ok();
    assert_eq!(error.kind() == kv_pipeline::ErrorKind::Device, copying, "{error}");
    drop(go);
    tokio::time::timeout(PATIENCE, rank.registered.close()).await.unwrap().unwrap();
}

/// A thread of the store is about to copy when its operation is cancelled: the cancellation waits for it.
#[tokio::test(flavor = "multi_thread")]
async fn a_cancellation_waits_for_the_copy_that_has_begun() {
    let (_folder, store) = stored().await;
    let prompt = tokens(COUNT);
    for saves in [false, true] {
        let (_folder, empty) = empty().await;
        let store = if saves { empty } else { Arc::clone(&store) };
        let (rank, arrived, go) = slow(builder(), store);
        let (kv, registered, blocks) = (&rank.kv, &rank.registered, &rank.blocks);
        let cancel: std::pin::Pin<Box<dyn Future<Output = Result<()>>>> = if saves {
            let request = SaveRequest::new(&prompt).blocks(blocks).timeout(PATIENCE);
            Box::pin(kv.producer().save(registered, request).unwrap().cancel_after(&arrived))
        } else {
            let request = LoadRequest::new(&prompt).blocks(blocks).timeout(PATIENCE);
            let request = request.delivery(Delivery::AsVerified);
            Box::pin(kv.consumer().load(registered, request).unwrap().cancel_after(&arrived))
        };
        let mut cancel = cancel;
        let mut after_giving_up = 0;
        // The operation has given the store's thread up once that is counted; then it would end, if it did not wait.
        while after_giving_up < 20_000 {
            let ended =
                std::future::poll_fn(|context| std::task::Poll::Ready(cancel.as_mut().poll(context))).await;
            assert!(ended.is_pending(), "saves: {saves}: cancelled while a thread was copying");
            after_giving_up += usize::from(kv.store_health().stranded > 0);
            tokio::task::yield_now().await;
        }
        drop(go);
        tokio::time::timeout(PATIENCE, cancel).await.unwrap().unwrap();
        registered.close().await.unwrap();
    }
}

/// Cancels an operation once a copy has begun.
trait CancelAfter {
    async fn cancel_after(self, begun: &Notify) -> Result<()>;
}

impl CancelAfter for Save {
    async fn cancel_after(self, begun: &Notify) -> Result<()> {
        begun.notified().await;
        self.cancel().await
    }
}

impl CancelAfter for Load {
    async fn cancel_after(self, begun: &Notify) -> Result<()> {
        begun.notified().await;
        self.cancel().await
    }
}
