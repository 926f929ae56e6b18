//! The conformance suite notices stores that break the contract: each defect fails the check that is about it.
#![expect(clippy::unwrap_used, reason = "the functions that tests share are test code too")]

use std::fmt;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use kv_format::{NamespaceDigest, ObjectName, RecordName};
use kv_memory::HostBuf;
use kv_storage::fault::{Injection, When};
use kv_storage::parts::{read_in_turns, write_in_turns};
use kv_storage::probe::Finding;
use kv_storage::{
    ByteRange, Capabilities, Error, ErrorKind, Fault, KvStore, MemoryStore, Next, ObjectMeta, Operation,
    Publication, ReadOutcome, ReadPart, ReadSink, Record, Result, StoreHealth, Upload, Version, WriteSource,
    conformance,
};

#[derive(Debug, Clone, Copy, PartialEq)]
enum Defect {
    None,
    VisibleBeforeCommit,
    Overwrites,
    ShortRead,
    LosesWrittenBuffer,
    LosesReadBuffer,
    SwapsBuffers,
    MissIsAnError,
    AcceptsIncomplete,
    DropPublishes,
    WrongKindOutOfRange,
    ReadsOneByteOff,
    ListsOutOfOrder,
    ListIgnoresLimit,
    ListShowsOneTooFew,
    DeleteDoesNothing,
    OneVersionForAll,
    QuarantineIgnoresVersion,
    RecordOverwrites,
    ReplaceIgnoresVersion,
    RecordOfAnyLength,
    StreamsBackwards,
    StreamsTwice,
    SourceIgnored,
}

#[derive(Debug, Clone)]
struct Broken {
    inner: MemoryStore,
    defect: Defect,
    lost: Arc<Mutex<Vec<HostBuf>>>,
}

/// Hands every range over twice.
struct Twice(Arc<dyn ReadSink>);

impl ReadSink for Twice {
    fn filled(&self, meta: &ObjectMeta, index: usize, buffer: HostBuf) -> Next {
        let again = HostBuf::copy_of(&buffer).unwrap();
        let _ = self.0.filled(meta, index, again);
        self.0.filled(meta, index, buffer)
    }
}

/// Writes on when the source gives up.
struct Insists(Arc<dyn WriteSource>);

impl WriteSource for Insists {
    fn fill(&self, index: usize, buffer: &mut HostBuf) -> bool {
        let _ = self.0.fill(index, buffer);
        true
    }
}

#[derive(Debug)]
struct BrokenUpload {
    store: Broken,
    name: ObjectName,
    len: u64,
    inner: Option<Box<dyn Upload>>,
}

impl Broken {
    fn has(&self, defect: Defect) -> bool {
        self.defect == defect
    }

    fn meta(&self, mut meta: ObjectMeta) -> ObjectMeta {
        if self.has(Defect::OneVersionForAll) {
            meta.version = Version("same".into());
        }
        meta
    }

    /// Publishes zeros of the right length.
    async fn publish_zeros(&self, name: &ObjectName, len: u64) {
        let upload = self.inner.begin(name, len).await.unwrap();
        let zeros = HostBuf::copy_of(&vec![0; usize::try_from(len).unwrap()]).unwrap();
        upload.write(0, zeros).await.1.unwrap();
        upload.commit().await.unwrap();
    }
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "broken by {:?}", self.defect)
    }
}

#[async_trait]
impl KvStore for Broken {
    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    fn health(&self) -> StoreHealth {
        self.inner.health()
    }

    async fn idle(&self) {
        self.inner.idle().await;
    }

    async fn begin(&self, name: &ObjectName, len: u64) -> Result<Box<dyn Upload>> {
        if self.has(Defect::VisibleBeforeCommit) {
            self.publish_zeros(name, len).await;
        }
        Ok(Box::new(BrokenUpload {
            store: self.clone(),
            name: *name,
            len,
            inner: Some(self.inner.begin(name, len).await?),
        }))
    }

