//! The store under test, with what every check needs: names, bytes, buffers.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;

use kv_format::{ChunkKey, InputDigest, NamespaceDigest, ObjectName, RecordName};
use kv_memory::{HostBuf, HugePages, StagingPool};

use super::{Failure, ensure};
use crate::{KvStore, ObjectMeta, Publication, ReadOutcome, ReadPart, Upload};

/// Bytes of one buffer of the suite's pool.
pub(super) const PART: usize = 64 << 10;
/// Buffers in the pool.
const PARTS: usize = 128;

/// Two handles to the store under test, and the suite's own pool of buffers.
#[derive(Debug)]
pub struct Subject {
    writer: Arc<dyn KvStore>,
    reader: Arc<dyn KvStore>,
    pool: StagingPool,
    random: AtomicU64,
    namespace: NamespaceDigest,
    objects: Mutex<Vec<ObjectName>>,
    records: Mutex<Vec<RecordName>>,
}

impl Subject {
    /// Pairs the handles. `seed` decides names, bytes and order.
    ///
    /// # Errors
    /// If there is no memory for the buffers.
    pub fn new(writer: Arc<dyn KvStore>, reader: Arc<dyn KvStore>, seed: u64) -> Result<Self, Failure> {
        let mut subject = Self {
            writer,
            reader,
            pool: StagingPool::new(HugePages::allocate(PART * PARTS)?, PART)?,
            random: AtomicU64::new(seed),
            namespace: NamespaceDigest([0; 32]),
            objects: Mutex::default(),
            records: Mutex::default(),
        };
        subject.namespace = NamespaceDigest(subject.digest());
        Ok(subject)
    }

    /// The handle that publishes.
    pub fn writer(&self) -> &Arc<dyn KvStore> {
        &self.writer
    }

    /// The handle that looks.
    pub fn reader(&self) -> &Arc<dyn KvStore> {
        &self.reader
    }

    /// The suite's buffers; all of them are back when a check has settled.
    pub fn pool(&self) -> &StagingPool {
        &self.pool
    }

    /// The namespace of this subject's objects.
    pub(super) fn namespace(&self) -> NamespaceDigest {
        self.namespace
    }

