//! A store in the memory of this process: for tests, simulation, and as the fast tier above a shared store.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::{Bound, Deref, DerefMut};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use kv_format::{NamespaceDigest, ObjectName, RecordName};
use kv_memory::HostBuf;

use crate::parts::{Coverage, out_of_range, record_fits};
use crate::{
    Capabilities, Error, ErrorKind, KvStore, ObjectMeta, Publication, ReadOutcome, ReadPart, Record, Result,
    StoreHealth, Upload, Version, WriteOrder,
};

/// Objects and records in memory. A clone is another handle to the same objects.
///
/// Nothing is bounded but by memory itself: an object for which there is none is refused with `NoSpace`. Up to 256 MiB of deleted objects
/// are kept to be used again for objects of the same length.
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
}

#[derive(Default)]
struct Contents {
    objects: BTreeMap<ObjectName, Arc<Stored>>,
    records: BTreeMap<RecordName, Record>,
    versions: u64,
    /// Memory of deleted objects, for new ones: fresh pages cost more than copying.
    spare: Vec<Body>,
}

/// Most bytes of deleted objects that are kept for new ones.
const SPARE_BYTES: usize = 256 << 20;

/// Objects of at least this many bytes have memory of their own in huge pages, which are faster to copy to and from; a smaller one
/// would waste most of a huge page.
const HUGE_FROM: usize = 1 << 20;

/// An object's bytes.
enum Body {
    Small(Vec<u8>),
    Large(HostBuf),
}

struct Stored {
    bytes: Body,
    version: Version,
}

#[derive(Debug)]
struct MemoryUpload {
    store: MemoryStore,
    name: ObjectName,
    len: u64,
    coverage: Coverage,
    bytes: Mutex<Body>,
}

impl Body {
    /// `len` bytes of any contents; `None` if there is no memory for them.
    fn allocate(len: usize) -> Option<Self> {
        if len >= HUGE_FROM {
            return HostBuf::allocate(len).ok().map(Self::Large);
        }
        let mut bytes = Vec::new();
        bytes.try_reserve_exact(len).ok()?;
        bytes.resize(len, 0);
        Some(Self::Small(bytes))
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.len())
    }
}

impl Deref for Body {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Small(bytes) => bytes,
            Self::Large(bytes) => bytes,
        }
    }
}

impl DerefMut for Body {
    fn deref_mut(&mut self) -> &mut [u8] {
        match self {
            Self::Small(bytes) => bytes,
            Self::Large(bytes) => bytes,
        }
    }
}

impl MemoryStore {
    /// An empty store.
    pub fn new() -> Self {
        Self::default()
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

impl Contents {
    /// Memory for an object of `len` bytes, if a deleted one of its length left some.
    fn take_spare(&mut self, len: usize) -> Option<Body> {
        let index = self.spare.iter().position(|spare| spare.len() == len)?;
        Some(self.spare.swap_remove(index))
    }

    /// Keeps the memory of a large object that nobody reads any more.
    fn recycle(&mut self, stored: Option<Arc<Stored>>) {
        let Some(Stored { bytes, .. }) = stored.and_then(Arc::into_inner) else { return };
        let kept: usize = self.spare.iter().map(|spare| spare.len()).sum();
        if bytes.len() >= HUGE_FROM && kept.saturating_add(bytes.len()) <= SPARE_BYTES {
            self.spare.push(bytes);
        }
    }

    fn next_version(&mut self) -> Version {
        self.versions += 1;
        Version(format!("m{}", self.versions))
    }
}

impl Stored {
    fn meta(&self, name: &ObjectName) -> ObjectMeta {
        ObjectMeta { name: *name, len: self.bytes.len() as u64, version: self.version.clone() }
    }

    /// Copies every part; the name of the part that does not fit otherwise.
    fn fill(&self, parts: &mut [ReadPart]) -> Result<(), (u64, usize)> {
        for part in parts {
            let bytes = usize::try_from(part.offset)
                .ok()
                .and_then(|start| self.bytes.get(start..start.checked_add(part.buffer.len())?))
                .ok_or((part.offset, part.buffer.len()))?;
            part.buffer.copy_from_slice(bytes);
        }
        Ok(())
    }
}

impl fmt::Display for MemoryStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("memory")
    }
}

impl fmt::Debug for Contents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Contents")
            .field("objects", &self.objects.len())
            .field("records", &self.records.len())
            .finish()
    }
}

#[async_trait]
impl KvStore for MemoryStore {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            write_order: WriteOrder::Any,
            part_bytes: 1 << 20,
            alignment: 1,
            concurrency: 16,
            atomic_create: true,
        }
    }

    fn health(&self) -> StoreHealth {
        StoreHealth::default() // every call ends when it is first polled
    }

    async fn idle(&self) {}

    async fn begin(&self, name: &ObjectName, len: u64) -> Result<Box<dyn Upload>> {
        let wanted = usize::try_from(len).map_err(|_| self.no_memory(name, len))?;
        let spare = self.contents().take_spare(wanted);
        let bytes = spare.or_else(|| Body::allocate(wanted)).ok_or_else(|| self.no_memory(name, len))?;
        Ok(Box::new(MemoryUpload {
            store: self.clone(),
            name: *name,
            len,
            coverage: Coverage::new(self.to_string(), name.to_string(), len),
            bytes: Mutex::new(bytes),
        }))
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

#[async_trait]
impl Upload for MemoryUpload {
    async fn write(&self, offset: u64, part: HostBuf) -> (HostBuf, Result<()>) {
        let writing = match self.coverage.writing(offset, part.len()) {
            Ok(writing) => writing,
            Err(error) => return (part, Err(error)),
        };
        let Ok(start) = usize::try_from(offset) else {
            writing.failed();
            let error = self.store.no_memory(&self.name, self.len);
            return (part, Err(error));
        };
        let mut bytes = self.bytes.lock().unwrap_or_else(PoisonError::into_inner);
        // The coverage has checked that the part lies inside.
        if let Some(place) = bytes.get_mut(start..start + part.len()) {
            place.copy_from_slice(&part);
        }
        drop(bytes);
        writing.done();
        (part, Ok(()))
    }

    async fn commit(self: Box<Self>) -> Result<Publication> {
        self.coverage.complete()?;
        let Self { store, name, bytes, .. } = *self;
        let bytes = bytes.into_inner().unwrap_or_else(PoisonError::into_inner);
        let mut contents = store.contents();
        if contents.objects.contains_key(&name) {
            return Ok(Publication::AlreadyExists);
        }
        let version = contents.next_version();
        contents.objects.insert(name, Arc::new(Stored { bytes, version }));
        Ok(Publication::Published)
    }

    async fn abort(self: Box<Self>) -> Result<()> {
        Ok(())
    }
}
