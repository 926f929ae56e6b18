//! The first level, for tests that break the vendor's rules on purpose.

use kv_device_hpu::sys::{DeviceId, Handle, Status, Symbols};

use super::Fake;

impl Fake {
    /// The functions of the emulated runtime.
    pub(crate) fn symbols(&self) -> Symbols {
        Symbols::resolve(&self.loaded).unwrap()
    }
}

/// The functions, with the device acquired.
pub(crate) struct Raw {
    pub(crate) symbols: Symbols,
}

pub(crate) const DEVICE: DeviceId = 0;

impl Raw {
    pub(crate) fn acquired(fake: &Fake) -> Self {
        let symbols = fake.symbols();
        // SAFETY: no arguments.
        assert_eq!(unsafe { (symbols.initialize)() }, Status::SUCCESS);
        let raw = Self { symbols };
        assert_eq!(raw.acquire(0), Status::SUCCESS);
        raw
    }

    pub(crate) fn acquire(&self, module: u32) -> Status {
        let mut device = 0;
        // SAFETY: room for one id.
        unsafe { (self.symbols.device_acquire_by_module_id)(&raw mut device, module) }
    }

    pub(crate) fn malloc(&self, bytes: u64) -> u64 {
        let mut address = 0;
        // SAFETY: room for one address.
        let status = unsafe { (self.symbols.device_malloc)(DEVICE, bytes, 0, 0, &raw mut address) };
        assert_eq!(status, Status::SUCCESS);
        address
    }

    /// Maps memory that is never freed.
    pub(crate) fn map(&self, memory: &[u8], bytes: usize) -> Status {
        // SAFETY: the emulation keeps an address of memory that the test leaks.
        unsafe { (self.symbols.host_map)(DEVICE, bytes as u64, memory.as_ptr().cast()) }
    }

    pub(crate) fn unmap(&self, address: *const u8) -> Status {
        // SAFETY: no copy runs.
        unsafe { (self.symbols.host_unmap)(DEVICE, address.cast()) }
    }

    pub(crate) fn stream(&self) -> Handle {
        let mut stream = std::ptr::null_mut();
        // SAFETY: room for one handle.
        let status = unsafe { (self.symbols.stream_create)(&raw mut stream, DEVICE, 0) };
        assert_eq!(status, Status::SUCCESS);
        stream
    }

    pub(crate) fn event(&self) -> Handle {
        let mut event = std::ptr::null_mut();
        // SAFETY: room for one handle.
        let status = unsafe { (self.symbols.event_create)(&raw mut event, DEVICE, 0) };
        assert_eq!(status, Status::SUCCESS);
        event
    }

    /// One copy in a call for many.
    pub(crate) fn copy(&self, stream: Handle, source: u64, bytes: u64, to: u64, direction: i32) -> Status {
        let call = self.symbols.memcpy_async_multiple;
        // SAFETY: three lists of one; the emulation checks the addresses.
        unsafe { call(stream, &raw const source, &raw const bytes, &raw const to, direction, 1) }
    }

    pub(crate) fn synchronize(&self, stream: Handle) -> Status {
        // SAFETY: the emulation checks handles.
        unsafe { (self.symbols.stream_synchronize)(stream) }
    }
}
