//! Device memory, pinned memory, and whose an address is.

use std::ffi::{c_int, c_uint, c_void};

use kv_device::emulation::{Area, Pageable, Place, Side};

use crate::fake::{Fake, INVALID_VALUE, Out, code_of, exported, refused_code, releasing};

/// What fresh memory is full of.
const FRESH: u8 = 0xA5;

/// `hipPointerAttribute_t`.
#[repr(C)]
pub(crate) struct PointerAttributes {
    kind: c_int,
    device: c_int,
    device_pointer: u64,
    host_pointer: u64,
    managed: c_int,
    flags: c_uint,
}

exported! {
    fn hipMalloc(pointer: Out<u64>, bytes: usize) |fake| {
        fake.ready()?;
        if bytes == 0 {
            return pointer.set(0);
        }
        let address = fake.machine.memory().allocate(fake.current(), bytes as u64).map_err(refused_code)?;
        fresh(fake, address, bytes)?;
        pointer.set(address)
    }
    fn hipHostMalloc(pointer: Out<u64>, bytes: usize, _flags: c_uint) |fake| {
        fake.ready()?;
        let address = fake.machine.memory().allocate_pinned(bytes as u64).map_err(refused_code)?;
        fresh(fake, address, bytes)?;
        pointer.set(address)
    }
    fn hipHostGetDevicePointer(device: Out<u64>, host: u64, flags: c_uint) |fake| {
        let known = fake.machine.memory().find(host).filter(|area| !matches!(area.place, Place::Device(_)));
        if known.is_none() || flags != 0 {
            return Err(INVALID_VALUE);
        }
        device.set(host)
    }
    fn hipHostRegister(pointer: *mut u8, bytes: usize, flags: c_uint) |fake| {
        fake.ready()?;
        if flags > 15 {
            return Err(INVALID_VALUE);
        }
        // SAFETY: "hostPtr: pointer to host memory to be registered", which the caller keeps until it is unregistered.
        let program = unsafe { Pageable::new(pointer) }.ok_or(INVALID_VALUE)?;
        fake.machine.memory().register(program, bytes as u64).map_err(refused_code)
    }
    fn hipPointerGetAttributes(out: Out<PointerAttributes>, pointer: u64) |fake| {
        let old = fake.version() < 60_000_000;
        let (kind, device, area) = match fake.machine.memory().find(pointer) {
            Some(area) => match area.place {
                Place::Device(device) => (if old { 1 } else { 2 }, device, Some(area)),
                _ => (if old { 0 } else { 1 }, 0, Some(area)),
            },
            // Unregistered, since 6.0; an error before.
            None if old => return Err(INVALID_VALUE),
            None => (0, 0, None),
        };
        let host = area.is_some_and(|area| !matches!(area.place, Place::Device(_)));
        out.set(PointerAttributes {
            kind,
            device: c_int::try_from(device).map_err(|_| INVALID_VALUE)?,
            device_pointer: if area.is_some() { pointer } else { 0 },
            host_pointer: if host { pointer } else { 0 },
            managed: 0,
            flags: 0,
        })
    }
    fn hipMemGetAddressRange(base: Out<u64>, size: Out<usize>, pointer: u64) |fake| {
        // hipErrorNotFound.
        let area = device_area(fake, pointer).ok_or(500)?;
        base.set(area.base)?;
        size.set(usize::try_from(area.len).map_err(|_| INVALID_VALUE)?)
    }
    // The calls of an engine in tests: at once, and from wherever.
    fn hipMemcpy(to: *mut c_void, from: *mut c_void, bytes: usize, _kind: c_int) |fake| {
        let (to, from) = (side(fake, to, bytes)?, side(fake, from, bytes)?);
        fake.machine.memory().copy(to, from, bytes as u64).map_err(code_of)
    }
}

releasing! {
    fn hipFree(pointer: u64) |fake| {
        if pointer == 0 {
            return Ok(());
        }
        // "Waits until all commands of the device have ended", hence a kernel never loses its memory.
        if let Some(Area { place: Place::Device(device), .. }) = fake.machine.memory().find(pointer) {
            let _ = fake.machine.synchronize_device(device);
        }
        let freed = fake.machine.memory().free(pointer, |place| matches!(place, Place::Device(_)));
        freed.map(drop).map_err(refused_code)
    }
    fn hipHostFree(pointer: u64) |fake| {
        if pointer == 0 {
            return Ok(());
        }
        fake.machine.memory().free(pointer, |place| place == Place::Pinned).map(drop).map_err(refused_code)
    }
    fn hipHostUnregister(pointer: u64) |fake| {
        let _ = fake.machine.synchronize_device(fake.current());
        // hipErrorHostMemoryNotRegistered.
        fake.machine.memory().free(pointer, |place| place == Place::Registered).map(drop).map_err(|_| 713)
    }
}

/// The live device memory that holds an address.
pub(crate) fn device_area(fake: &Fake, address: u64) -> Option<Area> {
    fake.machine.memory().find(address).filter(|area| matches!(area.place, Place::Device(_)))
}

/// A side of a copy of so many bytes: inside an area, or the program's own memory.
pub(crate) fn side(fake: &Fake, pointer: *mut c_void, bytes: usize) -> Result<Side, i32> {
    let address = pointer.addr() as u64;
    let memory = fake.machine.memory();
    match memory.find(address) {
        Some(area) if address - area.base + bytes as u64 > area.len => Err(INVALID_VALUE),
        Some(_) => Ok(Side::Known(address)),
        // hipErrorInvalidDevicePointer.
        None if memory.was_freed(address) => Err(17),
        None => {
            // SAFETY: what is no memory of the runtime is the program's own, which it promises to keep for the copy.
            let program = unsafe { Pageable::new(pointer.cast()) };
            program.map(Side::Pageable).ok_or(INVALID_VALUE)
        }
    }
}

fn fresh(fake: &Fake, address: u64, bytes: usize) -> Result<(), i32> {
    fake.machine.memory().fill(Side::Known(address), FRESH, bytes as u64).map_err(code_of)
}
