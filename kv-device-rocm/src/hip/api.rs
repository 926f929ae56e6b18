//! The loaded HIP, the current device of a thread, and what is asked about memory.
#![expect(unsafe_code, reason = "calls HIP")]

use std::cell::Cell;
use std::ffi::{c_int, c_void};
use std::path::Path;
use std::sync::Arc;

use kv_device::{DeviceRegion, Result};

use super::error::VendorError;
use super::runtime::{Runtime, Vendor};
use crate::Sabotage;
use crate::sys::{self, Code, PointerAttributes, codes, table};

thread_local! {
    /// The device that a thread of ours has set for good.
    static OWNED: Cell<Option<c_int>> = const { Cell::new(None) };
}

/// Which way a copy goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    DeviceToHost,
    HostToDevice,
}

impl Kind {
    pub(super) fn code(self) -> c_int {
        match self {
            Self::DeviceToHost => sys::DEVICE_TO_HOST,
            Self::HostToDevice => sys::HOST_TO_DEVICE,
        }
    }
}

/// HIP, loaded, and one of its devices.
#[derive(Debug)]
pub(crate) struct Hip {
    pub(crate) runtime: Runtime,
    pub(super) table: table::Hip,
    pub(crate) ordinal: c_int,
    /// Stands in errors.
    pub(crate) label: String,
    pub(crate) sabotage: Option<Sabotage>,
}

/// Whose memory an address is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Owner {
    /// This device's: what is left of its allocation from the address on, in bytes.
    This(u64),
    /// Another device's.
    Other(i32),
    /// Memory of the host, or unknown.
    NotDevice,
}

impl Hip {
    /// Loads HIP and makes sure that it has the device.
    pub(crate) fn open(
        ordinal: u32,
        library: Option<&Path>,
        sabotage: Option<Sabotage>,
    ) -> Result<Arc<Self>> {
        let runtime = match library {
            Some(file) => Runtime::open_file(Vendor::Hip, file),
            None => Runtime::open(Vendor::Hip),
        }?;
        let table = table::Hip::load(runtime.library(), "hip")?;
        let label = format!("rocm:{ordinal}");
        let hip =
            Self { runtime, table, ordinal: c_int::try_from(ordinal).unwrap_or(c_int::MAX), label, sabotage };
        // SAFETY: "Explicitly initializes the HIP runtime"; the flags must be 0. Calling it again does nothing.
        let code = unsafe { (table.init)(0) };
        // Versions differ in what they answer without a device; the count of devices decides.
        if !matches!(code, codes::SUCCESS | codes::NO_DEVICE | codes::INVALID_DEVICE) {
            return Err(hip.runtime.error("hipInit", code).about(&hip.label, "cannot initialise HIP"));
        }
        let count = hip.runtime.device_count()?;
        if hip.ordinal >= count {
            let message = format!(
                "{} sees {count} devices, so the highest is {}: open one of them",
                hip.runtime.describe(),
                count - 1
            );
            return Err(kv_device::Error::new(kv_device::ErrorKind::Unavailable, &hip.label, message));
        }
        Ok(Arc::new(hip))
    }

