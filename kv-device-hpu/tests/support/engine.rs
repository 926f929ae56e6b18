//! An engine for the conformance suite: it has memory on the device, and a compute stream that it can hold back.

use std::sync::Arc;

use kv_device::conformance::{Engine, EngineFence, EngineMemory};
use kv_device::{Device, DeviceRegion, Fence, Result};
use kv_device_hpu::synapse::Stream;
use kv_device_hpu::{HpuDevice, HpuMemory, SynapseFence};

use super::Fake;

/// An engine that owns the device, or one that lives beside the backend.
pub(crate) struct SynapseEngine {
    pub(crate) fake: Fake,
    /// What is tested.
    pub(crate) device: Arc<HpuDevice>,
    /// By which the engine allocates: the same, or its own.
    pub(crate) own: Arc<HpuDevice>,
}

impl SynapseEngine {
    pub(crate) fn new(fake: &Fake, device: Arc<HpuDevice>) -> Self {
        Self { fake: fake.clone(), own: Arc::clone(&device), device }
    }
}

impl Engine for SynapseEngine {
    fn device(&self) -> Arc<dyn Device> {
        Arc::<HpuDevice>::clone(&self.device)
    }

    fn allocate(&self, bytes: usize) -> Result<Arc<dyn EngineMemory>> {
        Ok(Arc::new(Memory(self.own.allocate(bytes)?)))
    }

    /// The runtime tells nobody which addresses are allocated; what can be told is in `tests/regions.rs`.
    fn foreign_region(&self) -> Option<DeviceRegion> {
        None
    }

    fn fence(&self) -> Result<Box<dyn EngineFence>> {
        // The stream is held: what the engine has queued, and the event behind it, waits for `signal`.
        let stream = Stream::new(self.own.session())?;
        let handle = stream.handle().addr();
        self.fake.tell(&format!("hold {handle}"));
        let fence = SynapseFence::record_own(&self.device, &stream)?;
        Ok(Box::new(Held { fake: self.fake.clone(), _stream: stream, handle, fence }))
    }
}

#[derive(Debug)]
struct Memory(HpuMemory);

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

/// A fence on a stream that is held until it is signalled.
struct Held {
    fake: Fake,
    _stream: Stream,
    handle: usize,
    fence: Arc<SynapseFence>,
}

impl EngineFence for Held {
    fn fence(&self) -> Arc<dyn Fence> {
        Arc::<SynapseFence>::clone(&self.fence)
    }

    fn signal(&self) {
        self.fake.tell(&format!("release {}", self.handle));
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.signal();
    }
}
