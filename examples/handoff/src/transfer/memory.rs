//! The engine's KV cache in device memory: the engine's loops play the device's kernels.

use std::fmt;

use kv_device::{DeviceRegion, HostAllocation, Result};
use kv_device_hpu::HpuMemory;

use super::hip::HipMemory;
use crate::engine::memory::CacheMemory;

/// One allocation per region.
pub struct DeviceMemory {
    allocations: Vec<Allocation>,
}

/// A region's memory on one kind of device.
pub(super) enum Allocation {
    /// Reached in place.
    Host(HostAllocation),
    /// Reached by copies.
    Rocm(HipMemory),
    /// Reached by copies.
    Hpu(HpuMemory),
}

impl Allocation {
    fn region(&self) -> DeviceRegion {
        match self {
            Self::Host(memory) => memory.region(),
            Self::Rocm(memory) => memory.region(),
            Self::Hpu(memory) => memory.region(),
        }
    }

    /// The whole region, copied to the host.
    fn read(&self) -> Result<Vec<u8>> {
        let mut bytes = vec![0; usize::try_from(self.region().len).unwrap_or(usize::MAX)];
        match self {
            Self::Host(memory) => memory.read(0, &mut bytes)?,
            Self::Rocm(memory) => memory.read(&mut bytes)?,
            Self::Hpu(memory) => memory.read(0, &mut bytes)?,
        }
        Ok(bytes)
    }

    /// The whole region, copied from the host.
    fn write(&self, bytes: &[u8]) -> Result<()> {
        match self {
            Self::Host(memory) => memory.write(0, bytes),
            Self::Rocm(memory) => memory.write(bytes),
            Self::Hpu(memory) => memory.write(0, bytes),
        }
    }
}

impl DeviceMemory {
    pub(super) fn new(allocations: Vec<Allocation>) -> Self {
        Self { allocations }
    }

    /// The regions as the device addresses them.
    pub(super) fn device_regions(&self) -> Vec<DeviceRegion> {
        self.allocations.iter().map(Allocation::region).collect()
    }
}

impl CacheMemory for DeviceMemory {
    fn regions(&self) -> Vec<u64> {
        self.device_regions().iter().map(|region| region.len).collect()
    }

    fn with(&self, region: usize, work: &mut dyn FnMut(&mut [u8])) {
        let allocation = &self.allocations[region];
        if let Allocation::Host(memory) = allocation {
            memory.with(|bytes| work(bytes));
            return;
        }
        let mut bytes = or_end(allocation.read());
        work(&mut bytes);
        or_end(allocation.write(&bytes));
    }

    fn with_shared(&self, region: usize, work: &mut dyn FnMut(&[u8])) {
        match &self.allocations[region] {
            Allocation::Host(memory) => memory.with_shared(|bytes| work(bytes)),
            copied => work(&or_end(copied.read())),
        }
    }
}

/// An engine whose cache cannot be reached cannot go on: its rank ends, and the launcher says why.
#[expect(clippy::panic, reason = "a kernel that fails ends its engine")]
fn or_end<T>(outcome: Result<T>) -> T {
    outcome.unwrap_or_else(|error| panic!("the KV cache cannot be reached: {error}"))
}

impl fmt::Debug for DeviceMemory {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("DeviceMemory").field("allocations", &self.allocations.len()).finish()
    }
}