    async fn read(&self, name: &ObjectName, mut parts: Vec<ReadPart>) -> ReadOutcome {
        let lens: Vec<usize> = parts.iter().map(|part| part.buffer.len()).collect();
        for part in &mut parts {
            if self.has(Defect::ShortRead) {
                part.buffer.set_len(part.buffer.len() / 2).unwrap();
            }
            if self.has(Defect::ReadsOneByteOff) && part.offset > 0 {
                part.offset -= 1;
            }
        }
        let ReadOutcome { mut buffers, mut result } = self.inner.read(name, parts).await;
        for (buffer, len) in buffers.iter_mut().zip(lens) {
            buffer.set_len(len).unwrap();
        }
        if self.has(Defect::LosesReadBuffer)
            && let Some(buffer) = buffers.pop()
        {
            let mut other = HostBuf::copy_of(&buffer).unwrap();
            other.set_len(buffer.len()).unwrap();
            self.lost.lock().unwrap().push(buffer);
            buffers.push(other);
        }
        if self.has(Defect::SwapsBuffers) {
            buffers.reverse();
        }
        if self.has(Defect::MissIsAnError) && matches!(result, Ok(None)) {
            result = Err(Error::new(ErrorKind::Backend, self, "not found"));
        }
        if self.has(Defect::WrongKindOutOfRange) && result.is_err() {
            result = Err(Error::new(ErrorKind::Backend, self, "read error"));
        }
        let result = result.map(|meta| meta.map(|meta| self.meta(meta)));
        ReadOutcome { buffers, result }
    }

    async fn read_into(
        &self,
        name: &ObjectName,
        mut ranges: Vec<ByteRange>,
        buffers: Vec<HostBuf>,
        sink: Arc<dyn ReadSink>,
    ) -> Result<Option<ObjectMeta>> {
        if self.has(Defect::StreamsBackwards) {
            ranges.reverse();
        }
        let sink: Arc<dyn ReadSink> = match self.defect {
            Defect::StreamsTwice => Arc::new(Twice(sink)),
            _ => sink,
        };
        read_in_turns(self, name, ranges, buffers, sink).await
    }

    async fn head(&self, name: &ObjectName) -> Result<Option<ObjectMeta>> {
        let meta = self.inner.head(name).await?;
        Ok(meta.map(|meta| self.meta(meta)))
    }

    async fn list(
        &self,
        namespace: &NamespaceDigest,
        after: Option<&ObjectName>,
        limit: usize,
    ) -> Result<Vec<ObjectMeta>> {
        let limit = if self.has(Defect::ListIgnoresLimit) { usize::MAX } else { limit };
        let mut list = self.inner.list(namespace, after, limit).await?;
        if self.has(Defect::ListsOutOfOrder) {
            list.reverse();
        }
        if self.has(Defect::ListShowsOneTooFew) && limit > 100 {
            list.pop();
        }
        Ok(list.into_iter().map(|meta| self.meta(meta)).collect())
    }

    async fn delete(&self, name: &ObjectName) -> Result<bool> {
        if self.has(Defect::DeleteDoesNothing) {
            return Ok(self.inner.head(name).await?.is_some());
        }
        self.inner.delete(name).await
    }

    async fn quarantine(&self, name: &ObjectName, version: &Version) -> Result<bool> {
        if self.has(Defect::QuarantineIgnoresVersion) {
            return self.inner.delete(name).await;
        }
        self.inner.quarantine(name, version).await
    }

    async fn create_record(&self, name: &RecordName, body: &[u8]) -> Result<Option<Version>> {
        if self.has(Defect::RecordOverwrites) {
            self.inner.delete_record(name).await?;
        }
        if self.has(Defect::RecordOfAnyLength) && body.len() > kv_storage::MAX_RECORD_BYTES {
            return self.inner.create_record(name, &body[..10]).await;
        }
        self.inner.create_record(name, body).await
    }

