//! Memory of an AMD accelerator as an engine has it: four functions of HIP, which `kv-device-rocm` leaves to engines.
#![expect(unsafe_code, reason = "calls a vendor's library, as an engine does")]

use std::ffi::{c_int, c_void};
use std::ptr;
use std::sync::Arc;

use kv_device::dynamic::{Library, LibrarySearch};
use kv_device::{DeviceRegion, Error, ErrorKind, Result};
use kv_device_rocm::HIP_VARIABLE;

/// `hipMemcpyKind`: host to device, device to host.
const TO_DEVICE: c_int = 1;
const TO_HOST: c_int = 2;

/// What an engine calls, with its device.
#[derive(Debug)]
pub(super) struct HipCalls {
    ordinal: c_int,
    set_device: unsafe extern "C" fn(c_int) -> c_int,
    malloc: unsafe extern "C" fn(*mut *mut c_void, usize) -> c_int,
    free: unsafe extern "C" fn(*mut c_void) -> c_int,
    memcpy: unsafe extern "C" fn(*mut c_void, *const c_void, usize, c_int) -> c_int,
}

impl HipCalls {
    /// Finds the functions in the library that the process uses already.
    pub(super) fn load(ordinal: u32) -> Result<Self> {
        let search = LibrarySearch {
            what: "the HIP runtime",
            variable: HIP_VARIABLE,
            names: &["libamdhip64.so.7", "libamdhip64.so.6", "libamdhip64.so.5", "libamdhip64.so"],
            directories: Vec::new(),
        };
        let library: Library = search.open("rocm")?;
        // SAFETY: hipError_t hipSetDevice(int deviceId).
        let set_device = unsafe { library.symbol("hipSetDevice") }?;
        // SAFETY: hipError_t hipMalloc(void** ptr, size_t size).
        let malloc = unsafe { library.symbol("hipMalloc") }?;
        // SAFETY: hipError_t hipFree(void* ptr).
        let free = unsafe { library.symbol("hipFree") }?;
        // SAFETY: hipError_t hipMemcpy(void* dst, const void* src, size_t sizeBytes, hipMemcpyKind kind).
        let memcpy = unsafe { library.symbol("hipMemcpy") }?;
        let ordinal = c_int::try_from(ordinal).unwrap_or(c_int::MAX);
        Ok(Self { ordinal, set_device, malloc, free, memcpy })
    }

    /// Allocates device memory.
    pub(super) fn allocate(self: &Arc<Self>, bytes: usize) -> Result<HipMemory> {
        let mut address = ptr::null_mut();
        // SAFETY: the pointer is to one address, for the answer.
        self.call("hipMalloc", || unsafe { (self.malloc)(&raw mut address, bytes) })?;
        Ok(HipMemory { calls: Arc::clone(self), address: address.expose_provenance(), bytes })
    }

    /// Calls a function with the device current on this thread.
    fn call(&self, name: &str, call: impl FnOnce() -> c_int) -> Result<()> {
        // SAFETY: takes a number.
        let set = unsafe { (self.set_device)(self.ordinal) };
        match if set == 0 { call() } else { set } {
            0 => Ok(()),
            code => Err(Error::new(ErrorKind::Vendor, "rocm", format!("{name} returned {code}"))),
        }
    }
}

/// An allocation; freed when dropped.
#[derive(Debug)]
pub(super) struct HipMemory {
    calls: Arc<HipCalls>,
    address: usize,
    bytes: usize,
}

impl HipMemory {
    pub(super) fn region(&self) -> DeviceRegion {
        DeviceRegion { address: self.address as u64, len: self.bytes as u64 }
    }

    /// Copies the beginning to the host.
    pub(super) fn read(&self, to: &mut [u8]) -> Result<()> {
        let len = to.len().min(self.bytes);
        let (calls, from) = (&self.calls, ptr::with_exposed_provenance(self.address));
        // SAFETY: both sides have `len` bytes, and the call returns when they are copied.
        calls.call("hipMemcpy", || unsafe { (calls.memcpy)(to.as_mut_ptr().cast(), from, len, TO_HOST) })
    }

    /// Copies from the host to the beginning.
    pub(super) fn write(&self, from: &[u8]) -> Result<()> {
        let len = from.len().min(self.bytes);
        let (calls, to) = (&self.calls, ptr::with_exposed_provenance_mut(self.address));
        // SAFETY: as in `read`.
        calls.call("hipMemcpy", || unsafe { (calls.memcpy)(to, from.as_ptr().cast(), len, TO_DEVICE) })
    }
}

impl Drop for HipMemory {
    fn drop(&mut self) {
        let (calls, address) = (&self.calls, ptr::with_exposed_provenance_mut(self.address));
        // SAFETY: this value owns the allocation. Nobody hears of a failure.
        let _ = calls.call("hipFree", || unsafe { (calls.free)(address) });
    }
}
