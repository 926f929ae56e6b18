//! A store in the memory of this process: for tests, simulation, and as the fast tier above a shared store.

mod contents;
mod upload;

use std::fmt;
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use kv_format::{NamespaceDigest, ObjectName, RecordName};
use kv_memory::HostBuf;

use crate::parts::{
    Admission, CACHED_PART, DEFAULT_STRANDED_BOUND, Stream, Workers, out_of_range, read_in_turns, record_fits,
};
use crate::{
    ByteRange, Capabilities, Error, ErrorKind, KvStore, ObjectMeta, ReadOutcome, ReadPart, ReadSink, Record,
    Result, Setback, StoreHealth, Upload, Version, WriteOrder,
};
use contents::{Body, Contents};
use upload::MemoryUpload;

/// Objects and records in memory. A clone is another handle to the same objects.
///
/// Nothing is bounded but by memory itself: an object for which there is none is refused with `NoSpace`. Up to 256 MiB of deleted objects
/// are kept to be used again for objects of the same length.
///
/// Without threads every call ends when it is first polled, on the thread that polls it. [With threads](Self::with_threads), as
/// `memory://` has them, streamed reads and writes run there, so that several cores copy and no executor thread is busy for long.
///
/// ```
/// use kv_storage::{KvStore, MemoryStore};
/// let writer = MemoryStore::new();
/// let reader = writer.clone(); // sees what `writer` publishes
/// assert!(reader.capabilities().atomic_create);
/// ```
#[derive(Debug, Clone, Default)]
pub struct MemoryStore {
    shared: Arc<Mutex<Contents>>,
    threads: Option<Threads>,
}

/// Who makes the streamed reads and writes.
#[derive(Debug, Clone)]
struct Threads {
    count: usize,
    admission: Admission,
    workers: Arc<Workers>,
}

/// Calls that wait for a thread; more wait before they queue.
const QUEUE: usize = 256;

impl MemoryStore {
    /// An empty store.
    pub fn new() -> Self {
        Self::default()
    }

    /// An empty store whose streamed reads and writes run on so many threads, started when there is work.
    pub fn with_threads(count: usize) -> Self {
        let (count, admission) = (count.max(1), Admission::new(DEFAULT_STRANDED_BOUND));
        let workers = Arc::new(Workers::new("memory".into(), count, QUEUE, admission.clone()));
        Self { shared: Arc::default(), threads: Some(Threads { count, admission, workers }) }
    }

    fn contents(&self) -> MutexGuard<'_, Contents> {
        // Every change is one map operation; a panic cannot leave it half done.
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn no_memory(&self, name: &ObjectName, len: u64) -> Error {
        Error::new(
            ErrorKind::NoSpace,
            self,
            format!("no memory for the {len} bytes of {name}: delete objects or store elsewhere"),
        )
    }
}

