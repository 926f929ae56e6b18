//! What an accelerator says about itself.

use std::fmt;

use kv_device::Result;

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
    /// Version of the driver.
    pub driver_version: String,
    /// The library by which it is used.
    pub library: String,
}

impl HpuIdentity {
    /// Asks the runtime.
    pub(super) fn read(session: &Session, facts: &DeviceFacts) -> Result<Self> {
        Ok(Self {
            name: session.name()?,
            device_type: DeviceType::from_code(facts.device_type),
            memory_bytes: session.memory()?.1,
            pci_address: session.pci_address()?,
            driver_version: session.runtime().version().to_owned(),
            library: session.runtime().library().to_owned(),
        })
    }
}

impl fmt::Display for HpuIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, device_type, memory_bytes, pci_address, driver_version, library } = self;
        let gib = memory_bytes >> 30;
        write!(
            f,
            "{name} ({device_type}), {gib} GiB, PCI {pci_address}, driver {driver_version}, through {library}"
        )
    }
}
