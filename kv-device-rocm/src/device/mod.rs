//! The device: opening it, its staging, and taking charge of an engine's regions.

mod direction;
mod fence;
mod registered;

use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use kv_device::parts::TransferQueue;
use kv_device::{
    Device, DeviceCapabilities, DeviceInfo, DeviceRegion, Error, ErrorKind, Granularity, RegisteredMemory,
    Result, TransferCounts,
};
use kv_memory::{HostRegion, HugePages};

pub use fence::{EngineStream, RocmFence};

use crate::Sabotage;
use crate::hip::{Hip, Identity, Kind, PinnedRegion};
use crate::kernel;
use direction::Direction;
use registered::RocmRegistered;

/// Transfers of one direction that are under way at a time: one moves, one is queued behind it on the device.
const UNDER_WAY: usize = 2;

/// How to open a [`RocmDevice`].
#[derive(Debug, Clone, Default)]
pub struct RocmOptions {
    ordinal: u32,
    library: Option<PathBuf>,
    expected: Option<String>,
    queue_depth: Option<usize>,
    sabotage: Option<Sabotage>,
}

impl RocmOptions {
    /// The device with this number among those that the process sees.
    pub fn new(ordinal: u32) -> Self {
        Self { ordinal, ..Self::default() }
    }

    /// Loads this file instead of searching for HIP.
    #[must_use]
    pub fn library(mut self, file: impl Into<PathBuf>) -> Self {
        self.library = Some(file.into());
        self
    }

    /// Refuses a device with another instruction set than this, as "gfx942".
    #[must_use]
    pub fn expect_arch(mut self, arch: impl Into<String>) -> Self {
        self.expected = Some(arch.into());
        self
    }

    /// Transfers that may wait in the queue of one direction, 32 if it is not said; callers wait beyond it.
    #[must_use]
    pub fn queue_depth(mut self, transfers: usize) -> Self {
        self.queue_depth = Some(transfers);
        self
    }

    /// For tests: a backend that is wrong.
    #[cfg(feature = "sabotage")]
    #[doc(hidden)]
    #[must_use]
    pub fn sabotaged(mut self, sabotage: Sabotage) -> Self {
        self.sabotage = Some(sabotage);
        self
    }
}

/// An AMD accelerator, driven through HIP.
///
/// The threads end when the device and what was registered with it are gone.
#[derive(Debug)]
pub struct RocmDevice {
    info: DeviceInfo,
    identity: Identity,
    shared: Arc<Shared>,
}

/// What transfers need. The queues are declared first: their threads' last transfer holds what comes after.
#[derive(Debug)]
struct Shared {
    gather_queue: TransferQueue,
    scatter_queue: TransferQueue,
    gather: Arc<Direction>,
    scatter: Arc<Direction>,
    hip: Arc<Hip>,
    /// Why nothing can be waited for any more.
    lost: Arc<OnceLock<String>>,
}

impl RocmDevice {
    /// Opens a device of the HIP runtime that the process uses already, or that is installed.
    ///
    /// # Errors
    /// `Unavailable` naming what was tried if there is no HIP, no such device, or a version that is too old; `Unsupported` for a
    /// processor for which there are no kernels; `OutOfMemory`, `Vendor`.
    pub fn open(ordinal: u32) -> Result<Arc<Self>> {
        Self::open_with(RocmOptions::new(ordinal))
    }

    /// As [`open`](Self::open), with options.
    ///
    /// # Errors
    /// As [`open`](Self::open); `Unavailable` naming both sides if the device is not of the expected kind; `Invalid` for a queue depth
    /// of zero.
    pub fn open_with(options: RocmOptions) -> Result<Arc<Self>> {
        let RocmOptions { ordinal, library, expected, queue_depth, sabotage } = options;
        let hip = Hip::open(ordinal, library.as_deref(), sabotage)?;
        let identity = hip.identify()?;
        if let Some(expected) = expected.filter(|expected| *expected != identity.arch) {
            let message = format!(
                "Device type mismatch: expected {expected}, found {} ({identity}): change the configuration's device type, or run on a host with {expected}",
                identity.arch
            );
            return Err(Error::new(ErrorKind::Unavailable, &hip.label, message));
        }
        let (gather, scatter) = kernel::kernels(&hip, &identity.arch)?;
        let depth = queue_depth.unwrap_or(32);
        let queue = |direction| {
            let name = format!("rocm{ordinal}-{direction}");
            TransferQueue::start_ahead(&hip.label, &name, depth, UNDER_WAY)
        };
        let lost = Arc::new(OnceLock::new());
        let direction = |kernel, kind| Direction::new(&hip, kernel, kind, Arc::clone(&lost)).map(Arc::new);
        let shared = Shared {
            gather_queue: queue("gather")?,
            scatter_queue: queue("scatter")?,
            gather: direction(gather, Kind::DeviceToHost)?,
            scatter: direction(scatter, Kind::HostToDevice)?,
            lost,
            hip,
        };
        let info = DeviceInfo { kind: "rocm".into(), name: identity.name.clone(), ordinal };
        Ok(Arc::new(Self { info, identity, shared: Arc::new(shared) }))
    }

    /// What the device is, as the runtime said when it was opened.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// What was moved so far.
    pub fn counts(&self) -> TransferCounts {
        TransferCounts {
            gathered: self.shared.gather_queue.moved(),
            scattered: self.shared.scatter_queue.moved(),
        }
    }
}

impl fmt::Display for RocmDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shared.hip.label)
    }
}

impl Device for RocmDevice {
    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    fn capabilities(&self) -> DeviceCapabilities {
        DeviceCapabilities { granularity: Granularity::AnyRun, concurrency: UNDER_WAY + 1 }
    }

    fn allocate_staging(&self, bytes: usize) -> Result<Box<dyn HostRegion>> {
        let hip = &self.shared.hip;
        if hip.sabotage == Some(Sabotage::PageableStaging) {
            let pages = HugePages::allocate(bytes).map_err(|error| {
                Error::new(ErrorKind::OutOfMemory, &hip.label, "no huge pages").with_source(error)
            })?;
            return Ok(Box::new(pages));
        }
        Ok(Box::new(PinnedRegion::allocate(hip, bytes)?))
    }

    #[expect(unsafe_code, reason = "implements the contract")]
    unsafe fn register(&self, regions: Vec<DeviceRegion>) -> Result<Arc<dyn RegisteredMemory>> {
        let hip = &self.shared.hip;
        for (index, region) in regions.iter().enumerate() {
            if hip.sabotage == Some(Sabotage::SkipOwnerCheck) {
                break;
            }
            if let Some(objection) = hip.objection(region)? {
                let DeviceRegion { address, len } = region;
                let message = format!("region {index} ({len} bytes at {address:#x}) {objection}");
                return Err(Error::new(ErrorKind::Invalid, self, message));
            }
        }
        Ok(Arc::new(RocmRegistered::new(Arc::clone(&self.shared), regions)))
    }
}
