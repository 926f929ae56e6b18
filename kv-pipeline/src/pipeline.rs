//! The pipeline of one rank: a device, a store, a namespace, and a fixed amount of staging memory between them.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use kv_device::Device;
use kv_format::{HEADER_PAGE, Namespace, ObjectLayout, PRODUCER_BYTES};
use kv_memory::{PoolUsage, StagingPool};
use kv_storage::env::Environment;
use kv_storage::{KvStore, StoreHealth};
use tokio::runtime::Handle;

use crate::stats::Counters;
use crate::{Consumer, Error, Producer, Result, Stats};

/// Staging memory unless the builder says otherwise: 256 MiB.
pub const DEFAULT_STAGING_BYTES: usize = 256 << 20;

/// Size of a staging part unless the builder says otherwise or a section is longer: 2 MiB, small enough for caches between copy, checksum
/// and I/O, and as large as the pages of a huge-page tmpfs, which it zeroes unless a write fills them.
pub const DEFAULT_PART_BYTES: usize = 2 << 20;

/// How long a device may hold the engine's blocks beyond a deadline before it is given up on.
const DEVICE_GRACE: Duration = Duration::from_secs(30);

/// Joins one rank's device with a store. Cheap to clone; clones share everything.
///
/// Ranks share only the store: each has a pipeline of its own, in a process of its own or not.
#[derive(Clone)]
pub struct Pipeline {
    pub(crate) core: Arc<Core>,
}

/// What producers, consumers and their tasks share.
pub(crate) struct Core {
    pub(crate) namespace: Namespace,
    pub(crate) device: Arc<dyn Device>,
    pub(crate) store: Arc<dyn KvStore>,
    pub(crate) pool: StagingPool,
    pub(crate) environment: Environment,
    pub(crate) runtime: Handle,
    pub(crate) producer_name: String,
    pub(crate) device_grace: Duration,
    pub(crate) counters: Counters,
}

/// Collects the components and settings of a [`Pipeline`].
#[derive(Debug)]
#[must_use]
pub struct PipelineBuilder {
    namespace: Namespace,
    device: Option<Arc<dyn Device>>,
    store: Option<Arc<dyn KvStore>>,
    staging_bytes: usize,
    part_bytes: Option<usize>,
    environment: Environment,
    producer_name: String,
    device_grace: Duration,
}

impl Pipeline {
    /// Starts a pipeline for what the namespace describes.
    pub fn builder(namespace: Namespace) -> PipelineBuilder {
        PipelineBuilder {
            namespace,
            device: None,
            store: None,
            staging_bytes: DEFAULT_STAGING_BYTES,
            part_bytes: None,
            environment: Environment::default(),
            producer_name: concat!("kvbridge ", env!("CARGO_PKG_VERSION")).to_owned(),
            device_grace: DEVICE_GRACE,
        }
    }

    /// The role `kv_producer`: saves, and hands requests over.
    pub fn producer(&self) -> Producer {
        Producer { core: Arc::clone(&self.core) }
    }

    /// The role `kv_consumer`: looks up, waits for requests, loads.
    pub fn consumer(&self) -> Consumer {
        Consumer { core: Arc::clone(&self.core) }
    }

    /// What this pipeline has done.
    pub fn stats(&self) -> Stats {
        self.core.counters.snapshot()
    }

    /// How much staging memory is in use.
    pub fn staging(&self) -> PoolUsage {
        self.core.pool.usage()
    }

    /// The store's state, including operations that hang in it.
    pub fn store_health(&self) -> StoreHealth {
        self.core.store.health()
    }

    /// The namespace.
    pub fn namespace(&self) -> &Namespace {
        &self.core.namespace
    }
}

impl PipelineBuilder {
    /// The accelerator. Required.
    pub fn device(mut self, device: Arc<dyn Device>) -> Self {
        self.device = Some(device);
        self
    }

    /// The store. Required.
    pub fn store(mut self, store: Arc<dyn KvStore>) -> Self {
        self.store = Some(store);
        self
    }

