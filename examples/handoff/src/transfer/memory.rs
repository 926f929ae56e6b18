//! The engine's KV cache in device memory: the engine's loops play the device's kernels.

use std::fmt;
use std::sync::Arc;

use anyhow::{Result, anyhow};
use kv_device::{DeviceRegion, HostAllocation, HostDevice};

use crate::engine::memory::CacheMemory;

/// One allocation per region.
pub struct DeviceMemory {
    allocations: Vec<HostAllocation>,
}

impl DeviceMemory {
    /// Allocates zeroed regions of the given byte lengths.
    pub(super) fn allocate(device: &Arc<HostDevice>, regions: &[u64]) -> Result<Self> {
        let allocate = |&bytes: &u64| {
            let allocated = device.allocate(usize::try_from(bytes)?);
            allocated.map_err(|error| anyhow!("no memory for the KV cache: {error}"))
        };
        Ok(Self { allocations: regions.iter().map(allocate).collect::<Result<_>>()? })
    }

    /// The regions as the device addresses them.
    pub(super) fn device_regions(&self) -> Vec<DeviceRegion> {
        self.allocations.iter().map(HostAllocation::region).collect()
    }
}

impl CacheMemory for DeviceMemory {
    fn regions(&self) -> Vec<u64> {
        self.device_regions().iter().map(|region| region.len).collect()
    }

    fn with(&self, region: usize, work: &mut dyn FnMut(&mut [u8])) {
        self.allocations[region].with(|bytes| work(bytes));
    }

    fn with_shared(&self, region: usize, work: &mut dyn FnMut(&[u8])) {
        self.allocations[region].with_shared(|bytes| work(bytes));
    }
}

impl fmt::Debug for DeviceMemory {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("DeviceMemory").field("allocations", &self.allocations.len()).finish()
    }
}