impl fmt::Display for MemoryStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("memory")
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl KvStore for MemoryStore {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            write_order: WriteOrder::Any,
            part_bytes: if self.threads.is_some() { CACHED_PART } else { 1 << 20 },
            alignment: 1,
            concurrency: self.threads.as_ref().map_or(16, |threads| threads.count),
            atomic_create: true,
        }
    }

    fn health(&self) -> StoreHealth {
        // Without threads every call ends when it is first polled.
        self.threads.as_ref().map_or_else(StoreHealth::default, |threads| threads.admission.health())
    }

    async fn idle(&self) {
        if let Some(threads) = &self.threads {
            threads.admission.idle().await;
        }
    }

    async fn begin(&self, name: &ObjectName, len: u64) -> Result<Box<dyn Upload>> {
        let wanted = usize::try_from(len).map_err(|_| self.no_memory(name, len))?;
        let spare = self.contents().take_spare(wanted);
        let bytes = spare.or_else(|| Body::allocate(wanted)).ok_or_else(|| self.no_memory(name, len))?;
        Ok(Box::new(MemoryUpload::new(self, name, bytes)))
    }

    async fn read(&self, name: &ObjectName, mut parts: Vec<ReadPart>) -> ReadOutcome {
        let stored = self.contents().objects.get(name).map(Arc::clone);
        let result = match stored {
            None => Ok(None),
            Some(stored) => stored
                .fill(&mut parts)
                .map(|()| Some(stored.meta(name)))
                .map_err(|part| out_of_range(self, name, part, stored.bytes.len() as u64)),
        };
        ReadOutcome { buffers: parts.into_iter().map(|part| part.buffer).collect(), result }
    }

    fn calls_back_on_own_threads(&self) -> bool {
        self.threads.is_some()
    }

    async fn read_into(
        &self,
        name: &ObjectName,
        ranges: Vec<ByteRange>,
        buffers: Vec<HostBuf>,
        sink: Arc<dyn ReadSink>,
    ) -> Result<Option<ObjectMeta>> {
        let Some(Threads { workers, .. }) = &self.threads else {
            return read_in_turns(self, name, ranges, buffers, sink).await;
        };
        let Some(stored) = self.contents().objects.get(name).map(Arc::clone) else { return Ok(None) };
        // Threads hold the contents alone: with the store they would hold themselves.
        let (store, name) = (Self { shared: Arc::clone(&self.shared), threads: None }, *name);
        let work = move |buffers: &mut Vec<HostBuf>| {
            let mut stream = Stream::new(std::mem::take(buffers), &*sink);
            stored.stream(&store, &name, &ranges, &mut stream).map(Some)
        };
        workers.run(buffers, work).await.1
    }

    async fn head(&self, name: &ObjectName) -> Result<Option<ObjectMeta>> {
        Ok(self.contents().objects.get(name).map(|stored| stored.meta(name)))
    }

    async fn list(
        &self,
        namespace: &NamespaceDigest,
        after: Option<&ObjectName>,
        limit: usize,
    ) -> Result<Vec<ObjectMeta>> {
        let contents = self.contents();
        let start = after.map_or(Bound::Unbounded, Bound::Excluded);
        let behind = contents.objects.range((start, Bound::Unbounded));
        Ok(behind
            .skip_while(|(name, _)| name.namespace < *namespace)
            .take_while(|(name, _)| name.namespace == *namespace)
            .take(limit)
            .map(|(name, stored)| stored.meta(name))
            .collect())
    }

    async fn delete(&self, name: &ObjectName) -> Result<bool> {
        let mut contents = self.contents();
        let removed = contents.objects.remove(name);
        let found = removed.is_some();
        contents.recycle(removed);
        Ok(found)
    }

    async fn quarantine(&self, name: &ObjectName, version: &Version) -> Result<bool> {
        let mut contents = self.contents();
        let same = contents.objects.get(name).is_some_and(|stored| stored.version == *version);
        if same {
            let removed = contents.objects.remove(name);
            contents.recycle(removed);
        }
        Ok(same)
    }

    fn another_way(&self, _: &ObjectName, _: Setback) -> bool {
        false
    }

    async fn create_record(&self, name: &RecordName, body: &[u8]) -> Result<Option<Version>> {
        record_fits(self, name, body)?;
        let mut contents = self.contents();
        if contents.records.contains_key(name) {
            return Ok(None);
        }
        let version = contents.next_version();
        let record = Record { body: body.to_vec(), version: version.clone() };
        contents.records.insert(*name, record);
        Ok(Some(version))
    }

    async fn replace_record(
        &self,
        name: &RecordName,
        expected: &Version,
        body: &[u8],
    ) -> Result<Option<Version>> {
        record_fits(self, name, body)?;
        let mut contents = self.contents();
        let version = contents.next_version();
        let same = contents.records.get_mut(name).filter(|r| r.version == *expected);
        Ok(same.map(|record| {
            record.body = body.to_vec();
            record.version = version.clone();
            version
        }))
    }

    async fn read_record(&self, name: &RecordName) -> Result<Option<Record>> {
        Ok(self.contents().records.get(name).cloned())
    }

    async fn delete_record(&self, name: &RecordName) -> Result<bool> {
        Ok(self.contents().records.remove(name).is_some())
    }
}

#[cfg(test)]
mod tests {
    use std::thread::{self, ThreadId};

    use kv_format::{ChunkKey, NamespaceDigest};

    use super::*;
    use crate::{Next, WriteSource};

    /// Takes down on which threads it is called.
    #[derive(Default)]
    struct Callers(Mutex<Vec<ThreadId>>);

    impl Callers {
        fn note(&self) {
            self.0.lock().unwrap().push(thread::current().id());
        }
    }

    impl WriteSource for Callers {
        fn fill(&self, _: usize, buffer: &mut HostBuf) -> bool {
            self.note();
            buffer.fill(7);
            true
        }
    }

    impl ReadSink for Callers {
        fn filled(&self, _: &ObjectMeta, _: usize, buffer: HostBuf) -> Next {
            self.note();
            assert!(buffer.iter().all(|byte| *byte == 7));
            Next::Reuse(buffer)
        }
    }

    //= SEMANTICS.md#memory-threads
    #[tokio::test]
    async fn sinks_and_sources_are_called_on_the_stores_threads_if_it_has_some() {
        for store in [MemoryStore::new(), MemoryStore::with_threads(1)] {
            let (namespace, key) = (NamespaceDigest([1; 32]), ChunkKey([2; 32]));
            let name = ObjectName { namespace, key, chunk_index: 0, slice: 0 };
            let ranges = vec![ByteRange { offset: 0, len: 4096 }, ByteRange { offset: 4096, len: 904 }];
            let callers = Arc::new(Callers::default());
            let buffer = || HostBuf::allocate(4096).unwrap();
            let upload = store.begin(&name, 5000).await.unwrap();
            let source = Arc::<Callers>::clone(&callers);
            upload.write_from(ranges.clone(), buffer(), source).await.1.unwrap();
            upload.commit().await.unwrap();
            let sink = Arc::<Callers>::clone(&callers);
            store.read_into(&name, ranges, vec![buffer()], sink).await.unwrap().unwrap();

            let callers = callers.0.lock().unwrap();
            assert_eq!(callers.len(), 4);
            let here = callers.iter().all(|id| *id == thread::current().id());
            let elsewhere = callers.iter().all(|id| *id != thread::current().id());
            assert!(if store.calls_back_on_own_threads() { elsewhere } else { here });
        }
    }
}
