//! Device memory, and host memory that the device's DMA engines reach.

use std::fmt;
use std::ptr::NonNull;
use std::sync::Arc;

use kv_device::{DeviceRegion, Error, ErrorKind, Result};
use kv_memory::{BUFFER_ALIGNMENT, HostRegion, HugePages};

use super::Session;
use crate::sabotage::Break;

/// Huge pages of the host, mapped once as a whole, so that every part of them is inside one mapping.
///
/// The pages are this value's own: a range that the engine maps too would lose its mapping when either side ends it, since the runtime
/// does not count.
pub struct MappedPages {
    session: Arc<Session>,
    pages: HugePages,
}

impl MappedPages {
    /// Allocates and maps `bytes`, rounded up to whole pages.
    ///
    /// # Errors
    /// [`OutOfMemory`](ErrorKind::OutOfMemory) if the system or the runtime refuses, [`Invalid`](ErrorKind::Invalid) for zero bytes.
    pub fn allocate(session: &Arc<Session>, bytes: usize) -> Result<Self> {
        let pages = HugePages::allocate(bytes).map_err(|error| {
            let kind = match error.kind() {
                kv_memory::ErrorKind::OutOfMemory => ErrorKind::OutOfMemory,
                _ => ErrorKind::Invalid,
            };
            Error::new(kind, session, format!("cannot allocate {bytes} bytes of staging")).with_source(error)
        })?;
        let this = Self { session: Arc::clone(session), pages };
        if !session.sabotage().breaks(Break::SkipHostMap) {
            this.map(this.pages.len())?;
        }
        if session.sabotage().breaks(Break::MapLarger) {
            this.map(this.pages.len() + BUFFER_ALIGNMENT)?;
        }
        Ok(this)
    }

    fn map(&self, bytes: usize) -> Result<()> {
        let base = self.pages.base().as_ptr().cast_const().cast();
        // SAFETY: the pages are mapped in this process and stay so until `drop` has ended this mapping.
        let status = unsafe { (self.session.symbols().host_map)(self.session.id(), bytes as u64, base) };
        self.session.check("synHostMap", status)
    }
}

// SAFETY: the pages are a region, and this value does not reach into them.
unsafe impl HostRegion for MappedPages {
    fn base(&self) -> NonNull<u8> {
        self.pages.base()
    }

    fn len(&self) -> usize {
        self.pages.len()
    }
}

impl Drop for MappedPages {
    fn drop(&mut self) {
        // Of a lost device the driver keeps its own hold of the pages until the process ends.
        let mut base = self.pages.base().as_ptr();
        if self.session.sabotage().breaks(Break::UnmapInside) {
            base = base.wrapping_add(BUFFER_ALIGNMENT);
        }
        let unmap = self.session.symbols().host_unmap;
        // SAFETY: this is the base that was mapped; buffers cut from the pages hold a reference to this value, so no copy uses them.
        self.session.give_back(|| unsafe { unmap(self.session.id(), base.cast_const().cast()) });
    }
}

impl fmt::Debug for MappedPages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MappedPages").field("pages", &self.pages).finish_non_exhaustive()
    }
}

/// Memory of the device, for tools and examples that have no engine.
#[derive(Debug)]
pub struct DeviceMemory {
    session: Arc<Session>,
    region: DeviceRegion,
}

impl DeviceMemory {
    /// Allocates `bytes` bytes; what they hold is undefined.
    ///
    /// # Errors
    /// [`OutOfMemory`](ErrorKind::OutOfMemory) if there are not so many.
    pub fn allocate(session: &Arc<Session>, bytes: u64) -> Result<Self> {
        let mut address = 0;
        // SAFETY: the pointer is to one u64, for the address; a wanted address of 0 leaves the choice to the runtime, flags are 0.
        let status =
            unsafe { (session.symbols().device_malloc)(session.id(), bytes, 0, 0, &raw mut address) };
        session.check("synDeviceMalloc", status)?;
        Ok(Self { session: Arc::clone(session), region: DeviceRegion { address, len: bytes } })
    }

    /// Where it is.
    pub fn region(&self) -> DeviceRegion {
        self.region
    }

    /// The device.
    pub fn session(&self) -> &Arc<Session> {
        &self.session
    }
}

impl Drop for DeviceMemory {
    fn drop(&mut self) {
        let free = self.session.symbols().device_free;
        // SAFETY: the address is that of a live allocation, which nobody can name any more; flags are 0.
        self.session.give_back(|| unsafe { free(self.session.id(), self.region.address, 0) });
    }
}