    /// A number that the seed decides (SplitMix64).
    pub(super) fn random(&self) -> u64 {
        let step = 0x9e37_79b9_7f4a_7c15;
        let mut z = self.random.fetch_add(step, Ordering::Relaxed).wrapping_add(step);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`.
    pub(super) fn below(&self, bound: usize) -> usize {
        usize::try_from(self.random() % (bound.max(1) as u64)).unwrap_or_default()
    }

    fn digest(&self) -> [u8; 32] {
        let mut digest = [0; 32];
        for word in digest.chunks_exact_mut(8) {
            word.copy_from_slice(&self.random().to_le_bytes());
        }
        digest
    }

    /// A name that nobody uses.
    pub(super) fn name(&self) -> ObjectName {
        let key = ChunkKey(self.digest());
        self.name_of(key, 0, 0)
    }

    /// A name in this subject's namespace; what is published there is removed at the end.
    pub(super) fn name_of(&self, key: ChunkKey, chunk_index: u32, slice: u32) -> ObjectName {
        let name = ObjectName { namespace: self.namespace, key, chunk_index, slice };
        self.remember(name)
    }

    /// Removes the object of this name at the end.
    pub(super) fn remember(&self, name: ObjectName) -> ObjectName {
        self.objects.lock().unwrap_or_else(PoisonError::into_inner).push(name);
        name
    }

    /// A key that nobody uses, beginning with `first`.
    pub(super) fn key(&self, first: u8) -> ChunkKey {
        let mut digest = self.digest();
        digest[0] = first;
        ChunkKey(digest)
    }

    /// A record's name that nobody uses.
    pub(super) fn record(&self) -> RecordName {
        let mut name = RecordName::request("", 0);
        name.digest = InputDigest(self.digest());
        self.records.lock().unwrap_or_else(PoisonError::into_inner).push(name);
        name
    }

    /// `len` random bytes.
    pub(super) fn bytes(&self, len: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(len + 8);
        while bytes.len() < len {
            bytes.extend_from_slice(&self.random().to_le_bytes());
        }
        bytes.truncate(len);
        bytes
    }

    /// A buffer of the pool that holds `bytes`, at most [`PART`] of them.
    pub(super) async fn buffer(&self, bytes: &[u8]) -> Result<HostBuf, Failure> {
        let mut buffer = self.pool.acquire().await;
        buffer.set_len(bytes.len())?;
        buffer.copy_from_slice(bytes);
        Ok(buffer)
    }

    /// A buffer of `len` bytes whose contents no object has.
    pub(super) async fn blank(&self, len: usize) -> Result<HostBuf, Failure> {
        let mut buffer = self.pool.acquire().await;
        buffer.set_len(len)?;
        buffer.fill(0xa5);
        Ok(buffer)
    }

    /// Starts an upload and writes all of `bytes` in order.
    pub(super) async fn upload(&self, name: &ObjectName, bytes: &[u8]) -> Result<Box<dyn Upload>, Failure> {
        let upload = self.writer.begin(name, bytes.len() as u64).await?;
        let mut offset = 0;
        for part in bytes.chunks(PART) {
            write(&*upload, offset, self.buffer(part).await?).await?;
            offset += part.len() as u64;
        }
        Ok(upload)
    }

    /// Publishes `bytes` under a free name.
    pub(super) async fn publish(&self, name: &ObjectName, bytes: &[u8]) -> Result<(), Failure> {
        let answer = self.upload(name, bytes).await?.commit().await?;
        ensure!(answer == Publication::Published, "the commit of a free name answered {answer:?}");
        Ok(())
    }

    /// The reader's view of one range.
    pub(super) async fn range(
        &self,
        name: &ObjectName,
        offset: u64,
        len: usize,
    ) -> Result<Option<(Vec<u8>, ObjectMeta)>, Failure> {
        let mut parts = Vec::new();
        let mut at = 0;
        // At least one part, so that an empty range is read too.
        while at < len || parts.is_empty() {
            let bytes = PART.min(len - at);
            parts.push(ReadPart { offset: offset + at as u64, buffer: self.blank(bytes).await? });
            at += bytes;
        }
        let ReadOutcome { buffers, result } = self.reader.read(name, parts).await;
        let Some(meta) = result? else { return Ok(None) };
        Ok(Some((buffers.iter().flat_map(|buffer| buffer.to_vec()).collect(), meta)))
    }

    /// Fails unless the reader sees exactly `bytes` under `name`.
    pub(super) async fn expect(&self, name: &ObjectName, bytes: &[u8]) -> Result<ObjectMeta, Failure> {
        let meta = self.reader.head(name).await?;
        let Some(meta) = meta else {
            return Err(Failure::new(format!("head finds nothing under the published {name}")));
        };
        let expected = bytes.len() as u64;
        ensure!(meta.name == *name, "head of {name} answers the name {}", meta.name);
        ensure!(meta.len == expected, "head: expected {expected} bytes, found {}", meta.len);
        let Some((read, read_meta)) = self.range(name, 0, bytes.len()).await? else {
            return Err(Failure::new(format!("read finds nothing under the published {name}")));
        };
        ensure!(read_meta == meta, "read says {read_meta:?}, head {meta:?}");
        let differs = read.iter().zip(bytes).position(|(a, b)| a != b);
        ensure!(read == bytes, "of {expected} bytes, byte {differs:?} differs from what was written");
        Ok(meta)
    }

    /// Fails if the reader sees anything under `name`.
    pub(super) async fn expect_nothing(&self, name: &ObjectName, when: &str) -> Result<(), Failure> {
        let head = self.reader.head(name).await?;
        ensure!(head.is_none(), "{when}: head finds {head:?}");
        let read = self.range(name, 0, 1).await?;
        ensure!(read.is_none(), "{when}: read finds {:?}", read.map(|(_, meta)| meta));
        let list = self.reader.list(&name.namespace, None, 1000).await?;
        let listed = list.iter().any(|meta| meta.name == *name);
        ensure!(!listed, "{when}: list shows {name}");
        Ok(())
    }

    /// Removes what the check left, and waits until every buffer is back.
    pub(super) async fn settle(&self) -> Result<(), Failure> {
        let objects = std::mem::take(&mut *self.objects.lock().unwrap_or_else(PoisonError::into_inner));
        for name in objects {
            self.writer.delete(&name).await?;
        }
        let records = std::mem::take(&mut *self.records.lock().unwrap_or_else(PoisonError::into_inner));
        for name in records {
            self.writer.delete_record(&name).await?;
        }
        drop(self.pool.acquire_many(PARTS).await);
        Ok(())
    }
}

/// Writes one part; fails if it fails.
pub(super) async fn write(upload: &dyn Upload, offset: u64, part: HostBuf) -> Result<HostBuf, Failure> {
    let (part, result) = upload.write(offset, part).await;
    result?;
    Ok(part)
}

/// Polls a future once and drops it; its answer, if it had one at once.
pub(super) async fn poll_once<T>(future: impl Future<Output = T>) -> Option<T> {
    let mut future = pin!(future);
    poll_fn(|context| match future.as_mut().poll(context) {
        Poll::Ready(answer) => Poll::Ready(Some(answer)),
        Poll::Pending => Poll::Ready(None),
    })
    .await
}

/// Polls all futures until each has answered; the answers in order.
pub(super) async fn join_all<'a, T>(futures: impl IntoIterator<Item = Running<'a, T>>) -> Vec<T> {
    let mut pending: Vec<_> = futures.into_iter().map(|future| (Some(future), None)).collect();
    poll_fn(|context| {
        for (slot, answer) in &mut pending {
            if let Some(future) = slot
                && let Poll::Ready(value) = future.as_mut().poll(context)
            {
                *answer = Some(value);
                *slot = None;
            }
        }
        if pending.iter().all(|(slot, _)| slot.is_none()) { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
    pending.into_iter().filter_map(|(_, answer)| answer).collect()
}

/// A future among others.
pub(super) type Running<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;
