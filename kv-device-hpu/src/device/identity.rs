//! What an accelerator says about itself.

use std::fmt;

use kv_device::Result;
use kv_device::parts::numa_node;

use crate::synapse::{DeviceType, Session};
use crate::sys::DeviceFacts;

/// Which accelerator it is.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct HpuIdentity {
    /// As the vendor names it.
    pub name: String,
    /// Its generation.
    pub device_type: DeviceType,
    /// Bytes of its memory, as the runtime gives them out.
    pub memory_bytes: u64,
    /// Its PCI address, such as `0000:19:00.0`.
    pub pci_address: String,
    /// NUMA node of the host that is nearest, if the host says.
    pub numa: Option<u32>,
    /// Version of the driver.
    pub driver_version: String,
    /// The library by which it is used.
    pub library: String,
}

impl HpuIdentity {
    /// Asks the runtime.
    pub(super) fn read(session: &Session, facts: &DeviceFacts) -> Result<Self> {
        let pci_address = session.pci_address()?;
        Ok(Self {
            name: session.name()?,
            device_type: DeviceType::from_code(facts.device_type),
            memory_bytes: session.memory()?.1,
            numa: numa_node(&pci_address),
            pci_address,
            driver_version: session.runtime().version().to_owned(),
            library: session.runtime().library().to_owned(),
        })
    }
}

impl fmt::Display for HpuIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, device_type, memory_bytes, pci_address, numa, driver_version, library } = self;
        let (gib, node) =
            (memory_bytes >> 30, numa.map_or_else(|| "unknown".to_owned(), |node| node.to_string()));
        write!(
            f,
            "{name} ({device_type}), {gib} GiB, PCI {pci_address}, NUMA node {node}, driver {driver_version}, through {library}"
        )
    }
}
