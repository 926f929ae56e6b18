//! A store on S3, and on whatever else implements [`ObjectStore`].
//!
//! ```text
//! <prefix>/v1/<namespace>/<2 hex>/<key>.<chunk>.<slice>   objects, immutable
//! <prefix>/v1/records/<kind>/<2 hex>/<digest>.<part>      records, replaced by If-Match
//! <prefix>/quarantine/                                    objects that failed verification
//! <prefix>/probe/                                         for a moment at open
//! ```
//!
//! An object is uploaded by one request that the server refuses if the name is taken, so it appears whole or not at all. Until then its
//! bytes wait in the store's staging ([`WriteOrder::Whole`]). An object that is larger than the staging is uploaded in parts, which the
//! server makes an object by one request that it refuses if the name is taken; only where the probe has shown that it does
//! ([`Conditions::parts`]), since `object_store` and many servers complete such uploads whatever the name holds.
//!
//! Unlike the other stores this one retries and sets deadlines, because what an HTTP request leaves behind when it fails is known here
//! and not above: see [`Retries`] and [`Deadlines`]. Requests run on threads of the store, each with its own connections.

mod adaptive;
mod body;
mod budget;
mod client;
#[cfg(any(feature = "gcs", feature = "azure"))]
mod clouds;
mod core;
mod credentials;
mod failure;
mod in_parts;
mod lanes;
mod listing;
#[cfg(feature = "nixl")]
mod nixl;
mod observe;
mod options;
mod probe;
mod publish;
mod read;
mod records;
mod settings;
mod staging;
mod staging_pool;
mod straight;
mod sweep;
mod tag;
mod targets;
mod upload;
mod windows;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use kv_format::{NamespaceDigest, ObjectName, RecordName};
use kv_memory::HostBuf;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use tokio::sync::oneshot;

use self::client::Clients;
use self::core::Core;
use self::failure::Failure;
use self::lanes::{Client, Lane, Lanes};
pub use self::options::{BodyChecksum, Deadlines, Retries, S3Options};
pub use self::probe::Conditions;
use self::settings::Settings;
use self::targets::{Sink, Slots};
use self::upload::S3Upload;
use crate::parts::record_fits;
use crate::{
    ByteRange, Capabilities, Error, ErrorKind, KvStore, ObjectMeta, ReadOutcome, ReadPart, ReadSink, Record,
    Result, Setback, StoreHealth, Upload, Version, WriteOrder,
};

/// Where objects go that failed verification.
const QUARANTINE: &str = "quarantine";

/// Objects and records in a bucket. Clones are handles to the same threads and connections.
#[derive(Debug, Clone)]
pub struct S3Store {
    core: Arc<Core>,
}

impl S3Store {
    /// Opens `s3://bucket/prefix?key=value&...`, and tries what the server can do with an object that it removes again.
    ///
    /// | key | meaning |
    /// |---|---|
    /// | `endpoint` | the server, `https://host:port`; default AWS |
    /// | `region` | default `us-east-1` |
    /// | `allow_http=true` | an endpoint without TLS |
    /// | `virtual_hosted=true` | the endpoint already contains the bucket |
    /// | `anonymous=true` | requests are not signed |
    /// | `checksum` | `crc64nvme` (default) or `none`: [`S3Options::checksum`] |
    /// | `concurrency`, `threads` | [`S3Options::concurrency`], [`S3Options::threads`] |
    /// | `staging_mib` | MiB of [`S3Options::staging`] |
    /// | `probe=false` | believe the server: [`S3Options::probe`] |
    ///
    /// What is not in the URL comes from the `AWS_*` variables that `object_store` knows (`AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`,
    /// `AWS_SESSION_TOKEN`, `AWS_REGION`, `AWS_ENDPOINT_URL`, `AWS_CA_BUNDLE`, those of roles and web identities). Secrets in a URL
    /// are refused.
    ///
    /// # Errors
    /// `Invalid` for a URL that makes no sense, a bucket that is not there or in another region; `PermissionDenied` for credentials that
    /// are wrong or may not write; `Unavailable` if nobody answers; `Unsupported` for a server that cannot do what a store needs.
    ///
    /// # Cancel safety
    /// A dropped call may leave an object of a few bytes under `probe/`.
    pub async fn open(url: &str, options: S3Options) -> Result<Self> {
        Self::open_with(&Arc::new(Settings::from_environment(url, options)?)).await
    }

    async fn open_with(settings: &Arc<Settings>) -> Result<Self> {
        let checksum = settings.options.checksum;
        match Self::connect(settings, checksum).await {
            // A server that does not know the header says so in one way or another; without it, the answer is clear.
            Err(error) if checksum != BodyChecksum::None && may_be_the_checksum(&error) => {
                Self::connect(settings, BodyChecksum::None).await
            }
            opened => opened,
        }
    }

