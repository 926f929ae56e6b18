//! Objects in a bucket, read through NIXL's plugin OBJ.
//!
//! The plugin uploads without a condition, without metadata, and only what lies in one piece: none of the S3 store's promises about
//! publication could be kept. So it reads, and everything else is the S3 store's.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use kv_format::{NamespaceDigest, ObjectName, RecordName};
use kv_memory::{HostBuf, StagingPool};
use tokio::sync::oneshot;

use super::{Failed, Nixl, NixlOptions, Target, Transfer, Wanted, Way};
use crate::parts::{Ticket, out_of_range};
use crate::s3::{S3Options, S3Store};
use crate::streaming::read_in_turns;
use crate::{
    ByteRange, Capabilities, Error, ErrorKind, KvStore, ObjectMeta, ReadOutcome, ReadPart, ReadSink, Record,
    Result, Setback, StoreHealth, Upload, Version,
};

/// An [`S3Store`] whose objects NIXL reads. Clones are handles to the same threads and connections.
#[derive(Debug, Clone)]
pub struct NixlObjStore {
    s3: S3Store,
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    label: String,
    nixl: Nixl,
    /// Objects of transfers so far: the plugin knows them by number.
    numbers: AtomicU64,
    redone: AtomicU64,
}

impl NixlObjStore {
    /// Opens `nixl+obj://bucket/prefix?key=value&...`, with the keys of [`S3Store::open`] but for `virtual_hosted` and `anonymous`, and
    /// starts the plugin OBJ. `staging` is memory that is registered with it once.
    ///
    /// NIXL has the credentials from the `AWS_*` variables or the role, and renews them itself; those that the options provide it is given
    /// as they are now.
    ///
    /// # Errors
    /// As [`S3Store::open`]; `Unsupported` if there is no NIXL 1.5.0 or newer, or its plugin does not start, with
    /// [`Missing`](super::Missing) as the source.
    ///
    /// # Cancel safety
    /// As [`S3Store::open`].
    pub async fn open(
        url: &str,
        s3: S3Options,
        nixl: NixlOptions,
        staging: Option<&StagingPool>,
    ) -> Result<Self> {
        let Some(place) = url.strip_prefix("nixl+obj://") else {
            return Err(Error::new(ErrorKind::Invalid, url, "expected nixl+obj://bucket/prefix"));
        };
        let seed = s3.environment.entropy.next_u64();
        let (s3, parameters) = S3Store::open_for_nixl(&format!("s3://{place}"), s3).await?;
        let label = format!("nixl+obj{}", s3.to_string().trim_start_matches("s3"));
        let staging = staging.cloned();
        let (sender, started) = oneshot::channel();
        let start = move || {
            let parameters: Vec<_> = parameters.iter().map(|(key, value)| (*key, value.as_str())).collect();
            let wanted = Wanted {
                plugin: "OBJ",
                parameters: &parameters,
                staging: staging.as_ref(),
                transfers: usize::MAX,
                threads: 1,
                seed,
            };
            drop(sender.send(Nixl::start(&nixl, &wanted)));
        };
        let broken = |source: Box<dyn std::error::Error + Send + Sync>| {
            Error::new(ErrorKind::Backend, &label, format!("cannot start NIXL: {source}")).with_source(source)
        };
        // Libraries are files: they are loaded on a thread of its own.
        let thread = std::thread::Builder::new().name("kv-nixl-open".to_owned());
        thread.spawn(start).map_err(|error| broken(error.into()))?;
        let nixl = started.await.map_err(|error| broken(error.into()))?.map_err(|missing| {
            let message = format!("NIXL was asked for, and cannot be had: {missing}; or ask for s3://");
            Error::new(ErrorKind::Unsupported, &label, message).with_source(missing)
        })?;
        let (numbers, redone) = (AtomicU64::new(1), AtomicU64::new(0));
        Ok(Self { s3, inner: Arc::new(Inner { label, nixl, numbers, redone }) })
    }

    /// Reads so far in which NIXL failed, or called done what had not all arrived, and which the S3 store made again. They have the right
    /// bytes or the right error; more than a few say that NIXL is of no use here, and its log on stderr says why.
    pub fn redone(&self) -> u64 {
        self.inner.redone.load(Ordering::Relaxed)
    }

