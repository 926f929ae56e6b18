//! One store over several data paths to the same namespace: NFS mounts or virtual IPs, S3 endpoints, NIXL.
//!
//! A VAST cluster shows one namespace through many addresses and two protocols. One path is one link's worth of speed and one thing
//! that can fail; together they are the cluster. So the paths stand behind one store, which spreads objects over them, goes on by
//! another when one fails in the middle, and takes one back that works again. Paths are *views of one namespace, not replicas*: what
//! is written by one is read by all, and every object, record, quarantine and deletion exists once.

mod by_another;
#[cfg(feature = "vast")]
mod clusters;
mod identity;
mod path;
mod read;
mod records;
mod setbacks;
#[cfg(feature = "vast")]
mod settings;
mod sink;
mod store;
mod upload;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use kv_memory::{HostBuf, StagingPool};

#[cfg(feature = "vast")]
pub use clusters::{CLUSTERS_VARIABLE, Cluster, ClusterPath, Clusters, Opened};
use path::Path;
use setbacks::Setbacks;
#[cfg(feature = "vast")]
pub use settings::{StorageBackend, StorageConfig, StorageType};

use crate::env::Environment;
use crate::health::History;
use crate::{Error, ErrorKind, GateOptions, HealthGate, KvStore, Operation, Result, StoreHealth};

/// Most paths of one store.
pub const MAX_PATHS: usize = 64;

/// Several paths to one namespace as one store. Clones share what they know of the paths.
///
/// ```
/// use std::sync::Arc;
/// use kv_storage::{KvStore, MemoryStore, Vast, VastOptions, VastPath};
/// # fn main() -> kv_storage::Result<()> {
/// let namespace = MemoryStore::new(); // two mounts of one export would be two `PosixStore`s
/// let path = || VastPath::new("nfs", Arc::new(namespace.clone()));
/// let store = Vast::new("vast-cluster", vec![path(), path()], VastOptions::default())?;
/// assert_eq!(store.paths().len(), 2);
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Vast {
    shared: Arc<Shared>,
}

struct Shared {
    name: String,
    paths: Vec<Path>,
    /// In the order in which they were first named. The first writes objects, and is asked for versions and listings, while it answers.
    kinds: Vec<String>,
    /// Which of them keeps records, while it answers.
    records: usize,
    setbacks: Setbacks,
    spare: Option<StagingPool>,
    environment: Environment,
}

/// One way to the namespace.
#[derive(Debug, Clone)]
pub struct VastPath {
    kind: String,
    store: Arc<dyn KvStore>,
}

/// When a [`Vast`] gives a path up, and what it reads into when a path keeps its buffers.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct VastOptions {
    /// Deadline and probes of each path. Default: calls 10 s, three failures mark a path down, probes every 1 to 4 s, three good ones
    /// in a row bring it back: within 15 s of working again, where a probe takes no longer than a second.
    pub gate: GateOptions,
    /// Where the memory comes from that replaces buffers which a path keeps. `None`: memory of its own, which no device has pinned.
    pub spare: Option<StagingPool>,
    /// The kind of paths that keeps records, the same in every process. `None`: the first path's.
    pub records: Option<String>,
}

/// One path at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct PathState {
    /// What it goes to.
    pub store: String,
    /// Its kind.
    pub kind: String,
    /// Whether it is up.
    pub health: StoreHealth,
    /// How often it went down and came back.
    pub history: History,
    /// Bytes of reads and uploads on their way.
    pub in_flight_bytes: u64,
    /// Bytes that it has moved.
    pub moved_bytes: u64,
    /// Transfers that were begun here and ended by another path.
    pub failed_over: u64,
    /// Objects that were read here and failed verification.
    pub doubted: u64,
}

impl VastPath {
    /// A path to `store`. Paths of one `kind` show one object with one [`Version`](crate::Version), as two mounts of one export do; an
    /// NFS mount and an S3 endpoint do not, so they have different kinds. A kind has no colon in it.
    pub fn new(kind: impl Into<String>, store: Arc<dyn KvStore>) -> Self {
        Self { kind: kind.into(), store }
    }
}

impl Default for VastOptions {
    fn default() -> Self {
        let second = Duration::from_secs(1);
        let gate = GateOptions::default().deadline(Some(10 * second)).failures(3);
        Self {
            gate: gate.probe_deadline(5 * second).intervals(second, 4 * second),
            spare: None,
            records: None,
        }
    }
}

impl VastOptions {
    /// Sets deadline and probes of each path, and the clock.
    #[must_use]
    pub fn gate(mut self, gate: GateOptions) -> Self {
        self.gate = gate;
        self
    }

