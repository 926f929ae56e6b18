//! A store on a directory of a local file system or an NFS mount.
//!
//! ```text
//! <root>/kvbridge-store                                        the marker: format, fan-out, modes
//! <root>/v1/<namespace>/<2 hex>/<key>.<chunk>.<slice>          objects, immutable
//! <root>/v1/<namespace>/<2 hex>/.kv-tmp.<host>.<pid>.<random>  on their way in
//! <root>/v1/records/<kind>/<2 hex>/<digest>.<part>             records, replaced by rename
//! <root>/quarantine/                                           objects that failed verification
//! ```
//!
//! A directory becomes a store by [`format`](PosixStore::format), once; a path that is mistyped or a disk that is not mounted is
//! refused and not filled.
//!
//! **By default every publication is flushed to the device** ([`FsyncPolicy::Durable`]); a cache that may be lost in a power cut
//! can choose a faster policy, and reads there what it gives up.
//!
//! Nothing beneath the root is ever reached through a symbolic link, and only regular files are opened, of our own owner (or, in group
//! mode, of the group) and under no second name.

mod crash;
mod directories;
mod fan_out;
mod files;
mod format;
mod io;
mod lookup;
mod marker;
mod mount;
mod names;
mod objects;
mod options;
mod probe;
mod publish;
mod reading;
mod records;
#[cfg(test)]
mod retransmission;
mod rights;
mod sweep;
mod temporary;
mod tree;

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use kv_format::{NamespaceDigest, ObjectName, RecordName};
use kv_memory::HostBuf;

pub use crash::CRASH_POINTS;
use io::Calls;
pub use io::{IoChoice, IoEngine};
pub use mount::{Mount, MountWarning};
use options::DEFAULT_THREADS;
pub use options::{FormatOptions, FsyncPolicy, Modes, PosixOptions};
use publish::{Mover, PosixUpload};
use tree::Tree;

use crate::parts::{Admission, CACHED_PART, Stream, Workers, record_fits};
use crate::{
    ByteRange, Capabilities, Error, ErrorKind, KvStore, ObjectMeta, ReadOutcome, ReadPart, ReadSink, Record,
    Result, Setback, StoreHealth, Upload, Version, WriteOrder,
};

/// Objects and records as files. Clones are handles to the same threads.
#[derive(Debug, Clone)]
pub struct PosixStore {
    tree: Arc<Tree>,
    workers: Arc<Workers>,
    admission: Admission,
    mover: Mover,
    choice: Arc<IoChoice>,
    threads: usize,
}

impl PosixStore {
    /// Opens the store in the formatted directory `root`, tries whether files can be created, published, read and removed there, and
    /// starts a sweep of old temporary files in the background.
    ///
    /// A full file system opens: it can still be read. So does the store of a group for those of it who may not write there.
    ///
    /// # Errors
    /// `Invalid` if `root` is no directory or was not formatted ([`format`](Self::format)), or for other modes than those of the options;
    /// `PermissionDenied` if it cannot be written, or could be by others; `Unsupported` for a format of another major version, if
    /// its file system can neither link nor rename without replacing, and if the options insist on an I/O engine that cannot be had;
    /// `Backend` for a damaged marker.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn open(root: &Path, options: PosixOptions) -> Result<Self> {
        let label = label(root)?;
        let admission = Admission::new(options.stranded_bound);
        let workers = Arc::new(Workers::new(label, DEFAULT_THREADS, options.queue, admission.clone()));
        let path = root.to_owned();
        let sweep_older_than = options.sweep_older_than;
        let open = move |workers: &mut Arc<Workers>| {
            let tree = Tree::open(&path, &options, workers)?;
            let threads = options.threads_on(tree.mount.as_ref());
            workers.set_threads(threads);
            let options = PosixOptions { threads: Some(threads), ..options };
            let (engine, choice) = io::choose(&tree, &options)?;
            Ok((tree, engine, choice, threads))
        };
        let (tree, engine, choice, threads) = workers.run(Arc::clone(&workers), open).await.1?;
        let calls = Arc::new(Calls::new(tree.to_string(), admission.clone(), engine.depth()));
        if let Some(age) = sweep_older_than {
            let tree = Arc::clone(&tree);
            workers.clean_up(move || {
                let _ = tree.sweep(age); // what it cannot remove it leaves to the next
            });
        }
        let mover = Mover { engine, calls };
        Ok(Self { tree, workers, admission, mover, choice: Arc::new(choice), threads })
    }

    /// Makes the existing, empty directory `root` a store, whose marker says what this version does; `false` if it was one already.
    /// Two processes that format it at once make one store.
    ///
    /// The directories of records, and of the namespaces that the options name, are made now.
    ///
    /// # Errors
    /// `Invalid` if `root` is no directory, is not empty, or is a store with other modes; otherwise as [`open`](Self::open), and `NoSpace`.
    ///
    /// # Cancel safety
    /// A dropped call goes on formatting.
    pub async fn format(root: &Path, options: FormatOptions) -> Result<bool> {
        let workers = Arc::new(Workers::new(label(root)?, 1, 1, Admission::new(1)));
        let path = root.to_owned();
        let format = move |workers: &mut Arc<Workers>| format::format(workers, &path, &options);
        workers.run(Arc::clone(&workers), format).await.1
    }

    /// The directory.
    pub fn root(&self) -> &Path {
        self.tree.path()
    }

    /// Whether the directory is on a network file system.
    pub fn is_network(&self) -> bool {
        self.tree.network()
    }

    /// The mount that the directory is on, as it was when the store was opened; `None` where `/proc` is not mounted.
    pub fn mount(&self) -> Option<&Mount> {
        self.tree.mount.as_ref()
    }

    /// What the mount's options cost or endanger, and what to change; print them where an operator looks.
    pub fn warnings(&self) -> Vec<MountWarning> {
        self.tree.mount.as_ref().map(Mount::warnings).unwrap_or_default()
    }

    /// What moves the bytes of objects here, and why that.
    pub fn io_engine(&self) -> &IoChoice {
        &self.choice
    }

    /// Flushes of files and directories so far (`fsync`); none unless the policy asks for them.
    pub fn flushes(&self) -> u64 {
        self.tree.flushes()
    }

    /// Removes temporary files that nobody wrote to for `older_than`, left by processes that died; how many there were.
    ///
    /// Choose an age far above the longest upload and the difference between the hosts' clocks.
    ///
    /// # Errors
    /// As [`KvStore::read`].
    ///
    /// # Cancel safety
    /// A dropped call goes on sweeping.
    pub async fn sweep(&self, older_than: Duration) -> Result<u64> {
        self.run(move |tree, _| tree.sweep(older_than)).await
    }

    /// Runs a blocking operation that holds no buffers.
    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Arc<Tree>, &Arc<Workers>) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let held = (Arc::clone(&self.tree), Arc::clone(&self.workers));
        let (_, result) = self.workers.run(held, move |(tree, workers)| work(tree, workers)).await;
        result
    }
}

