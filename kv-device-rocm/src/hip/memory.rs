//! Device memory and pinned host memory, each freed by its owner.
#![expect(unsafe_code, reason = "calls HIP, and lends pinned memory out")]

use std::ffi::c_void;
use std::fmt;
use std::ptr::{self, NonNull};
use std::sync::Arc;

use kv_device::{Error, ErrorKind, Result};
use kv_memory::{BUFFER_ALIGNMENT, HostRegion};

use super::api::Hip;
use crate::sys;

/// An allocation of the device.
#[derive(Debug)]
pub(crate) struct DeviceBuffer {
    hip: Arc<Hip>,
    address: *mut c_void,
    len: usize,
}

// SAFETY: HIP's functions may be called from any thread; the value only owns an address that the host does not follow.
unsafe impl Send for DeviceBuffer {}

impl DeviceBuffer {
    pub(crate) fn allocate(hip: &Arc<Hip>, len: usize) -> Result<Self> {
        let _current = hip.current()?;
        let mut address = ptr::null_mut();
        // SAFETY: "Allocate memory on the default accelerator", which is the thread's: writes a pointer that outlives the call.
        let code = unsafe { (hip.table.malloc)(&raw mut address, len) };
        hip.check("hipMalloc", code, &format!("cannot allocate {len} bytes of device memory"))?;
        Ok(Self { hip: Arc::clone(hip), address, len })
    }

    pub(crate) fn address(&self) -> u64 {
        self.address.addr() as u64
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }
}

impl Drop for DeviceBuffer {
    fn drop(&mut self) {
        let _current = self.hip.current();
        // SAFETY: hipMalloc returned the address and this value owns it; its owners wait for the stream that uses it first.
        let _ = unsafe { (self.hip.table.free)(self.address) };
    }
}

/// Host memory that the device reaches without the processor.
pub(crate) struct PinnedRegion {
    hip: Arc<Hip>,
    base: NonNull<u8>,
    len: usize,
    device: u64,
}

// SAFETY: an allocation belongs to the process, and the value only owns it.
unsafe impl Send for PinnedRegion {}
// SAFETY: as above; through a shared reference nothing but the address is reached.
unsafe impl Sync for PinnedRegion {}

impl PinnedRegion {
    /// Allocates zeroed pinned memory.
    ///
    /// It is coherent, the tables of transfers too: what the device may cache is seen anew at the start of a kernel only if the runtime
    /// chooses a fence of the system's scope, and stale tables would move wrong bytes without a word.
    pub(crate) fn allocate(hip: &Arc<Hip>, len: usize) -> Result<Self> {
        let _current = hip.current()?;
        let flags = sys::HOST_PORTABLE | sys::HOST_MAPPED;
        let mut pointer = ptr::null_mut();
        // SAFETY: "Allocates device accessible page locked (pinned) host memory": writes a pointer that outlives the call.
        let code = unsafe { (hip.table.host_malloc)(&raw mut pointer, len.max(1), flags) };
        hip.check("hipHostMalloc", code, &format!("cannot allocate {len} bytes of pinned memory"))?;
        let base = NonNull::new(pointer.cast::<u8>()).ok_or_else(|| {
            Error::new(ErrorKind::Vendor, &hip.label, "hipHostMalloc succeeded and returned no memory")
        })?;
        let mut region = Self { hip: Arc::clone(hip), base, len, device: 0 };
        if !base.as_ptr().addr().is_multiple_of(BUFFER_ALIGNMENT) {
            let message = format!("pinned memory at {base:?}: expected a multiple of {BUFFER_ALIGNMENT}");
            return Err(Error::new(ErrorKind::Vendor, &hip.label, message));
        }
        let mut device = ptr::null_mut();
        // SAFETY: "Get Device pointer from Host Pointer allocated through hipHostMalloc": writes a pointer that outlives the call.
        let code = unsafe { (hip.table.host_device_pointer)(&raw mut device, pointer, 0) };
        hip.check("hipHostGetDevicePointer", code, "the device does not reach pinned memory")?;
        region.device = device.addr() as u64;
        // SAFETY: the runtime gave `len` bytes at the pointer, and nothing else knows them. Zeroing initialises them, as
        // HostRegion promises.
        unsafe { ptr::write_bytes(region.base.as_ptr(), 0, len) };
        Ok(region)
    }

    /// The address of the first byte for the device.
    pub(crate) fn device_address(&self) -> u64 {
        self.device
    }

    /// The bytes.
    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: `len` initialised bytes that live as long as `self`, which is borrowed alone. The device reads them only while a
        // kernel runs, and whoever owns the region waits for that kernel before it asks for the bytes again.
        unsafe { std::slice::from_raw_parts_mut(self.base.as_ptr(), self.len) }
    }
}

// SAFETY: hipHostMalloc gave `len` bytes at `base`, readable and writable, whose alignment was checked and which were zeroed; they
// stay there until `drop`. Of the safe paths to them, `bytes_mut` is this module's own, and is not used of staging regions.
unsafe impl HostRegion for PinnedRegion {
    fn base(&self) -> NonNull<u8> {
        self.base
    }

    fn len(&self) -> usize {
        self.len
    }
}

impl fmt::Debug for PinnedRegion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PinnedRegion")
            .field("base", &self.base)
            .field("len", &self.len)
            .finish_non_exhaustive()
    }
}

impl Drop for PinnedRegion {
    fn drop(&mut self) {
        let _current = self.hip.current();
        // SAFETY: hipHostMalloc returned the pointer and this value owns it; buffers of a pool keep their region.
        let _ = unsafe { (self.hip.table.host_free)(self.base.as_ptr().cast()) };
    }
}
