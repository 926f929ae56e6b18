//! The two traits: what the device is, and the transfers of one registration.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use kv_device::parts::{InFlight, TransferQueue, check_bounds};
use kv_device::{
    Device, DeviceCapabilities, DeviceInfo, DeviceRegion, Error, ErrorKind, Granularity, RegisteredMemory,
    Result, TransferRequest,
};
use kv_memory::{HostBuf, HostRegion, HugePages};

use crate::memory::EngineMemory;

/// Ordinary memory of this process as a device, with one thread for gathers and one for scatters.
#[derive(Debug)]
pub struct RamDevice {
    info: DeviceInfo,
    queues: Arc<Queues>,
}

#[derive(Debug)]
struct Queues {
    gather: TransferQueue,
    scatter: TransferQueue,
}

impl RamDevice {
    /// Starts the device's two threads.
    ///
    /// # Errors
    /// [`Unavailable`](ErrorKind::Unavailable) if the system gives no thread.
    pub fn open() -> Result<Arc<Self>> {
        // Room for 32 transfers of one direction; callers wait beyond it.
        let start = |direction| TransferQueue::start(&"ram:0", direction, 32);
        let queues = Arc::new(Queues { gather: start("ram-gather")?, scatter: start("ram-scatter")? });
        let info = DeviceInfo { kind: "ram".into(), name: "memory of a CPU engine".into(), ordinal: 0 };
        Ok(Arc::new(Self { info, queues }))
    }
}

impl fmt::Display for RamDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ram:0")
    }
}

impl Device for RamDevice {
    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    fn capabilities(&self) -> DeviceCapabilities {
        DeviceCapabilities { granularity: Granularity::AnyRun, concurrency: 2 }
    }

    fn allocate_staging(&self, bytes: usize) -> Result<Box<dyn HostRegion>> {
        let region = HugePages::allocate(bytes).map_err(|error| {
            let message = format!("cannot allocate {bytes} bytes of staging: ask for less");
            Error::new(ErrorKind::OutOfMemory, self, message).with_source(error)
        })?;
        Ok(Box::new(region))
    }

    #[expect(unsafe_code, reason = "implements the contract, and passes its promise on")]
    unsafe fn register(&self, regions: Vec<DeviceRegion>) -> Result<Arc<dyn RegisteredMemory>> {
        for (index, DeviceRegion { address, len }) in regions.iter().enumerate() {
            // A wrong address cannot be told from a right one here; one that cannot exist can.
            let end = address.checked_add(*len).and_then(|end| isize::try_from(end).ok());
            if *address == 0 || end.is_none() {
                let message =
                    format!("region {index} ({len} bytes at {address:#x}) is no memory of a process");
                return Err(Error::new(ErrorKind::Invalid, self, message));
            }
        }
        // SAFETY: the caller makes the same promise to us; the copies run in jobs of `Registered::run`, for which `close` waits.
        let memory = unsafe { EngineMemory::new(regions) };
        let queues = Arc::clone(&self.queues);
        Ok(Arc::new(Registered { memory: Arc::new(memory), queues, in_flight: InFlight::new() }))
    }
}

/// One engine's regions. The transfers in flight are counted, so that `close` knows when the last has ended.
#[derive(Debug)]
struct Registered {
    memory: Arc<EngineMemory>,
    queues: Arc<Queues>,
    in_flight: Arc<InFlight>,
}

/// Copies `(memory, region, offset in the region, run in the staging buffer)`.
type Copy = fn(&EngineMemory, usize, usize, &mut [u8]);

impl Registered {
    /// Queues a transfer that copies run by run, after its bounds were checked.
    async fn run(
        &self,
        queue: &TransferQueue,
        request: TransferRequest,
        copy: Copy,
    ) -> (HostBuf, Result<()>) {
        let memory = Arc::clone(&self.memory);
        let index = |offset| usize::try_from(offset).unwrap_or(usize::MAX);
        queue
            .run(&self.in_flight, request, move |transfer, staging| {
                check_bounds(&"ram:0", transfer, memory.regions(), staging.len())?;
                for place in &transfer.sections {
                    transfer.plan.for_each_run(place.kind, |device, section, bytes| {
                        let start = index(place.staging + section);
                        let run = &mut staging[start..start + index(bytes)];
                        copy(&memory, place.region as usize, index(place.device + device), run);
                    });
                }
                Ok(())
            })
            .await
    }
}

#[async_trait]
impl RegisteredMemory for Registered {
    fn regions(&self) -> &[DeviceRegion] {
        self.memory.regions()
    }

    async fn gather(&self, request: TransferRequest) -> (HostBuf, Result<()>) {
        self.run(&self.queues.gather, request, |memory, region, offset, run| memory.read(region, offset, run))
            .await
    }

    async fn scatter(&self, request: TransferRequest) -> (HostBuf, Result<()>) {
        self.run(&self.queues.scatter, request, |memory, region, offset, run| {
            memory.write(region, offset, run)
        })
        .await
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