/// What errors call the store.
fn label(root: &Path) -> Result<String> {
    let label = format!("posix:{}", root.display());
    if root.is_absolute() {
        return Ok(label);
    }
    let message = "expected an absolute path: what a relative one means changes with the working directory";
    Err(Error::new(ErrorKind::Invalid, label, message))
}

impl fmt::Display for PosixStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.tree.fmt(f)
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl KvStore for PosixStore {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            write_order: WriteOrder::Any,
            part_bytes: if self.mover.engine.depth() == 1 { CACHED_PART } else { 1 << 20 },
            alignment: 4096,
            concurrency: self.threads.max(self.mover.engine.depth()),
            atomic_create: true,
        }
    }

    fn health(&self) -> StoreHealth {
        self.admission.health()
    }

    async fn idle(&self) {
        self.admission.idle().await;
    }

    async fn begin(&self, name: &ObjectName, len: u64) -> Result<Box<dyn Upload>> {
        let (name, mover) = (*name, self.mover.clone());
        let upload =
            self.run(move |tree, workers| PosixUpload::begin(tree, workers, mover, &name, len)).await?;
        Ok(Box::new(upload))
    }

    async fn read(&self, name: &ObjectName, parts: Vec<ReadPart>) -> ReadOutcome {
        let (name, tree, engine) = (*name, Arc::clone(&self.tree), Arc::clone(&self.mover.engine));
        let work = move |parts: &mut Vec<ReadPart>| tree.read_object(&*engine, &name, parts);
        let (parts, result) = self.workers.run(parts, work).await;
        ReadOutcome { buffers: parts.into_iter().map(|part| part.buffer).collect(), result }
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
        let (name, tree, engine) = (*name, Arc::clone(&self.tree), Arc::clone(&self.mover.engine));
        let work = move |buffers: &mut Vec<HostBuf>| {
            let mut stream = Stream::new(std::mem::take(buffers), &*sink);
            tree.stream_object(&*engine, &name, &ranges, &mut stream)
        };
        self.workers.run(buffers, work).await.1
    }

    async fn head(&self, name: &ObjectName) -> Result<Option<ObjectMeta>> {
        let name = *name;
        self.run(move |tree, _| tree.head_object(&name)).await
    }

    async fn list(
        &self,
        namespace: &NamespaceDigest,
        after: Option<&ObjectName>,
        limit: usize,
    ) -> Result<Vec<ObjectMeta>> {
        let (namespace, after) = (*namespace, after.copied());
        self.run(move |tree, _| tree.list_objects(&namespace, after.as_ref(), limit)).await
    }

    async fn delete(&self, name: &ObjectName) -> Result<bool> {
        let path = name.to_string();
        self.run(move |tree, _| tree.delete_file(&path)).await
    }

    async fn quarantine(&self, name: &ObjectName, version: &Version) -> Result<bool> {
        let (name, version) = (*name, version.clone());
        self.run(move |tree, _| tree.quarantine_object(&name, &version)).await
    }

    fn another_way(&self, _: &ObjectName, _: Setback) -> bool {
        false
    }

    async fn create_record(&self, name: &RecordName, body: &[u8]) -> Result<Option<Version>> {
        record_fits(self, name, body)?;
        let (name, body) = (*name, body.to_vec());
        self.run(move |tree, workers| records::create(tree, workers, &name, &body)).await
    }

    async fn replace_record(
        &self,
        name: &RecordName,
        expected: &Version,
        body: &[u8],
    ) -> Result<Option<Version>> {
        record_fits(self, name, body)?;
        let (name, expected, body) = (*name, expected.clone(), body.to_vec());
        self.run(move |tree, workers| records::replace(tree, workers, &name, &expected, &body)).await
    }

    async fn read_record(&self, name: &RecordName) -> Result<Option<Record>> {
        let name = *name;
        self.run(move |tree, _| records::read(tree, &name)).await
    }

    async fn delete_record(&self, name: &RecordName) -> Result<bool> {
        let path = name.to_string();
        self.run(move |tree, _| tree.delete_file(&path)).await
    }
}