    async fn connect(settings: &Arc<Settings>, checksum: BodyChecksum) -> Result<Self> {
        let shared = Arc::clone(settings);
        let prepare = move |_: &str| Self::prepare(&shared, checksum);
        let core = Self::prepared(settings.label.clone(), prepare).await?;
        let endpoint = settings.endpoint.as_deref().unwrap_or("AWS");
        let asked = format!("open the bucket {} at {endpoint}", settings.bucket);
        let store = Self::probed(core, settings.options.probe, asked).await?;
        if let Some(age) = settings.options.sweep_older_than
            && store.core.parts().is_ok()
        {
            store.sweep_in_background(age);
        }
        Ok(store)
    }

    /// Prepares connections on a thread of its own, since certificates and credentials are files.
    async fn prepared(
        label: String,
        prepare: impl FnOnce(&str) -> Result<Core> + Send + 'static,
    ) -> Result<Core> {
        let (sender, prepared) = oneshot::channel();
        let named = label.clone();
        let broken = |source: Box<dyn std::error::Error + Send + Sync>| {
            let message = format!("cannot prepare connections: {source}");
            Error::new(ErrorKind::Backend, &label, message).with_source(source)
        };
        let thread = std::thread::Builder::new().name("kv-s3-open".to_owned());
        let started = thread.spawn(move || drop(sender.send(prepare(&named))));
        started.map_err(|error| broken(error.into()))?;
        prepared.await.map_err(|error| broken(error.into()))?
    }

    fn prepare(settings: &Settings, checksum: BodyChecksum) -> Result<Core> {
        let options = &settings.options;
        let clients = Clients::new(settings)?;
        let lanes = Lanes::start(&settings.label, options.threads, || clients.connect(checksum))?;
        let (label, prefix) = (settings.label.clone(), settings.prefix.clone());
        Ok(Core::new(label, prefix, lanes, options, Some(clients.credentials), false))
    }

    /// A store over any other `ObjectStore`, with its objects beneath `prefix`; `label` names it in messages. It must keep
    /// metadata of users; retries and deadlines of its own should be off. Uploads are copied for it, since it may keep what it is given.
    ///
    /// ```
    /// use std::sync::Arc;
    /// use kv_storage::s3::{S3Options, S3Store};
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), kv_storage::Error> {
    /// let memory = Arc::new(object_store::memory::InMemory::new());
    /// let store = S3Store::over(memory, "in-memory", "kv", S3Options::default()).await?;
    /// assert!(store.conditions().create);
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// As [`open`](Self::open).
    ///
    /// # Cancel safety
    /// As [`open`](Self::open).
    pub async fn over(
        store: Arc<dyn ObjectStore>,
        label: &str,
        prefix: &str,
        options: S3Options,
    ) -> Result<Self> {
        let prefix = Path::parse(prefix).map_err(|error| {
            Error::new(ErrorKind::Invalid, label, format!("the prefix cannot be used: {error}"))
        })?;
        let connect = || Ok(Client { store: Arc::clone(&store), parts: None });
        let lanes = Lanes::start(label, options.threads, connect)?;
        let core = Core::new(label.to_owned(), prefix, lanes, &options, None, true);
        Self::probed(core, options.probe, "open the store".to_owned()).await
    }

    async fn probed(core: Core, probe: bool, asked: String) -> Result<Self> {
        let core = Arc::new(core);
        if probe {
            let found = core.run(move |core, lane| async move {
                core.probe(&lane).await.map_err(|failure| core.error(failure, &asked))
            });
            core.learned(found.await?);
        }
        Ok(Self { core })
    }

    /// Which conditions the server keeps to, as the probe found.
    pub fn conditions(&self) -> Conditions {
        self.core.conditions()
    }

    /// Requests that may wait for an answer at a time now: [`S3Options::concurrency`], or fewer since the server had too many.
    pub fn request_limit(&self) -> usize {
        self.core.limits.limit()
    }

    /// Aborts the uploads in parts beneath the prefix that were begun longer ago than `older_than` and that nobody completed, and says how
    /// many there were. Opening does it in the background ([`S3Options::sweep_older_than`]); a rule of the bucket
    /// (`AbortIncompleteMultipartUpload`) does it without anybody's help.
    ///
    /// # Errors
    /// `PermissionDenied` without the right to list uploads (`s3:ListBucketMultipartUploads`); otherwise as [`KvStore::list`].
    ///
    /// # Cancel safety
    /// A dropped call may have aborted some of them.
    pub async fn sweep(&self, older_than: Duration) -> Result<u64> {
        let swept = self.core.run(move |core, lane| async move {
            let swept = core.sweep_parts(&lane, older_than).await;
            swept.map_err(|failure| core.error(failure, "sweep uploads"))
        });
        swept.await
    }

    fn sweep_in_background(&self, older_than: Duration) {
        let (core, lane) = (Arc::clone(&self.core), self.core.lanes.pick().clone());
        let counted = core.admission.background();
        let runtime = lane.runtime.clone();
        runtime.spawn(async move {
            let _counted = counted;
            let _ = core.sweep_parts(&lane, older_than).await; // what it cannot list it leaves to the next
        });
    }

    async fn quarantine_object(
        core: Arc<Core>,
        lane: Lane,
        name: ObjectName,
        version: Version,
    ) -> Result<bool> {
        let text = name.to_string();
        let path = core.path(&text);
        let fail = |failure: Failure| core.error(failure, &format!("quarantine {name}"));
        let head = core.head(&lane, &path).await.map_err(fail)?;
        if head.is_none_or(|head| head.version != version) {
            return Ok(false);
        }
        let file = text.rsplit('/').next().unwrap_or_default();
        let place = core.path(&format!("{QUARANTINE}/{}.{file}.{}", name.namespace, core.mark()));
        let copied = core.attempts(core.deadlines.whole, || {
            let (store, from, to) = (Arc::clone(&lane.store), path.clone(), place.clone());
            async move { store.copy(&from, &to).await }
        });
        copied.await.result.map_err(fail)?;
        // The copy took its time: if the object was healed meanwhile it stays.
        let head = core.head(&lane, &path).await.map_err(fail)?;
        if head.is_none_or(|head| head.version != version) {
            core.remove(&lane, &place).await.map_err(fail)?;
            return Ok(false);
        }
        core.remove(&lane, &path).await.map_err(fail)
    }
}

