//! Devices and what they say of themselves.

use std::ffi::{c_int, c_uint};

use crate::fake::{Fake, INVALID_DEVICE, INVALID_VALUE, NO_DEVICE, Out, OutBytes, exported};

/// 192 GB, as an MI300X has.
const MEMORY: usize = 192 << 30;
const NAME: &str = "AMD Instinct MI300X (emulated)";
/// Size of the properties, and where arch and memory stand, in the structure of 6.0 and in the one of 5.x.
const R0600: (usize, usize, usize) = (1472, 1160, 288);
const R0000: (usize, usize, usize) = (792, 396, 256);

exported! {
    fn hipInit(_flags: c_uint) |fake| { fake.ready().map_err(|code| if fake.version() < 60_000_000 { INVALID_DEVICE } else { code }) }
    fn hipRuntimeGetVersion(version: Out<c_int>) |fake| { version.set(fake.version()) }
    fn hipDriverGetVersion(version: Out<c_int>) |fake| { version.set(fake.version()) }
    fn hipGetDeviceCount(count: Out<c_int>) |fake| {
        count.set(c_int::try_from(fake.devices()).map_err(|_| INVALID_VALUE)?)?;
        if fake.devices() == 0 { Err(NO_DEVICE) } else { Ok(()) }
    }
    fn hipSetDevice(ordinal: c_int) |fake| {
        fake.set_current(fake.device(ordinal)?);
        Ok(())
    }
    fn hipGetDevice(ordinal: Out<c_int>) |fake| {
        fake.ready()?;
        ordinal.set(c_int::try_from(fake.current()).map_err(|_| INVALID_VALUE)?)
    }
    fn hipDeviceGetName(name: OutBytes, len: c_int, ordinal: c_int) |fake| {
        fake.device(ordinal)?;
        name.set(NAME, len)
    }
    fn hipDeviceTotalMem(bytes: Out<usize>, ordinal: c_int) |fake| {
        fake.device(ordinal)?;
        bytes.set(MEMORY)
    }
    fn hipDeviceGetPCIBusId(name: OutBytes, len: c_int, ordinal: c_int) |fake| {
        let device = fake.device(ordinal)?;
        if len < 13 {
            return Err(INVALID_VALUE);
        }
        name.set(&format!("0000:C{device:x}:00.0"), len)
    }
    fn hipDeviceGetAttribute(value: Out<c_int>, attribute: c_int, ordinal: c_int) |fake| {
        let device = fake.device(ordinal)?;
        let capability = match fake.arch().as_str() {
            "gfx90a" => 0,
            "gfx950" => 5,
            _ => 4,
        };
        match attribute {
            23 => value.set(9),
            61 => value.set(capability),
            92 if fake.version() >= 70_200_000 => value.set(c_int::try_from(device / 4).map_err(|_| INVALID_VALUE)?),
            _ => Err(INVALID_VALUE),
        }
    }
    fn hipMemGetInfo(free: Out<usize>, total: Out<usize>) |fake| {
        fake.ready()?;
        let (_, used) = fake.machine.memory().live(|place| place == kv_device::emulation::Place::Device(fake.current()));
        free.set(MEMORY.saturating_sub(usize::try_from(used).map_err(|_| INVALID_VALUE)?))?;
        total.set(MEMORY)
    }
    fn hipGetDevicePropertiesR0600(properties: OutBytes, ordinal: c_int) |fake| {
        fake.device(ordinal)?;
        properties.write(&structure(fake, R0600))
    }
    // The structure of 5.x, in every version.
    fn hipGetDeviceProperties(properties: OutBytes, ordinal: c_int) |fake| {
        fake.device(ordinal)?;
        properties.write(&structure(fake, R0000))
    }
    fn hipDeviceSynchronize() |fake| { fake.machine.synchronize_device(fake.current()).map_err(crate::fake::handle_code) }
}

fn structure(fake: &Fake, (len, arch_at, memory_at): (usize, usize, usize)) -> Vec<u8> {
    let mut bytes = vec![0; len];
    let mut put = |at: usize, what: &[u8]| {
        if let Some(room) = bytes.get_mut(at..at + what.len()) {
            room.copy_from_slice(what);
        }
    };
    put(0, NAME.as_bytes());
    put(memory_at, &MEMORY.to_le_bytes());
    put(arch_at, format!("{}:sramecc+:xnack-", fake.arch()).as_bytes());
    bytes
}
