//! The engine's side of a host device, for the conformance suite; the device under test may be wrapped.

use std::sync::Arc;

use kv_device::conformance::{Engine, EngineFence, EngineMemory};
use kv_device::{
    Device, DeviceRegion, Fence, HostAllocation, HostDevice, HostDeviceOptions, HostFence, Result,
};

/// An engine on a host device, which sees it through `device`.
pub(crate) struct HostEngine {
    host: Arc<HostDevice>,
    device: Arc<dyn Device>,
}

impl HostEngine {
    /// An engine that sees the host device through what `wrap` makes of it.
    #[expect(clippy::expect_used, reason = "a test ends here if it cannot begin")]
    pub(crate) fn wrapped(
        options: HostDeviceOptions,
        wrap: impl FnOnce(Arc<HostDevice>) -> Arc<dyn Device>,
    ) -> Self {
        let host = HostDevice::new(options).expect("the system gives two threads");
        let device = wrap(Arc::clone(&host));
        Self { host, device }
    }
}

impl Engine for HostEngine {
    fn device(&self) -> Arc<dyn Device> {
        Arc::clone(&self.device)
    }

    fn allocate(&self, bytes: usize) -> Result<Arc<dyn EngineMemory>> {
        Ok(Arc::new(Memory(self.host.allocate(bytes)?)))
    }

    fn fence(&self) -> Result<Box<dyn EngineFence>> {
        Ok(Box::new(Signal(self.host.fence())))
    }
}

#[derive(Debug)]
struct Memory(HostAllocation);

impl EngineMemory for Memory {
    fn region(&self) -> DeviceRegion {
        self.0.region()
    }

    fn read(&self, offset: usize, to: &mut [u8]) -> Result<()> {
        self.0.read(offset, to)
    }

    fn write(&self, offset: usize, from: &[u8]) -> Result<()> {
        self.0.write(offset, from)
    }
}

struct Signal(Arc<HostFence>);

impl EngineFence for Signal {
    fn fence(&self) -> Arc<dyn Fence> {
        Arc::<HostFence>::clone(&self.0)
    }

    fn signal(&self) {
        self.0.signal();
    }
}

impl Drop for Signal {
    fn drop(&mut self) {
        self.0.signal();
    }
}
