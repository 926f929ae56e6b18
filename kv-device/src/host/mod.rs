//! A device that stands in for an accelerator on a host without one.

mod allocation;
mod directory;
mod fence;
mod memory;
mod registered;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use kv_memory::{HostRegion, HugePages};

pub use allocation::HostAllocation;
pub use fence::HostFence;

use crate::parts::TransferQueue;
use crate::{
    Device, DeviceCapabilities, DeviceInfo, DeviceRegion, Error, ErrorKind, Granularity, RegisteredMemory,
    Result, TransferCounts,
};
use directory::DeviceId;
use registered::HostRegistered;

/// How to open a [`HostDevice`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostDeviceOptions {
    /// Number of the device among the host devices of this process.
    pub ordinal: u32,
    /// Transfers that may wait in the queue of one direction; callers wait beyond it.
    pub queue_depth: usize,
    /// What the device claims to move: finer transfers are refused, as a DMA engine would.
    pub granularity: Granularity,
}

impl Default for HostDeviceOptions {
    fn default() -> Self {
        Self { ordinal: 0, queue_depth: 32, granularity: Granularity::AnyRun }
    }
}

/// An accelerator made of host memory and two threads, one per direction.
///
/// An engine on this host (a test, a CPU engine, a demonstration) allocates its KV memory with [`allocate`](Self::allocate).
/// The addresses that it registers cannot be touched by the host, so code that works here has not quietly skipped the device.
/// The threads end when the device and what was registered with it are gone.
#[derive(Debug)]
pub struct HostDevice {
    info: DeviceInfo,
    id: DeviceId,
    queues: Arc<Queues>,
}

/// The two threads, and what the device claims to move.
#[derive(Debug)]
struct Queues {
    gather: TransferQueue,
    scatter: TransferQueue,
    granularity: Granularity,
}

impl HostDevice {
    /// Opens a device.
    ///
    /// # Errors
    /// [`Invalid`](ErrorKind::Invalid) for a queue depth of zero, [`Unavailable`](ErrorKind::Unavailable) if the system gives no
    /// thread.
    pub fn new(options: HostDeviceOptions) -> Result<Arc<Self>> {
        static OPENED: AtomicU64 = AtomicU64::new(0);
        let HostDeviceOptions { ordinal, queue_depth, granularity } = options;
        let label = format!("host:{ordinal}");
        let start =
            |direction| TransferQueue::start(&label, &format!("host{ordinal}-{direction}"), queue_depth);
        let queues = Arc::new(Queues { gather: start("gather")?, scatter: start("scatter")?, granularity });
        Ok(Arc::new(Self {
            info: DeviceInfo { kind: "host".into(), name: "host memory".into(), ordinal },
            id: DeviceId { serial: OPENED.fetch_add(1, Ordering::Relaxed), label },
            queues,
        }))
    }

    /// Allocates zeroed device memory for an engine.
    ///
    /// # Errors
    /// [`Invalid`](ErrorKind::Invalid) for zero bytes, [`OutOfMemory`](ErrorKind::OutOfMemory) if the system refuses.
    pub fn allocate(&self, bytes: usize) -> Result<HostAllocation> {
        HostAllocation::new(bytes, &self.id)
    }

    /// What was moved so far.
    pub fn counts(&self) -> TransferCounts {
        TransferCounts { gathered: self.queues.gather.moved(), scattered: self.queues.scatter.moved() }
    }

    /// A fence that the engine signals.
    pub fn fence(&self) -> Arc<HostFence> {
        HostFence::new(self)
    }
}

impl fmt::Display for HostDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.id.label)
    }
}

impl Device for HostDevice {
    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    fn capabilities(&self) -> DeviceCapabilities {
        DeviceCapabilities {
            granularity: self.queues.granularity,
            concurrency: 2, // one moves, one is ready to
        }
    }

    fn allocate_staging(&self, bytes: usize) -> Result<Box<dyn HostRegion>> {
        Ok(Box::new(staging(self, bytes)?))
    }

    #[expect(unsafe_code, reason = "implements the contract; it keeps what it registers mapped itself")]
    unsafe fn register(&self, regions: Vec<DeviceRegion>) -> Result<Arc<dyn RegisteredMemory>> {
        let mut views = Vec::with_capacity(regions.len());
        for (index, region) in regions.iter().enumerate() {
            let view = directory::find(*region, &self.id).map_err(|whose| {
                let DeviceRegion { address, len } = region;
                let message = format!("region {index} ({len} bytes at {address:#x}) {whose}");
                Error::new(ErrorKind::Invalid, self, message)
            })?;
            views.push(view);
        }
        Ok(Arc::new(HostRegistered::new(&self.id.label, Arc::clone(&self.queues), regions, views)))
    }
}

/// Huge pages of the host, with the error of this crate.
pub(crate) fn staging(device: &impl fmt::Display, bytes: usize) -> Result<HugePages> {
    HugePages::allocate(bytes).map_err(|error| {
        let kind = match error.kind() {
            kv_memory::ErrorKind::OutOfMemory => ErrorKind::OutOfMemory,
            _ => ErrorKind::Invalid,
        };
        Error::new(kind, device, format!("cannot allocate {bytes} bytes of staging")).with_source(error)
    })
}