    /// All the staging memory that this pipeline uses, in bytes, whatever the context length.
    pub fn staging_bytes(mut self, bytes: usize) -> Self {
        self.staging_bytes = bytes;
        self
    }

    /// Size of one staging part in bytes, a multiple of 4096. No section may be longer. Unless given: 2 MiB, or the longest section if
    /// that is longer.
    pub fn part_bytes(mut self, bytes: usize) -> Self {
        self.part_bytes = Some(bytes);
        self
    }

    /// Clock, randomness and crash points; the system's unless given.
    pub fn environment(mut self, environment: Environment) -> Self {
        self.environment = environment;
        self
    }

    /// Who writes, for people who inspect an object: at most 64 bytes.
    pub fn producer_name(mut self, name: impl Into<String>) -> Self {
        self.producer_name = name.into();
        self
    }

    /// How long a device may hold the engine's blocks beyond a deadline before the operation fails with
    /// [`Device`](crate::ErrorKind::Device); 30 s unless given.
    pub fn device_grace(mut self, grace: Duration) -> Self {
        self.device_grace = grace;
        self
    }

    /// Allocates the staging memory and checks that everything fits. Call it within the tokio runtime that is to run the
    /// operations.
    ///
    /// # Errors
    /// [`Invalid`](crate::ErrorKind::Invalid) if a component is missing, there is no runtime, or the staging holds fewer than two
    /// parts or parts too small for a section of this namespace; [`Device`](crate::ErrorKind::Device) if the device has no memory.
    pub fn build(self) -> Result<Pipeline> {
        let missing = |what| Error::invalid(format!("the pipeline has no {what}: give one to the builder"));
        let device = self.device.ok_or_else(|| missing("device"))?;
        let store = self.store.ok_or_else(|| missing("store"))?;
        let runtime =
            Handle::try_current().map_err(|_| missing("tokio runtime (call build() inside one)"))?;
        if self.producer_name.len() > PRODUCER_BYTES || self.producer_name.contains('\0') {
            return Err(Error::invalid(format!(
                "producer name {:?}: at most {PRODUCER_BYTES} bytes and no NUL",
                self.producer_name
            )));
        }
        let longest = longest_piece(&self.namespace)?;
        let shortest = usize::try_from(longest.next_multiple_of(HEADER_PAGE as u64)).unwrap_or(usize::MAX);
        let part_bytes = self.part_bytes.unwrap_or(shortest.max(DEFAULT_PART_BYTES));
        if longest > part_bytes as u64 {
            return Err(Error::invalid(format!(
                "staging parts of {part_bytes} bytes cannot hold a section of {longest} bytes: give part_bytes({shortest}) or more"
            )));
        }
        if self.staging_bytes / part_bytes < 2 {
            return Err(Error::invalid(format!(
                "{} bytes of staging hold fewer than two parts of {part_bytes} bytes",
                self.staging_bytes
            )));
        }
        let pool = StagingPool::from_boxed(device.allocate_staging(self.staging_bytes)?, part_bytes)?;
        Ok(Pipeline {
            core: Arc::new(Core {
                namespace: self.namespace,
                device,
                store,
                pool,
                environment: self.environment,
                runtime,
                producer_name: self.producer_name,
                device_grace: self.device_grace,
                counters: Counters::default(),
            }),
        })
    }
}

/// Bytes of the longest header or section of a full chunk.
fn longest_piece(namespace: &Namespace) -> Result<u64> {
    let mut longest = 0;
    for slice in namespace.slices().slices() {
        let layout = ObjectLayout::new(namespace, slice, namespace.chunk_tokens())?;
        let sections = layout.sections.iter().map(|section| section.len).max().unwrap_or(0);
        longest = longest.max(sections).max(layout.header_len);
    }
    Ok(longest)
}

impl fmt::Debug for Core {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Core")
            .field("device", &self.device)
            .field("store", &self.store)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Pipeline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pipeline")
            .field("namespace", &self.core.namespace.digest())
            .field("device", &self.core.device)
            .field("store", &self.core.store)
            .field("staging", &self.core.pool)
            .finish_non_exhaustive()
    }
}
