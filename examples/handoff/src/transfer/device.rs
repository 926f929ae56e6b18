//! Which device a rank's KV cache is on: emulated by the host, or an accelerator through its vendor's runtime.

use std::sync::Arc;

use anyhow::{Result, anyhow};
use kv_device::{Device, HostDevice, HostDeviceOptions};
use kv_device_hpu::synapse::Selector;
use kv_device_hpu::{HpuDevice, HpuOptions};
use kv_device_rocm::{RocmDevice, Runtime, Vendor};
use serde::{Deserialize, Serialize};

use super::hip::HipCalls;
use super::memory::{Allocation, DeviceMemory};

/// Where the ranks of a group keep their KV.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum DeviceKind {
    /// Host memory that plays an accelerator.
    Host,
    /// An AMD accelerator, through HIP (`KVBRIDGE_HIP_LIBRARY` names another library).
    Rocm,
    /// An Intel Gaudi, one for each rank, through `SynapseAI` (`KVBRIDGE_SYNAPSE_LIBRARY` names another library).
    Hpu,
}

/// The device of one rank.
#[derive(Debug)]
pub(super) enum RankDevice {
    Host(Arc<HostDevice>),
    Rocm(Arc<RocmDevice>, Arc<HipCalls>),
    Hpu(Arc<HpuDevice>),
}

impl RankDevice {
    /// Opens a rank's device: its own Gaudi, or an AMD accelerator that ranks may share.
    pub(super) fn open(kind: DeviceKind, rank: usize) -> Result<Self> {
        let plain = |error: kv_device::Error| anyhow!("{error}");
        Ok(match kind {
            DeviceKind::Host => Self::Host(HostDevice::new(HostDeviceOptions::default()).map_err(plain)?),
            DeviceKind::Rocm => {
                let count = Runtime::open(Vendor::Hip).and_then(|hip| hip.device_count()).map_err(plain)?;
                let ordinal = u32::try_from(rank)? % u32::try_from(count)?.max(1);
                let device = RocmDevice::open(ordinal).map_err(plain)?;
                Self::Rocm(device, Arc::new(HipCalls::load(ordinal).map_err(plain)?))
            }
            // This process is the engine: nobody else has acquired a device in it.
            DeviceKind::Hpu => {
                Self::Hpu(HpuDevice::own(Selector::Any, &HpuOptions::default()).map_err(plain)?)
            }
        })
    }

    /// As the pipeline sees it.
    pub(super) fn device(&self) -> Arc<dyn Device> {
        match self {
            Self::Host(device) => Arc::<HostDevice>::clone(device),
            Self::Rocm(device, _) => Arc::<RocmDevice>::clone(device),
            Self::Hpu(device) => Arc::<HpuDevice>::clone(device),
        }
    }

    /// One allocation per region.
    pub(super) fn allocate(&self, regions: &[u64]) -> Result<DeviceMemory> {
        let allocate = |&bytes: &u64| {
            let bytes = usize::try_from(bytes)?;
            let allocated = match self {
                Self::Host(device) => device.allocate(bytes).map(Allocation::Host),
                Self::Rocm(_, calls) => calls.allocate(bytes).map(Allocation::Rocm),
                Self::Hpu(device) => device.allocate(bytes).map(Allocation::Hpu),
            };
            allocated.map_err(|error| anyhow!("no memory for the KV cache: {error}"))
        };
        Ok(DeviceMemory::new(regions.iter().map(allocate).collect::<Result<_>>()?))
    }
}