    /// Fills the parts through NIXL, whatever the object is by then; all of them come back.
    async fn fill(&self, name: &ObjectName, parts: Vec<ReadPart>) -> Result<(Vec<ReadPart>, bool), Filling> {
        let (ticket, caller) = match self.s3.admission().admit(self) {
            Ok(admitted) => admitted,
            Err(error) => return Err(Filling { parts, error }),
        };
        let ticket = Arc::new(ticket);
        let key: Arc<str> = self.s3.key(name).into();
        let mut answers = Vec::new();
        for ReadPart { offset, buffer } in parts {
            let (sender, answer) = oneshot::channel();
            let ticket = Arc::clone(&ticket);
            let number = self.inner.numbers.fetch_add(1, Ordering::Relaxed);
            self.inner.nixl.submit(Transfer {
                target: Target::Object { key: Arc::clone(&key), number },
                way: Way::In,
                offset,
                buffer,
                done: Box::new(move |buffer, moved| settle(sender, ticket, buffer, moved)),
            });
            answers.push((offset, answer));
        }
        drop(ticket);
        let (mut parts, mut whole) = (Vec::new(), true);
        for (offset, answer) in answers {
            match answer.await {
                Ok((buffer, moved)) => {
                    whole &= moved.is_ok();
                    parts.push(ReadPart { offset, buffer });
                }
                // A poller that cannot answer keeps the buffer and the answer for good.
                Err(_) => unreachable!("a poller answers every transfer"),
            }
        }
        caller.received();
        Ok((parts, whole))
    }
}

/// Parts that nothing was done with.
struct Filling {
    parts: Vec<ReadPart>,
    error: Error,
}

/// Answers a transfer. A buffer that nobody waits for is back in its pool before the transfer counts as ended.
fn settle(
    sender: oneshot::Sender<(HostBuf, Result<(), Failed>)>,
    ticket: Arc<Ticket>,
    buffer: HostBuf,
    moved: Result<(), Failed>,
) {
    drop(sender.send((buffer, moved)));
    drop(ticket);
}

fn outcome(parts: Vec<ReadPart>, result: Result<Option<ObjectMeta>>) -> ReadOutcome {
    ReadOutcome { buffers: parts.into_iter().map(|part| part.buffer).collect(), result }
}

impl fmt::Display for NixlObjStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.inner.label)
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl KvStore for NixlObjStore {
    fn capabilities(&self) -> Capabilities {
        self.s3.capabilities()
    }

    fn health(&self) -> StoreHealth {
        self.s3.health()
    }

    async fn idle(&self) {
        self.s3.idle().await;
    }

    async fn begin(&self, name: &ObjectName, len: u64) -> Result<Box<dyn Upload>> {
        self.s3.begin(name, len).await
    }

    async fn read(&self, name: &ObjectName, parts: Vec<ReadPart>) -> ReadOutcome {
        // NIXL reads what the name holds at that moment; that it was one version the whole time is known if it is the same before and after:
        // no version comes twice.
        let before = match self.s3.head(name).await {
            Ok(Some(meta)) => meta,
            other => return outcome(parts, other),
        };
        let behind = |part: &&ReadPart| {
            part.offset.checked_add(part.buffer.len() as u64).is_none_or(|end| end > before.len)
        };
        if let Some(part) = parts.iter().find(behind) {
            let error = out_of_range(self, name, (part.offset, part.buffer.len()), before.len);
            return outcome(parts, Err(error));
        }
        let (parts, whole) = match self.fill(name, parts).await {
            Ok(filled) => filled,
            Err(Filling { parts, error }) => return outcome(parts, Err(error)),
        };
        if !whole {
            self.inner.redone.fetch_add(1, Ordering::Relaxed);
            return self.s3.read(name, parts).await;
        }
        let result = match self.s3.head(name).await {
            Ok(Some(after)) if after.version == before.version => Ok(Some(before)),
            Ok(_) => {
                let message = format!("{name} was replaced or removed while it was read: read it again");
                Err(Error::new(ErrorKind::Unavailable, self, message))
            }
            Err(error) => Err(error),
        };
        outcome(parts, result)
    }

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
        read_in_turns(self, name, ranges, buffers, sink).await
    }

    async fn head(&self, name: &ObjectName) -> Result<Option<ObjectMeta>> {
        self.s3.head(name).await
    }

    async fn list(
        &self,
        namespace: &NamespaceDigest,
        after: Option<&ObjectName>,
        limit: usize,
    ) -> Result<Vec<ObjectMeta>> {
        self.s3.list(namespace, after, limit).await
    }

    async fn delete(&self, name: &ObjectName) -> Result<bool> {
        self.s3.delete(name).await
    }

    async fn quarantine(&self, name: &ObjectName, version: &Version) -> Result<bool> {
        self.s3.quarantine(name, version).await
    }

    fn another_way(&self, name: &ObjectName, setback: Setback) -> bool {
        self.s3.another_way(name, setback)
    }

    async fn create_record(&self, name: &RecordName, body: &[u8]) -> Result<Option<Version>> {
        self.s3.create_record(name, body).await
    }

    async fn replace_record(
        &self,
        name: &RecordName,
        expected: &Version,
        body: &[u8],
    ) -> Result<Option<Version>> {
        self.s3.replace_record(name, expected, body).await
    }

    async fn read_record(&self, name: &RecordName) -> Result<Option<Record>> {
        self.s3.read_record(name).await
    }

    async fn delete_record(&self, name: &RecordName) -> Result<bool> {
        self.s3.delete_record(name).await
    }
}
