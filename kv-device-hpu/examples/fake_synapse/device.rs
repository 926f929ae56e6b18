//! Starting and ending the runtime, and the accelerators.

use std::ffi::{c_char, c_void};

use kv_device_hpu::sys::{DeviceFacts, DeviceId, ModuleId, Status};

use crate::fake::{ADDRESS_RANGE, DEVICE, DEVICE_ADDRESSES, call, device_call, fake, put, put_text};

#[unsafe(no_mangle)]
extern "C" fn synInitialize() -> Status {
    call("synInitialize", |fake| {
        fake.initialize();
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn synDestroy() -> Status {
    call("synDestroy", |fake| {
        fake.check_initialized()?;
        if fake.modules() == 0 {
            // The real one does not return. A test asks for the setting.
            let _ = fake.machine().command("set hung yes");
            return Err(Status::TIMEOUT);
        }
        let _ = fake.release();
        fake.end();
        Ok(())
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn synDriverGetVersion(out: *mut c_char, len: i32) -> Status {
    call("synDriverGetVersion", |fake| {
        let version = fake.machine().setting("version").unwrap_or_else(|| "1.21.0.555".into());
        let len = u64::try_from(len).map_err(|_| Status::INVALID_ARGUMENT)?;
        // SAFETY: the vendor's contract: `out` has `len` bytes.
        unsafe { put_text(out, len, &version) }
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn synStatusGetBriefDescription(status: Status, out: *mut c_char, len: u64) -> Status {
    // Not counted and not failed: the vendor's is a table.
    let text = format!("emulated: {}", status.name());
    // SAFETY: the vendor's contract: `out` has `len` bytes.
    unsafe { put_text(out, len, &text) }.err().unwrap_or(Status::SUCCESS)
}

#[unsafe(no_mangle)]
unsafe extern "C" fn synDeviceGetCount(out: *mut u32) -> Status {
    call("synDeviceGetCount", |fake| {
        fake.check_initialized()?;
        // SAFETY: the vendor's contract: null or one u32.
        unsafe { put(out, fake.modules()) }
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn synDeviceGetModuleIDs(ids: *mut ModuleId, size: *mut u32) -> Status {
    call("synDeviceGetModuleIDs", |fake| {
        fake.check_initialized()?;
        if ids.is_null() || size.is_null() {
            return Err(Status::NULL_POINTER);
        }
        // SAFETY: it is not null: by the vendor's contract one u32, the room behind `ids`.
        let room = unsafe { size.read_unaligned() };
        let count = fake.modules();
        if room < count {
            return Err(Status::INVALID_ARGUMENT);
        }
        for module in 0..count {
            // SAFETY: `ids` has room for `room` ids.
            unsafe { put(ids.wrapping_add(module as usize), module) }?;
        }
        // SAFETY: as above.
        unsafe { put(size, count) }
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn synDeviceGetAttributeByModuleId(
    out: *mut u64,
    attributes: *const i32,
    count: u32,
    module: ModuleId,
) -> Status {
    call("synDeviceGetAttributeByModuleId", |fake| {
        fake.check_initialized()?;
        if attributes.is_null() {
            return Err(Status::NULL_POINTER);
        }
        if module >= fake.modules() {
            return Err(Status::NO_DEVICE_FOUND);
        }
        for index in 0..count as usize {
            // SAFETY: the vendor's contract: `count` attributes.
            let attribute = unsafe { attributes.wrapping_add(index).read_unaligned() };
            let value = match attribute {
                1 => DEVICE_ADDRESSES,
                3 => fake.memory_bytes(),
                7 => u64::try_from(fake.device_type()).unwrap_or(0),
                _ => return Err(Status::UNSUPPORTED),
            };
            // SAFETY: the vendor's contract: room for `count` values.
            unsafe { put(out.wrapping_add(index), value) }?;
        }
        Ok(())
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn synDeviceAcquireByDeviceType(out: *mut DeviceId, kind: i32) -> Status {
    call("synDeviceAcquireByDeviceType", |fake| {
        if out.is_null() {
            return Err(Status::NULL_POINTER);
        }
        let modules = if kind == fake.device_type() { fake.modules() } else { 0 };
        fake.acquire(0..modules)?;
        // SAFETY: the vendor's contract: one id.
        unsafe { put(out, DEVICE) }
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn synDeviceAcquireByModuleId(out: *mut DeviceId, module: ModuleId) -> Status {
    call("synDeviceAcquireByModuleId", |fake| {
        if out.is_null() {
            return Err(Status::NULL_POINTER);
        }
        fake.acquire([module])?;
        // SAFETY: the vendor's contract: one id.
        unsafe { put(out, DEVICE) }
    })
}

#[unsafe(no_mangle)]
extern "C" fn synDeviceRelease(_device: DeviceId) -> Status {
    call("synDeviceRelease", |fake| {
        fake.check_initialized()?;
        fake.release()
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn synDeviceGetName(out: *mut c_char, len: i32, _device: DeviceId) -> Status {
    device_call("synDeviceGetName", |fake| {
        let name = if fake.is_gaudi2() { "HL-225 (emulated)" } else { "HL-325L (emulated)" };
        let len = u64::try_from(len).map_err(|_| Status::INVALID_ARGUMENT)?;
        // SAFETY: the vendor's contract: `out` has `len` bytes.
        unsafe { put_text(out, len, name) }
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn synDeviceGetPCIBusId(out: *mut c_char, len: i32, _device: DeviceId) -> Status {
    device_call("synDeviceGetPCIBusId", |fake| {
        let address = format!("0000:{:02x}:00.0", 0x19 + fake.module().unwrap_or(0));
        let len = u64::try_from(len).map_err(|_| Status::INVALID_ARGUMENT)?;
        // SAFETY: the vendor's contract: `out` has `len` bytes.
        unsafe { put_text(out, len, &address) }
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn synDeviceGetInfoV2(_device: DeviceId, out: *mut c_void) -> Status {
    device_call("synDeviceGetInfoV2", |fake| {
        let facts = DeviceFacts {
            dram_base: DEVICE_ADDRESSES,
            dram_size: ADDRESS_RANGE,
            device_type: fake.device_type(),
            device_index: fake.module().and_then(|module| u8::try_from(module).ok()).unwrap_or(0),
            global_hbm_base: 0,
        };
        // SAFETY: the vendor's contract: one `synDeviceInfoV2`, which has as many bytes.
        unsafe { put(out.cast(), facts.to_bytes()) }
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn synDeviceGetMemoryInfo(_device: DeviceId, free: *mut u64, total: *mut u64) -> Status {
    device_call("synDeviceGetMemoryInfo", |_| {
        let all = fake().memory_bytes();
        let (_, used) =
            fake().machine().memory().live(|place| matches!(place, kv_device::emulation::Place::Device(_)));
        // SAFETY: the vendor's contract: one u64 each.
        unsafe { put(free, all.saturating_sub(used)) }?;
        // SAFETY: as above.
        unsafe { put(total, all) }
    })
}
