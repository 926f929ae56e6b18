//! The engine's memory as bytes. The copies are the unsafe part of this device, and all of it.
#![expect(unsafe_code, reason = "copies to and from memory that the engine owns")]

use kv_device::DeviceRegion;

/// Regions for which an engine has made the promise of [`Device::register`](kv_device::Device::register).
#[derive(Debug)]
pub(crate) struct EngineMemory(Vec<DeviceRegion>);

impl EngineMemory {
    /// # Safety
    /// The caller has the engine's promise for every region, and calls [`read`](Self::read) and [`write`](Self::write) only in
    /// transfers for which `close` waits.
    pub(crate) unsafe fn new(regions: Vec<DeviceRegion>) -> Self {
        Self(regions)
    }

    pub(crate) fn regions(&self) -> &[DeviceRegion] {
        &self.0
    }

    /// Copies a run out of a region.
    pub(crate) fn read(&self, region: usize, offset: usize, to: &mut [u8]) {
        let from = self.run(region, offset, to.len());
        // SAFETY: `run` points to as many bytes inside a region that the engine keeps allocated until `close` has returned, and
        // that nobody writes while this gather runs (`new`). A staging buffer is no memory of the engine, so they do not overlap.
        unsafe { std::ptr::copy_nonoverlapping(from, to.as_mut_ptr(), to.len()) };
    }

    /// Copies a run into a region.
    pub(crate) fn write(&self, region: usize, offset: usize, from: &[u8]) {
        let to = self.run(region, offset, from.len());
        // SAFETY: as in `read`; nobody reads or writes these bytes while this scatter runs.
        unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), to, from.len()) };
    }

    /// Where a run begins. The bounds of a transfer are checked before, so a run outside is a bug of this device: it panics, and the
    /// queue reports the device lost.
    fn run(&self, region: usize, offset: usize, bytes: usize) -> *mut u8 {
        let DeviceRegion { address, len } = self.0[region];
        let end = offset.checked_add(bytes).map(|end| end as u64);
        assert!(end.is_some_and(|end| end <= len), "{bytes} bytes at {offset} of a region of {len}");
        let base = usize::try_from(address).unwrap_or_default();
        // The engine gave its memory away as an address, which exposes it.
        std::ptr::with_exposed_provenance_mut::<u8>(base).wrapping_add(offset)
    }
}