    async fn replace_record(
        &self,
        name: &RecordName,
        expected: &Version,
        body: &[u8],
    ) -> Result<Option<Version>> {
        if self.has(Defect::ReplaceIgnoresVersion) {
            let found = self.inner.delete_record(name).await?;
            return if found { self.inner.create_record(name, body).await } else { Ok(None) };
        }
        self.inner.replace_record(name, expected, body).await
    }

    async fn read_record(&self, name: &RecordName) -> Result<Option<Record>> {
        self.inner.read_record(name).await
    }

    async fn delete_record(&self, name: &RecordName) -> Result<bool> {
        self.inner.delete_record(name).await
    }
}

#[async_trait]
impl Upload for BrokenUpload {
    async fn write(&self, offset: u64, part: HostBuf) -> (HostBuf, Result<()>) {
        let inner = self.inner.as_ref().unwrap();
        let (part, result) = inner.write(offset, part).await;
        if self.store.has(Defect::LosesWrittenBuffer) {
            let mut other = HostBuf::copy_of(&part).unwrap();
            other.set_len(part.len()).unwrap();
            self.store.lost.lock().unwrap().push(part);
            return (other, result);
        }
        (part, result)
    }

    async fn write_from(
        &self,
        ranges: Vec<ByteRange>,
        buffer: HostBuf,
        source: Arc<dyn WriteSource>,
    ) -> (HostBuf, Result<()>) {
        let source: Arc<dyn WriteSource> = match self.store.defect {
            Defect::SourceIgnored => Arc::new(Insists(source)),
            _ => source,
        };
        write_in_turns(self, ranges, buffer, source).await
    }

    async fn commit(mut self: Box<Self>) -> Result<Publication> {
        let inner = self.inner.take().unwrap();
        match self.store.defect {
            Defect::Overwrites => {
                self.store.inner.delete(&self.name).await?;
                inner.commit().await
            }
            Defect::AcceptsIncomplete => match inner.commit().await {
                Err(error) if error.kind() == ErrorKind::Invalid => {
                    self.store.publish_zeros(&self.name, self.len).await;
                    Ok(Publication::Published)
                }
                other => other,
            },
            Defect::VisibleBeforeCommit => {
                self.store.inner.delete(&self.name).await?;
                inner.commit().await
            }
            _ => inner.commit().await,
        }
    }

    async fn abort(mut self: Box<Self>) -> Result<()> {
        self.inner.take().unwrap().abort().await
    }
}

impl Drop for BrokenUpload {
    fn drop(&mut self) {
        if let Some(inner) = self.inner.take()
            && self.store.has(Defect::DropPublishes)
        {
            // The memory store answers when it is first polled.
            let mut commit = inner.commit();
            let _ = commit.as_mut().poll(&mut std::task::Context::from_waker(std::task::Waker::noop()));
        }
    }
}

async fn run(defect: Defect) -> Result<(), conformance::Failure> {
    let store = Arc::new(Broken { inner: MemoryStore::new(), defect, lost: Arc::default() });
    conformance::run_with_seed(Arc::clone(&store) as _, store, 7).await
}

#[tokio::test]
async fn the_wrapper_without_a_defect_passes() {
    run(Defect::None).await.unwrap();
}