/// Whether another attempt without a checksum is worth it: the server understood who asks, but not what.
fn may_be_the_checksum(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Unsupported | ErrorKind::Backend)
}

impl fmt::Display for S3Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.core.label)
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl KvStore for S3Store {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            write_order: WriteOrder::Whole,
            part_bytes: staging_pool::PART_BYTES,
            alignment: 1,
            concurrency: self.core.concurrency,
            atomic_create: self.core.conditions().create,
        }
    }

    fn health(&self) -> StoreHealth {
        self.core.admission.health()
    }

    async fn idle(&self) {
        self.core.admission.idle().await;
    }

    async fn begin(&self, name: &ObjectName, len: u64) -> Result<Box<dyn Upload>> {
        Ok(Box::new(S3Upload::begin(Arc::clone(&self.core), *name, len).await?))
    }

    async fn read(&self, name: &ObjectName, parts: Vec<ReadPart>) -> ReadOutcome {
        let name = *name;
        let (slots, ranges) = Slots::new(parts);
        let target = Arc::clone(&slots);
        let read =
            self.core.run(move |core, lane| core.read_ranges(lane, name, ranges, read::AT_A_TIME, target));
        let result = read.await;
        ReadOutcome { buffers: slots.take_all(), result }
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
    ) -> Result<Option<ObjectMeta>> {
        let name = *name;
        let at_a_time = buffers.len().clamp(1, read::AT_A_TIME);
        let target = Sink::new(&self.core.label, buffers, sink);
        self.core.run(move |core, lane| core.read_ranges(lane, name, ranges, at_a_time, target)).await
    }

    async fn head(&self, name: &ObjectName) -> Result<Option<ObjectMeta>> {
        let name = *name;
        let head = self.core.run(move |core, lane| async move {
            let head = core.head(&lane, &core.path(&name.to_string())).await;
            head.map_err(|failure| core.error(failure, &format!("look for {name}")))
        });
        Ok(head.await?.map(|head| ObjectMeta { name, len: head.len, version: head.version }))
    }

    async fn list(
        &self,
        namespace: &NamespaceDigest,
        after: Option<&ObjectName>,
        limit: usize,
    ) -> Result<Vec<ObjectMeta>> {
        let (namespace, after) = (*namespace, after.copied());
        self.core.run(move |core, lane| core.list_objects(lane, namespace, after, limit)).await
    }

    async fn delete(&self, name: &ObjectName) -> Result<bool> {
        self.remove(name.to_string()).await
    }

    async fn quarantine(&self, name: &ObjectName, version: &Version) -> Result<bool> {
        let (name, version) = (*name, version.clone());
        self.core.run(move |core, lane| Self::quarantine_object(core, lane, name, version)).await
    }

    fn another_way(&self, _: &ObjectName, _: Setback) -> bool {
        false
    }

    async fn create_record(&self, name: &RecordName, body: &[u8]) -> Result<Option<Version>> {
        record_fits(self, name, body)?;
        let (name, body) = (*name, body.to_vec());
        self.core.run(move |core, lane| core.create_record(lane, name, body)).await
    }

    async fn replace_record(
        &self,
        name: &RecordName,
        expected: &Version,
        body: &[u8],
    ) -> Result<Option<Version>> {
        record_fits(self, name, body)?;
        let (name, expected, body) = (*name, expected.clone(), body.to_vec());
        self.core.run(move |core, lane| core.replace_record(lane, name, expected, body)).await
    }

    async fn read_record(&self, name: &RecordName) -> Result<Option<Record>> {
        let name = *name;
        self.core.run(move |core, lane| core.read_record(lane, name)).await
    }

    async fn delete_record(&self, name: &RecordName) -> Result<bool> {
        self.remove(name.to_string()).await
    }
}

impl S3Store {
    async fn remove(&self, name: String) -> Result<bool> {
        let removed = self.core.run(move |core, lane| async move {
            let removed = core.remove(&lane, &core.path(&name)).await;
            removed.map_err(|failure| core.error(failure, &format!("remove {name}")))
        });
        removed.await
    }
}
