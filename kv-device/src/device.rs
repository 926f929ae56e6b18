//! The contract between this project and an accelerator.

use std::any::Any;
use std::fmt::{Debug, Display};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use kv_format::{Granularity, Transfer};
use kv_memory::{HostBuf, HostRegion};

use crate::{Error, Result};

/// An accelerator, or what stands in for one: hands out pinned host memory and takes charge of an engine's KV regions.
///
/// # Contract
///
/// * **Buffers are owned by the operation.** A staging buffer goes in by value and comes back with the result. If the caller drops
///   the future, the operation keeps the buffer until the last byte was moved, and only then gives its memory back.
/// * **No executor thread blocks.** Vendor calls of one (device, direction) run on one thread of the device, which takes requests
///   in order from a bounded queue.
/// * **A transfer is one call** with a list of strided runs, never a call per block.
///
/// The suite in `kv_device::conformance` (feature `conformance`) checks all of it; run it for every implementation.
/// [`parts`](crate::parts) holds what an implementation is built from.
#[async_trait]
pub trait Device: Debug + Display + Send + Sync + 'static {
    /// What the device is; constant for its life.
    fn info(&self) -> &DeviceInfo;

    /// What the device can move; constant for its life.
    fn capabilities(&self) -> DeviceCapabilities;

    /// Host memory that the device reaches at full speed: pinned on an accelerator, huge pages on the host.
    ///
    /// # Errors
    /// `OutOfMemory` if the runtime or the system refuses.
    fn allocate_staging(&self, bytes: usize) -> Result<Box<dyn HostRegion>>;

    /// Takes charge of memory that an engine owns. Everything after this call is safe.
    ///
    /// # Errors
    /// `Invalid` if a region is not memory of this device, naming the region and whose memory it is.
    ///
    /// # Safety
    /// The caller promises, until [`RegisteredMemory::close`] has returned:
    /// * every region stays allocated at its address with its length, on this device;
    /// * while a gather runs, nothing writes the elements that it names; while a scatter runs, nothing reads or writes them
    ///   (order the engine's own work by fences and by the results of the calls).
    #[expect(unsafe_code, reason = "declares the one unsafe step; its contract is above")]
    unsafe fn register(&self, regions: Vec<DeviceRegion>) -> Result<Arc<dyn RegisteredMemory>>;
}

/// An engine's KV memory in the care of a device.
#[async_trait]
pub trait RegisteredMemory: Debug + Send + Sync + 'static {
    /// The registered regions, in the order of registration.
    fn regions(&self) -> &[DeviceRegion];

    /// Copies sections from the engine's memory into the staging buffer, after the fence was reached.
    ///
    /// # Errors
    /// `Invalid` if the transfer leaves a region or the buffer; `Closed`; `Timeout` if the fence was not reached in time (nothing
    /// was copied); `DeviceLost`, `Vendor`.
    ///
    /// # Cancel safety
    /// Started when first polled; dropping it then does not stop it, and the buffer lives until it has ended. Only while the
    /// device's queue is full does it wait to be started: dropped there, it moves nothing.
    async fn gather(&self, request: TransferRequest) -> (HostBuf, Result<()>);

    /// Copies sections from the staging buffer into the engine's memory, after the fence was reached.
    ///
    /// # Errors
    /// As [`gather`](Self::gather).
    ///
    /// # Cancel safety
    /// As [`gather`](Self::gather): a dropped scatter may still write the engine's memory until [`quiesce`](Self::quiesce) or
    /// [`close`](Self::close) has returned.
    async fn scatter(&self, request: TransferRequest) -> (HostBuf, Result<()>);

    /// Whether the host's processor does this device's copies, so that [`gather_now`](Self::gather_now) and
    /// [`scatter_now`](Self::scatter_now) copy on the thread that calls them.
    fn copies_now(&self) -> bool {
        false
    }

    /// Gathers on the calling thread, which must be one that may block, and without a fence: the engine has reached it.
    ///
    /// # Errors
    /// As [`gather`](Self::gather); `Unsupported` unless the device [`copies_now`](Self::copies_now).
    fn gather_now(&self, transfer: &Transfer, staging: &mut [u8]) -> Result<()> {
        let _ = (transfer, staging);
        Err(Error::not_now())
    }

    /// Scatters on the calling thread, as [`gather_now`](Self::gather_now) gathers.
    ///
    /// # Errors
    /// As [`scatter`](Self::scatter); `Unsupported` unless the device [`copies_now`](Self::copies_now).
    fn scatter_now(&self, transfer: &Transfer, staging: &[u8]) -> Result<()> {
        let _ = (transfer, staging);
        Err(Error::not_now())
    }

    /// Waits until no transfer of this memory is queued or runs.
    ///
    /// # Errors
    /// `DeviceLost` if the device can no longer tell.
    ///
    /// # Cancel safety
    /// Cancel safe.
    async fn quiesce(&self) -> Result<()>;

    /// Refuses further transfers and waits for the last one. After it the engine may free its regions.
    ///
    /// # Errors
    /// `DeviceLost` if the device can no longer tell; the regions must then outlive the process.
    ///
    /// # Cancel safety
    /// Cancel safe: may be called again.
    async fn close(&self) -> Result<()>;
}

/// A point in the engine's own work that a transfer waits for.
///
/// A device that knows the concrete type (by downcast through [`Any`]) makes its stream wait; any other waits on its own thread.
pub trait Fence: Any + Debug + Send + Sync {
    /// Blocks the calling thread until the engine has reached the point, at most for `timeout`; tells whether it has.
    ///
    /// # Errors
    /// `DeviceLost` or `Vendor` if the engine's device failed.
    fn wait(&self, timeout: Duration) -> Result<bool>;
}

/// One call of a device.
#[derive(Debug)]
pub struct TransferRequest {
    /// What moves where.
    pub transfer: Transfer,
    /// The host side; its length covers every section of the transfer.
    pub staging: HostBuf,
    /// What the engine must have reached before.
    pub after: Option<Arc<dyn Fence>>,
    /// Longest wait for the fence.
    pub fence_timeout: Duration,
}

/// A range of device memory that an engine owns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct DeviceRegion {
    /// Address as the device sees it.
    pub address: u64,
    /// Length in bytes.
    pub len: u64,
}

/// What a device is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceInfo {
    /// Kind for people and metrics: `host`, `null`, `rocm`, `hpu`.
    pub kind: String,
    /// Name as the vendor reports it.
    pub name: String,
    /// Number of the device among its kind on this host.
    pub ordinal: u32,
}

/// What a device has moved, in each direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TransferCounts {
    /// From engines to staging.
    pub gathered: crate::parts::Moved,
    /// From staging to engines.
    pub scattered: crate::parts::Moved,
}

/// What a device can move.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct DeviceCapabilities {
    /// Which runs it can gather and scatter.
    pub granularity: Granularity,
    /// Good number of transfers in flight in one direction.
    pub concurrency: usize,
}