#[tokio::test(start_paused = true)] // the deadline of a lost buffer passes at once
async fn every_defect_fails_the_check_that_is_about_it() {
    let expected = [
        (Defect::VisibleBeforeCommit, "invisible_before_the_commit"),
        (Defect::Overwrites, "create_only_under_a_race"),
        (Defect::ShortRead, "invisible_before_the_commit"),
        (Defect::LosesWrittenBuffer, "buffers_come_back"),
        (Defect::LosesReadBuffer, "buffers_come_back"),
        (Defect::SwapsBuffers, "buffers_come_back"),
        (Defect::MissIsAnError, "missing_is_none"),
        (Defect::AcceptsIncomplete, "incomplete_commits_are_refused"),
        (Defect::DropPublishes, "abort_and_drop_leave_nothing"),
        (Defect::WrongKindOutOfRange, "ranges_behind_the_end_are_refused"),
        (Defect::ReadsOneByteOff, "invisible_before_the_commit"),
        (Defect::ListsOutOfOrder, "list_in_order_and_in_pages"),
        (Defect::ListIgnoresLimit, "list_in_order_and_in_pages"),
        (Defect::ListShowsOneTooFew, "list_in_order_and_in_pages"),
        (Defect::DeleteDoesNothing, "delete_frees_the_name"),
        (Defect::OneVersionForAll, "delete_frees_the_name"),
        (Defect::QuarantineIgnoresVersion, "quarantine_checks_the_version"),
        (Defect::RecordOverwrites, "records_are_create_only"),
        (Defect::ReplaceIgnoresVersion, "record_lifecycle"),
        (Defect::RecordOfAnyLength, "record_sizes"),
        (Defect::StreamsBackwards, "streamed_reads_are_exact"),
        (Defect::StreamsTwice, "streamed_reads_are_exact"),
        (Defect::SourceIgnored, "writes_from_a_source"),
    ];
    for (defect, check) in expected {
        let failure = run(defect).await.expect_err(&format!("{defect:?} passed"));
        println!("{defect:?}: {failure}");
        assert_eq!(failure.check(), check, "{defect:?}: {failure}");
    }
}

/// What a probe of a store with this defect says is broken.
async fn probed(defect: Defect) -> Vec<&'static str> {
    let store = Broken { inner: MemoryStore::new(), defect, lost: Arc::default() };
    let report = kv_storage::probe(Arc::new(store.clone())).await;
    assert!(report.to_string().contains(if report.musts_hold() { "fit for KV" } else { "NOT FIT" }));
    let left = store.inner.list(&kv_storage::health::PROBE_NAMESPACE, None, 100).await.unwrap();
    assert!(left.is_empty() || defect == Defect::DeleteDoesNothing, "the probe left {left:?}");
    report.broken_musts().map(|finding| finding.what).collect()
}

#[tokio::test]
async fn a_probe_says_what_is_broken() {
    assert_eq!(probed(Defect::None).await, [""; 0]);
    let (whole, race) =
        ("invisible until published, then whole and at once", "one of two racing commits wins");
    for (defect, what) in [
        (Defect::VisibleBeforeCommit, whole),
        (Defect::Overwrites, race),
        (Defect::ShortRead, whole),
        (Defect::MissIsAnError, whole),
        (Defect::WrongKindOutOfRange, "ranges are exact"),
        (Defect::ReadsOneByteOff, "ranges are exact"),
        (Defect::ListShowsOneTooFew, "a listing shows what was published"),
        (Defect::DeleteDoesNothing, "a deleted object is gone, and its name free"),
        (Defect::RecordOverwrites, "a record is created once"),
        (Defect::ReplaceIgnoresVersion, "a record is replaced if it is the expected one"),
    ] {
        let broken = probed(defect).await;
        assert!(broken.contains(&what), "{defect:?}: {broken:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_probe_of_a_store_that_hangs_or_refuses_says_so_and_ends() {
    for operation in [Operation::Commit, Operation::Read, Operation::CreateRecord] {
        let fault = Fault::new(Arc::new(MemoryStore::new()));
        let _hold = fault.hang(When::every(operation));
        let report = kv_storage::probe(Arc::new(fault)).await;
        assert!(!report.musts_hold());
        let hangs = |finding: &Finding| finding.note == "no end within 30s: a call hangs";
        assert!(report.findings.iter().any(hangs), "{operation}: {report}");
    }
    let fault = Fault::new(Arc::new(MemoryStore::new()));
    fault.inject(When::every(Operation::Begin), Injection::Fail(ErrorKind::PermissionDenied));
    let report = kv_storage::probe(Arc::new(fault)).await;
    let first = report.broken_musts().next().unwrap();
    assert!(first.note.starts_with("PermissionDenied: fault(memory): injected fault in begin"), "{first}");
}
