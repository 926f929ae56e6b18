//! A device that moves nothing: to measure everything but the device, and to test the host path.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use kv_format::Transfer;
use kv_memory::{HostBuf, HostRegion};

use crate::host::staging;
use crate::parts::{InFlight, TransferQueue, check_bounds};
use crate::{
    Device, DeviceCapabilities, DeviceInfo, DeviceRegion, Granularity, RegisteredMemory, Result,
    TransferRequest,
};

/// Transfers that may wait in the queue of one direction.
const QUEUE_DEPTH: usize = 32;

/// A device without memory. A gather leaves the buffer as it is, a scatter discards it.
///
/// It accepts any region, and keeps the rest of the contract: it waits for fences, refuses transfers out of bounds and after close,
/// and owns the buffers of dropped futures.
#[derive(Debug)]
pub struct NullDevice {
    info: DeviceInfo,
    shared: Arc<Shared>,
}

/// What a [`NullDevice`] was asked to move.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct NullCounts {
    /// Gathers that succeeded.
    pub gathers: u64,
    /// Bytes of their sections.
    pub bytes_gathered: u64,
    /// Scatters that succeeded.
    pub scatters: u64,
    /// Bytes of their sections.
    pub bytes_scattered: u64,
}

#[derive(Debug)]
struct Shared {
    label: String,
    gather: Direction,
    scatter: Direction,
}

#[derive(Debug)]
struct Direction {
    queue: TransferQueue,
    counts: Arc<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    calls: AtomicU64,
    bytes: AtomicU64,
}

impl NullDevice {
    /// Opens a device.
    ///
    /// # Errors
    /// [`Unavailable`](crate::ErrorKind::Unavailable) if the system gives no thread.
    pub fn new() -> Result<Arc<Self>> {
        let label = "null:0".to_owned();
        let direction = |name| {
            Ok(Direction { queue: TransferQueue::start(&label, name, QUEUE_DEPTH)?, counts: Arc::default() })
        };
        let (gather, scatter) = (direction("null-gather")?, direction("null-scatter")?);
        Ok(Arc::new(Self {
            info: DeviceInfo { kind: "null".into(), name: "moves nothing".into(), ordinal: 0 },
            shared: Arc::new(Shared { label, gather, scatter }),
        }))
    }

    /// What it was asked to move so far.
    pub fn counts(&self) -> NullCounts {
        let of = |direction: &Direction| {
            let Counts { calls, bytes } = &*direction.counts;
            (calls.load(Ordering::Acquire), bytes.load(Ordering::Acquire))
        };
        let (gathers, bytes_gathered) = of(&self.shared.gather);
        let (scatters, bytes_scattered) = of(&self.shared.scatter);
        NullCounts { gathers, bytes_gathered, scatters, bytes_scattered }
    }
}

impl fmt::Display for NullDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shared.label)
    }
}

impl Device for NullDevice {
    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    fn capabilities(&self) -> DeviceCapabilities {
        DeviceCapabilities { granularity: Granularity::AnyRun, concurrency: 2 }
    }

    fn allocate_staging(&self, bytes: usize) -> Result<Box<dyn HostRegion>> {
        Ok(Box::new(staging(self, bytes)?))
    }

    #[expect(unsafe_code, reason = "implements the contract; it touches no region")]
    unsafe fn register(&self, regions: Vec<DeviceRegion>) -> Result<Arc<dyn RegisteredMemory>> {
        Ok(Arc::new(NullRegistered {
            shared: Arc::clone(&self.shared),
            regions: regions.into(),
            in_flight: InFlight::new(),
        }))
    }
}

#[derive(Debug)]
struct NullRegistered {
    shared: Arc<Shared>,
    regions: Arc<[DeviceRegion]>,
    in_flight: Arc<InFlight>,
}

impl NullRegistered {
    async fn run(&self, direction: &Direction, request: TransferRequest) -> (HostBuf, Result<()>) {
        let (regions, counts) = (Arc::clone(&self.regions), Arc::clone(&direction.counts));
        let label = self.shared.label.clone();
        let work = move |transfer: &Transfer, staging: &mut HostBuf| {
            check_bounds(&label, transfer, &regions, staging.len())?;
            let sections = transfer.sections.iter();
            let bytes = sections.map(|place| transfer.plan.section_bytes(place.kind)).sum();
            counts.bytes.fetch_add(bytes, Ordering::AcqRel);
            counts.calls.fetch_add(1, Ordering::AcqRel);
            Ok(())
        };
        direction.queue.run(&self.in_flight, request, work).await
    }
}

#[async_trait]
impl RegisteredMemory for NullRegistered {
    fn regions(&self) -> &[DeviceRegion] {
        &self.regions
    }

    async fn gather(&self, request: TransferRequest) -> (HostBuf, Result<()>) {
        self.run(&self.shared.gather, request).await
    }

    async fn scatter(&self, request: TransferRequest) -> (HostBuf, Result<()>) {
        self.run(&self.shared.scatter, request).await
    }

    async fn quiesce(&self) -> Result<()> {
        self.in_flight.quiesce().await;
        Ok(())
    }

    async fn close(&self) -> Result<()> {
        self.in_flight.close().await;
        Ok(())
    }
}
