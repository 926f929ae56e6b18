//! Memory that an engine allocates on a host device, and the engine's own access to it.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use kv_memory::PageKind;

use super::directory::{self, DeviceId};
use super::memory::DeviceMemory;
use crate::{DeviceRegion, Error, ErrorKind, Result};

/// Memory of a [`HostDevice`](super::HostDevice) that an engine owns; dropping it frees it.
///
/// The methods play the engine's kernels. They take the allocation's lock, which gathers share and scatters hold alone, section by
/// section: an engine that breaks its promise and races with a transfer sees some order of whole sections, never undefined
/// behaviour, and layers make progress beside each other. A closure that holds the lock must not wait for a transfer of the same
/// allocation, which waits for the lock.
///
/// Dropping it while it is registered is a broken promise too; the bytes then stay mapped until the registration is closed or
/// gone.
pub struct HostAllocation {
    memory: Arc<DeviceMemory>,
    device: DeviceId,
}

impl HostAllocation {
    pub(super) fn new(bytes: usize, device: &DeviceId) -> Result<Self> {
        if bytes == 0 {
            let message = "an allocation of 0 bytes: ask for at least one";
            return Err(Error::new(ErrorKind::Invalid, &device.label, message));
        }
        let memory = DeviceMemory::allocate(bytes).map_err(|error| {
            let message =
                format!("cannot allocate {bytes} bytes of device memory: ask for less, or free some");
            Error::new(ErrorKind::OutOfMemory, &device.label, message).with_source(error)
        })?;
        let memory = Arc::new(memory);
        directory::enter(&memory, device);
        Ok(Self { memory, device: device.clone() })
    }

    /// The whole allocation as the device addresses it. The host faults when it touches the address.
    pub fn region(&self) -> DeviceRegion {
        DeviceRegion { address: self.memory.address(), len: self.memory.len() as u64 }
    }

    /// Length in bytes.
    pub fn len(&self) -> usize {
        self.memory.len()
    }

    /// Never: an allocation has at least one byte.
    pub fn is_empty(&self) -> bool {
        self.memory.len() == 0
    }

    /// The pages that the system gave.
    pub fn pages(&self) -> PageKind {
        self.memory.pages()
    }

    /// Runs a kernel that may write: alone.
    pub fn with<R>(&self, kernel: impl FnOnce(&mut [u8]) -> R) -> R {
        kernel(&mut self.memory.write())
    }

    /// Runs a kernel that only reads: beside other readers and gathers.
    pub fn with_shared<R>(&self, kernel: impl FnOnce(&[u8]) -> R) -> R {
        kernel(&self.memory.read())
    }

    /// Copies bytes from `offset` out.
    ///
    /// # Errors
    /// [`Invalid`](ErrorKind::Invalid) if they are not all inside.
    pub fn read(&self, offset: usize, to: &mut [u8]) -> Result<()> {
        let range = self.range(offset, to.len())?;
        to.copy_from_slice(&self.memory.read()[range]);
        Ok(())
    }

    /// Copies bytes in, from `offset` on.
    ///
    /// # Errors
    /// [`Invalid`](ErrorKind::Invalid) if they do not all fit.
    pub fn write(&self, offset: usize, from: &[u8]) -> Result<()> {
        let range = self.range(offset, from.len())?;
        self.memory.write()[range].copy_from_slice(from);
        Ok(())
    }

    fn range(&self, offset: usize, len: usize) -> Result<Range<usize>> {
        let end = offset.checked_add(len).filter(|end| *end <= self.len());
        end.map(|end| offset..end).ok_or_else(|| {
            let message =
                format!("{len} bytes from offset {offset} of an allocation of {} bytes", self.len());
            Error::new(ErrorKind::Invalid, &self.device.label, message)
        })
    }
}

impl Drop for HostAllocation {
    fn drop(&mut self) {
        directory::leave(&self.memory);
    }
}

impl fmt::Debug for HostAllocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HostAllocation")
            .field("device", &self.device.label)
            .field("region", &self.region())
            .field("pages", &self.pages())
            .finish()
    }
}
