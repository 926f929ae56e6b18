//! Every call of a store: bytes from the tier if it has them, everything else from the store behind.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use kv_format::{NamespaceDigest, ObjectName, RecordName};
use kv_memory::HostBuf;

use super::Tiered;
use super::filling::Filling;
use crate::parts::Stream;
use crate::{
    ByteRange, Capabilities, Error, ErrorKind, KvStore, ObjectMeta, ReadOutcome, ReadPart, ReadSink, Record,
    Result, Setback, StoreHealth, Upload, Version,
};

/// What a read was answered with, and since when that is known to be what is there.
struct Answer {
    outcome: ReadOutcome,
    by_back: Option<Duration>,
}

impl Tiered {
    fn now(&self) -> Duration {
        self.options.environment.clock.now()
    }

    /// The copy of an object, if it is there and of what is stored: `Ok(None)` if the store behind is to be asked for the bytes.
    async fn copy_of(&self, name: &ObjectName) -> Result<Option<ObjectMeta>> {
        let Some((version, len, asked)) = self.contents().used(name) else { return Ok(None) };
        let now = self.now();
        let copy = ObjectMeta { name: *name, len, version };
        if now.saturating_sub(asked) < self.options.trust_for {
            return Ok(Some(copy));
        }
        if self.back.head(name).await?.as_ref() == Some(&copy) {
            self.contents().confirmed(name, &copy.version, now);
            return Ok(Some(copy));
        }
        self.forget(name).await;
        Ok(None)
    }