    /// Sets where the memory comes from that replaces buffers which a path keeps.
    #[must_use]
    pub fn spare(mut self, pool: StagingPool) -> Self {
        self.spare = Some(pool);
        self
    }

    /// Sets the kind of paths that keeps records.
    #[must_use]
    pub fn records(mut self, kind: impl Into<String>) -> Self {
        self.records = Some(kind.into());
        self
    }
}

impl Vast {
    /// A store over `paths`, each behind a [`HealthGate`]; `name` stands in messages.
    ///
    /// # Errors
    /// `Invalid` without paths, with more than [`MAX_PATHS`], for a kind with a colon, or if no path is of the kind that keeps records.
    pub fn new(name: impl Into<String>, paths: Vec<VastPath>, options: VastOptions) -> Result<Self> {
        let label = format!("vast:{}", name.into());
        let invalid = |message: String| Err(Error::new(ErrorKind::Invalid, &label, message));
        if paths.is_empty() || paths.len() > MAX_PATHS {
            return invalid(format!("{} paths: expected 1 to {MAX_PATHS}", paths.len()));
        }
        let mut kinds: Vec<String> = Vec::new();
        let mut gated = Vec::new();
        for (number, VastPath { kind, store }) in paths.into_iter().enumerate() {
            if kind.contains(':') {
                return invalid(format!(
                    "the kind {kind:?} of path {number}: expected a name without a colon"
                ));
            }
            let known = kinds.iter().position(|known| *known == kind);
            let kind = known.unwrap_or_else(|| {
                kinds.push(kind);
                kinds.len() - 1
            });
            gated.push(Path::new(number, kind, HealthGate::new(store, options.gate.clone())));
        }
        let VastOptions { gate, spare, records } = options;
        let records = match records {
            None => 0,
            Some(wanted) => match kinds.iter().position(|kind| *kind == wanted) {
                Some(kind) => kind,
                None => {
                    return invalid(format!(
                        "no path of the kind {wanted:?}, which keeps records: the kinds are {kinds:?}"
                    ));
                }
            },
        };
        let environment = gate.environment;
        let setbacks = Setbacks::default();
        let shared = Shared { name: label, paths: gated, kinds, records, setbacks, spare, environment };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// The paths now.
    pub fn paths(&self) -> Vec<PathState> {
        let state = |path: &Path| path.state(self.shared.kinds[path.kind].clone());
        self.shared.paths.iter().map(state).collect()
    }

    fn now(&self) -> Duration {
        self.shared.environment.clock.now()
    }

    /// Memory in place of a buffer of that capacity which a path keeps.
    fn spare(&self, len: usize, capacity: usize) -> Result<HostBuf> {
        let lent = self.shared.spare.as_ref().and_then(StagingPool::try_acquire);
        let lent = lent.filter(|buffer| buffer.capacity() >= capacity);
        let none = |error: kv_memory::Error| {
            let message = format!("no memory to go on by another path: {error}");
            Error::new(ErrorKind::Unavailable, self, message)
        };
        let mut buffer = lent.map_or_else(|| HostBuf::allocate(capacity.max(1)), Ok).map_err(none)?;
        buffer.set_len(len).map_err(none)?;
        Ok(buffer)
    }

    /// The error when no path is left to ask: the last one's answer, or why none was asked.
    fn exhausted(&self, operation: Operation, last: Option<Error>) -> Error {
        let mut down = self.shared.paths.iter().filter(|path| path.gate.health().down).count();
        let all = self.shared.paths.len();
        match last {
            Some(error) if all == 1 => error,
            Some(error) => {
                down = down.min(all);
                let message = format!(
                    "no path is left for {operation}, {down} of {all} are down; the last said: {error}"
                );
                Error::new(error.kind(), self, message).with_source(error)
            }
            None => {
                let message = format!(
                    "no path is left for {operation}: {down} of {all} are marked down; try again later"
                );
                Error::new(ErrorKind::Unavailable, self, message)
            }
        }
    }
}

/// Whether another path may answer where this one failed. A full namespace is full by every path, and a mistake stays one.
fn may_differ(error: &Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::Unavailable | ErrorKind::Backend | ErrorKind::PermissionDenied | ErrorKind::OutOfRange
    )
}

impl fmt::Display for Vast {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shared.name)
    }
}

impl fmt::Debug for Vast {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Vast")
            .field("name", &self.shared.name)
            .field("paths", &self.paths())
            .finish_non_exhaustive()
    }
}
