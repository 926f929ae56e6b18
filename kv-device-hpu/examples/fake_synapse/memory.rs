//! Device memory, and mappings of the program's memory.

use std::ffi::c_void;

use kv_device::emulation::{Pageable, Place, Refused};
use kv_device_hpu::sys::{DeviceId, Status};

use crate::fake::{Answer, DEVICE, DEVICE_ADDRESSES, Fake, device_call, fake, put};

#[unsafe(no_mangle)]
unsafe extern "C" fn synDeviceMalloc(
    _device: DeviceId,
    bytes: u64,
    _wanted: u64,
    flags: u32,
    out: *mut u64,
) -> Status {
    device_call("synDeviceMalloc", |fake| {
        if out.is_null() {
            return Err(Status::NULL_POINTER);
        }
        if bytes == 0 || flags != 0 {
            return Err(Status::INVALID_ARGUMENT);
        }
        let base = fake.machine().memory().allocate(DEVICE, bytes);
        let base = base.map_err(|_| Status::OUT_OF_DEVICE_MEMORY)?;
        // SAFETY: the vendor's contract: one u64.
        unsafe { put(out, base + DEVICE_ADDRESSES) }
    })
}

#[unsafe(no_mangle)]
extern "C" fn synDeviceFree(_device: DeviceId, address: u64, _flags: u32) -> Status {
    // Without a device it succeeds: whoever ends has nothing left to free.
    if !fake().has_device() {
        return crate::fake::call("synDeviceFree", |_| Ok(()));
    }
    device_call("synDeviceFree", |fake| {
        let base = address.checked_sub(DEVICE_ADDRESSES).ok_or(Status::INVALID_ARGUMENT)?;
        let freed = fake.machine().memory().free(base, |place| matches!(place, Place::Device(_)));
        freed.map(drop).map_err(|_| Status::INVALID_ARGUMENT)
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn synHostMap(_device: DeviceId, bytes: u64, buffer: *const c_void) -> Status {
    if !fake().has_device() {
        // What the mapper says without a device.
        return crate::fake::call("synHostMap", |_| Err(Status::INVALID_ARGUMENT));
    }
    device_call("synHostMap", |fake| {
        // SAFETY: the vendor's contract: the buffer stays until it is unmapped.
        let program = unsafe { Pageable::new(buffer.cast_mut().cast()) }.ok_or(Status::NULL_POINTER)?;
        if bytes == 0 {
            return Err(Status::INVALID_ARGUMENT);
        }
        match fake.mapped(program.address(), bytes) {
            // The same again, or a part of it: nothing happens, and nothing is counted.
            Ok(()) => Ok(()),
            Err(Status::MAPPING_NOT_FOUND) => fake.map(program, bytes),
            Err(larger) => Err(larger),
        }
    })
}

#[unsafe(no_mangle)]
extern "C" fn synHostUnmap(_device: DeviceId, buffer: *const c_void) -> Status {
    if !fake().has_device() {
        return crate::fake::call("synHostUnmap", |_| Err(Status::INVALID_ARGUMENT));
    }
    device_call("synHostUnmap", |fake| {
        let (memory, base) = (fake.machine().memory(), buffer.addr() as u64);
        match memory.free(base, |place| place == Place::Registered) {
            Ok(_) => Ok(()),
            // An address inside a mapping is not its base: the driver has nothing to unmap there.
            Err(_) if memory.find(base).is_some_and(|area| area.place == Place::Registered) => {
                Err(Status::FAIL)
            }
            Err(_) => Ok(()),
        }
    })
}

impl Fake {
    fn map(&self, program: Pageable, bytes: u64) -> Answer {
        let limit: Option<u64> = self.machine().setting("map-limit").and_then(|text| text.parse().ok());
        let (_, mapped) = self.machine().memory().live(|place| place == Place::Registered);
        if limit.is_some_and(|limit| mapped + bytes > limit) {
            return Err(Status::OUT_OF_HOST_MEMORY);
        }
        self.machine().memory().register(program, bytes).map_err(|refused| match refused {
            Refused::OutOfMemory => Status::OUT_OF_HOST_MEMORY,
            _ => Status::INVALID_ARGUMENT,
        })
    }

    /// Whether a range of host memory is wholly inside one mapping.
    pub(crate) fn mapped(&self, address: u64, bytes: u64) -> Answer {
        let area = self.machine().memory().find(address).filter(|area| area.place == Place::Registered);
        let area = area.ok_or(Status::MAPPING_NOT_FOUND)?;
        let end = address.checked_add(bytes).ok_or(Status::INVALID_ARGUMENT)?;
        if end <= area.base + area.len {
            return Ok(());
        }
        // The mapper's "invalid size".
        Err(Status::INVALID_ARGUMENT)
    }
}