    async fn read_either(&self, name: &ObjectName, parts: Vec<ReadPart>) -> Answer {
        let asked: Vec<(u64, usize)> = parts.iter().map(|part| (part.offset, part.buffer.len())).collect();
        let whole = |buffers: Vec<HostBuf>| {
            let parts = asked.iter().zip(buffers);
            parts.map(|(&(offset, _), buffer)| ReadPart { offset, buffer }).collect()
        };
        let mut parts = parts;
        match self.copy_of(name).await {
            Err(error) => {
                let buffers = parts.into_iter().map(|part| part.buffer).collect();
                return Answer { outcome: ReadOutcome { buffers, result: Err(error) }, by_back: None };
            }
            Ok(Some(copy))
                if asked.iter().all(|(offset, len)| offset.saturating_add(*len as u64) <= copy.len) =>
            {
                let ReadOutcome { buffers, result } = self.front.read(name, parts).await;
                if matches!(&result, Ok(Some(meta)) if meta.len == copy.len) {
                    self.contents().hit();
                    return Answer {
                        outcome: ReadOutcome { buffers, result: Ok(Some(copy)) },
                        by_back: None,
                    };
                }
                self.forget(name).await;
                if buffers.len() != asked.len() {
                    let message =
                        format!("{} keeps the buffers of a read of {name}: read it again", self.front);
                    let result = Err(Error::new(ErrorKind::Unavailable, self, message));
                    return Answer { outcome: ReadOutcome { buffers, result }, by_back: None };
                }
                parts = whole(buffers);
            }
            Ok(_) => {}
        }
        self.contents().missed();
        let now = self.now();
        Answer { outcome: self.back.read(name, parts).await, by_back: Some(now) }
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl KvStore for Tiered {
    fn capabilities(&self) -> Capabilities {
        self.back.capabilities()
    }

    /// That of the store behind: without the tier it is slower and no less.
    fn health(&self) -> StoreHealth {
        self.back.health()
    }

    async fn idle(&self) {
        self.front.idle().await;
        self.back.idle().await;
    }

    async fn begin(&self, name: &ObjectName, len: u64) -> Result<Box<dyn Upload>> {
        self.begin_upload(name, len).await
    }

    async fn read(&self, name: &ObjectName, parts: Vec<ReadPart>) -> ReadOutcome {
        let offsets: Vec<u64> = parts.iter().map(|part| part.offset).collect();
        let Answer { outcome: ReadOutcome { mut buffers, result }, by_back } =
            self.read_either(name, parts).await;
        if let (Ok(Some(meta)), Some(asked)) = (&result, by_back) {
            buffers = self.fill(meta, &offsets, buffers, asked).await;
        }
        ReadOutcome { buffers, result }
    }

    // What passes is copied into the tier, and either of two stores may be the one that reads.
    fn calls_back_on_own_threads(&self) -> bool {
        false
    }

    async fn read_into(
        &self,
        name: &ObjectName,
        ranges: Vec<ByteRange>,
        buffers: Vec<HostBuf>,
        sink: Arc<dyn ReadSink>,
    ) -> Result<Option<ObjectMeta>> {
        let mut stream = Stream::new(buffers, &*sink);
        let (mut seen, mut filling): (Option<ObjectMeta>, Option<Filling>) = (None, None);
        let replaced = || {
            let message = format!("{name} was replaced while it was read: read it again");
            Error::new(ErrorKind::Unavailable, self, message)
        };
        let whole: u64 = ranges.iter().map(|range| range.len as u64).sum();
        let (mut first, mut asked_at) = (0, None);
        loop {
            let mut parts = Vec::new();
            for range in &ranges[first..] {
                if !stream.has_buffer() && !parts.is_empty() {
                    break;
                }
                parts.push(ReadPart { offset: range.offset, buffer: stream.buffer(self, *range)? });
            }
            let asked = parts.len();
            let Answer { outcome, by_back } = self.read_either(name, parts).await;
            let Some(meta) = outcome.result? else {
                return if seen.is_some() { Err(replaced()) } else { Ok(None) };
            };
            if outcome.buffers.len() != asked {
                let message = format!("{} of {asked} buffers came back from a read", outcome.buffers.len());
                return Err(Error::new(ErrorKind::Backend, self, message));
            }
            if seen.is_none() && by_back.is_some() && whole >= meta.len && !self.contents().has(name) {
                filling = Filling::begin(self, name, meta.len).await;
                asked_at = by_back;
            }
            if seen.get_or_insert_with(|| meta.clone()).version != meta.version {
                return Err(replaced());
            }
            for ((index, range), mut buffer) in ranges.iter().enumerate().skip(first).zip(outcome.buffers) {
                if let Some(filling) = &mut filling {
                    buffer = filling.put(range.offset, buffer).await;
                }
                if !stream.stopped() {
                    stream.filled(&meta, index, buffer);
                }
            }
            first += asked;
            if stream.stopped() || first >= ranges.len() {
                if let (Some(filling), Some(asked)) = (filling.filter(Filling::is_complete), asked_at) {
                    filling.keep(meta.version.clone(), asked).await;
                }
                return Ok(Some(meta));
            }
        }
    }

    async fn head(&self, name: &ObjectName) -> Result<Option<ObjectMeta>> {
        self.back.head(name).await
    }

    async fn list(
        &self,
        namespace: &NamespaceDigest,
        after: Option<&ObjectName>,
        limit: usize,
    ) -> Result<Vec<ObjectMeta>> {
        self.back.list(namespace, after, limit).await
    }

    async fn delete(&self, name: &ObjectName) -> Result<bool> {
        let deleted = self.back.delete(name).await;
        self.forget(name).await; // whatever came of it
        deleted
    }

    async fn quarantine(&self, name: &ObjectName, version: &Version) -> Result<bool> {
        let taken = self.back.quarantine(name, version).await;
        self.forget(name).await;
        taken
    }

    /// A copy in the tier may be what was bad: it is given up, and the store behind is read next.
    fn another_way(&self, name: &ObjectName, setback: Setback) -> bool {
        setback == Setback::Corrupt && self.contents().doom(name) || self.back.another_way(name, setback)
    }

    async fn create_record(&self, name: &RecordName, body: &[u8]) -> Result<Option<Version>> {
        self.back.create_record(name, body).await
    }

    async fn replace_record(
        &self,
        name: &RecordName,
        expected: &Version,
        body: &[u8],
    ) -> Result<Option<Version>> {
        self.back.replace_record(name, expected, body).await
    }

    async fn read_record(&self, name: &RecordName) -> Result<Option<Record>> {
        self.back.read_record(name).await
    }

    async fn delete_record(&self, name: &RecordName) -> Result<bool> {
        self.back.delete_record(name).await
    }
}
