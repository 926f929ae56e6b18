//! A device that moves nothing: to measure everything but the device, and to test the host path.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use kv_format::Transfer;
use kv_memory::{HostBuf, HostRegion};

use crate::host::staging;
use crate::parts::{InFlight, TransferQueue, check_bounds};
use crate::{
    Device, DeviceCapabilities, DeviceInfo, DeviceRegion, Granularity, RegisteredMemory, Result,
    TransferCounts, TransferRequest,
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

#[derive(Debug)]
struct Shared {
    label: String,
    gather: TransferQueue,
    scatter: TransferQueue,
}

impl NullDevice {
    /// Opens a device.
    ///
    /// # Errors
    /// [`Unavailable`](crate::ErrorKind::Unavailable) if the system gives no thread.
    pub fn new() -> Result<Arc<Self>> {
        let label = "null:0".to_owned();
        let start = |direction| TransferQueue::start(&label, direction, QUEUE_DEPTH);
        let (gather, scatter) = (start("null-gather")?, start("null-scatter")?);
        Ok(Arc::new(Self {
            info: DeviceInfo { kind: "null".into(), name: "moves nothing".into(), ordinal: 0 },
            shared: Arc::new(Shared { label, gather, scatter }),
        }))
    }

    /// What it was asked to move so far.
    pub fn counts(&self) -> TransferCounts {
        TransferCounts { gathered: self.shared.gather.moved(), scattered: self.shared.scatter.moved() }
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
    async fn run(&self, queue: &TransferQueue, request: TransferRequest) -> (HostBuf, Result<()>) {
        let (regions, label) = (Arc::clone(&self.regions), self.shared.label.clone());
        let work = move |transfer: &Transfer, staging: &mut HostBuf| {
            check_bounds(&label, transfer, &regions, staging.len())
        };
        queue.run(&self.in_flight, request, work).await
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