    /// Makes the device current on this thread until the value is dropped. The current device belongs to the thread, and the thread
    /// may be the engine's, which gets its own back.
    pub(crate) fn current(&self) -> Result<Current<'_>> {
        if OWNED.get() == Some(self.ordinal) || self.sabotage == Some(Sabotage::SkipSetDevice) {
            return Ok(Current { hip: self, previous: None });
        }
        let mut previous: c_int = 0;
        // SAFETY: writes an int that outlives the call.
        let code = unsafe { (self.table.get_device)(&raw mut previous) };
        self.check("hipGetDevice", code, "cannot ask for the thread's device")?;
        if previous == self.ordinal {
            return Ok(Current { hip: self, previous: None });
        }
        self.set(self.ordinal)?;
        Ok(Current { hip: self, previous: Some(previous) })
    }

    /// Makes the device current on this thread, which is ours, for good.
    pub(crate) fn own_thread(&self) -> Result<()> {
        if OWNED.get() != Some(self.ordinal) && self.sabotage != Some(Sabotage::SkipSetDevice) {
            self.set(self.ordinal)?;
            OWNED.set(Some(self.ordinal));
        }
        Ok(())
    }

    fn set(&self, ordinal: c_int) -> Result<()> {
        // SAFETY: takes a number; any is allowed, and a wrong one is an error.
        let code = unsafe { (self.table.set_device)(ordinal) };
        self.check("hipSetDevice", code, "cannot make the device current")
    }

    /// Whose memory `address` is.
    pub(crate) fn owner(&self, address: u64) -> Result<Owner> {
        let pointer: *mut c_void =
            std::ptr::with_exposed_provenance_mut(usize::try_from(address).unwrap_or(0));
        let mut found = PointerAttributes { kind: -1, device: -1, room: [0; 31] };
        // SAFETY: "Return attributes for the specified pointer", into a structure with room for every version's; the pointer is
        // looked up and not followed.
        let code = unsafe { (self.table.pointer_attributes)(&raw mut found, pointer) };
        // Memory that the runtime does not know is an error in old versions, and a type in new ones.
        if code == codes::INVALID_VALUE {
            return Ok(Owner::NotDevice);
        }
        self.check("hipPointerGetAttributes", code, "cannot ask whose memory an address is")?;
        if found.kind != self.device_memory_kind() {
            return Ok(Owner::NotDevice);
        }
        if found.device != self.ordinal {
            return Ok(Owner::Other(found.device));
        }
        let (mut base, mut size) = (std::ptr::null_mut(), 0);
        // SAFETY: "Get information on memory allocations": writes a pointer and a length that outlive the call; the address is device
        // memory, as was just found out.
        let code = unsafe { (self.table.address_range)(&raw mut base, &raw mut size, pointer) };
        self.check("hipMemGetAddressRange", code, "cannot ask how long an allocation is")?;
        let offset = address.saturating_sub(base.addr() as u64);
        Ok(Owner::This((size as u64).saturating_sub(offset)))
    }

    /// The numbers of the types of memory changed with 6.0.
    fn device_memory_kind(&self) -> c_int {
        let old = self.runtime.versions().runtime < 60_000_000;
        if old && self.sabotage != Some(Sabotage::NewMemoryKinds) {
            sys::MEMORY_DEVICE_5
        } else {
            sys::MEMORY_DEVICE
        }
    }

    /// Why a region cannot be registered, if it cannot.
    pub(crate) fn objection(&self, region: &DeviceRegion) -> Result<Option<String>> {
        let Some(end) = region.address.checked_add(region.len) else {
            return Ok(Some("wraps around the end of the address space".into()));
        };
        let mut at = region.address;
        // An engine's region may be several allocations that were mapped one behind the other.
        loop {
            match self.owner(at)? {
                Owner::This(left) if left > 0 => {
                    at = at.saturating_add(left);
                    if at >= end {
                        return Ok(None);
                    }
                }
                Owner::Other(other) => {
                    return Ok(Some(format!(
                        "is memory of rocm:{other}: register it with that device, or open the one that the engine uses"
                    )));
                }
                _ if at > region.address => {
                    return Ok(Some(format!(
                        "is device memory in its first {} bytes only: it does not fit its allocation",
                        at - region.address
                    )));
                }
                _ => {
                    return Ok(Some(
                        "is no device memory that HIP knows: was it freed, or is it host memory?".into(),
                    ));
                }
            }
        }
    }

    /// An error unless the code is a success; the message says what was attempted.
    pub(crate) fn check(&self, call: &'static str, code: Code, message: &str) -> Result<()> {
        match code {
            codes::SUCCESS => Ok(()),
            _ => Err(self.error(call, code).about(&self.label, message)),
        }
    }

    pub(crate) fn error(&self, call: &'static str, code: Code) -> VendorError {
        self.runtime.error(call, code)
    }
}

/// The device is current on this thread as long as this lives.
#[derive(Debug)]
#[must_use = "the device is current until this is dropped"]
pub(crate) struct Current<'a> {
    hip: &'a Hip,
    previous: Option<c_int>,
}

impl Drop for Current<'_> {
    fn drop(&mut self) {
        if let Some(previous) = self.previous {
            // It was this thread's device a moment ago; an error has no better place to go.
            let _ = self.hip.set(previous);
        }
    }
}
