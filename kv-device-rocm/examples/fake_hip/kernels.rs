//! Modules and kernels: the crate's own, compiled for the host from the source that the devices run.

use std::cell::Cell;
use std::ffi::{CStr, c_char, c_uint, c_void};
use std::ptr;

use kv_device::emulation::{Failure, Memory, Place, Work};

use crate::fake::{INVALID_HANDLE, INVALID_VALUE, In, Out, exported, handle_code, releasing};
use crate::queues::stream_of;

/// Arguments of both kernels, and the fixed number of threads that they are compiled for.
const ARGUMENTS: usize = 5;
const THREADS: u32 = 256;
/// `EM_AMDGPU`.
const MACHINE: u16 = 224;

#[link(name = "kv_kernels_on_host", kind = "static")]
unsafe extern "C" {
    fn kv_gather_on_host(arguments: *const u64, grid: *const u32, block: u32);
    fn kv_scatter_on_host(arguments: *const u64, grid: *const u32, block: u32);
}

/// The memory that a kernel of this thread works in.
#[derive(Clone, Copy)]
struct Running {
    memory: *const Memory,
    device: u32,
    /// The areas that were touched last: base, length, and where the host has it.
    windows: [(u64, u64, *mut u8); 3],
    oldest: usize,
    fault: Option<u64>,
}

thread_local! {
    static RUNNING: Cell<Option<Running>> = const { Cell::new(None) };
    static WASTE: Cell<[u128; 32]> = const { Cell::new([0; 32]) };
}

exported! {
    fn hipModuleLoadData(module: Out<u64>, image: *const u8) |fake| {
        fake.ready()?;
        if image.is_null() {
            return Err(INVALID_VALUE);
        }
        // SAFETY: "image: the location of data to be loaded", an ELF file, whose header has 64 bytes.
        let header = unsafe { std::slice::from_raw_parts(image, 64) };
        // hipErrorInvalidImage, hipErrorNoBinaryForGpu.
        match machine_of(header) {
            None => return Err(200),
            Some(machine) if machine != machine_named(&fake.arch()) => return Err(209),
            Some(_) => {}
        }
        let handle = fake.machine.new_handle();
        fake.objects().modules.insert(handle, fake.current());
        fake.machine.count_object("modules", 1);
        module.set(handle)
    }
    fn hipModuleGetFunction(function: Out<u64>, module: u64, name: *const c_char) |fake| {
        if !fake.objects().modules.contains_key(&module) {
            return Err(INVALID_HANDLE);
        }
        // SAFETY: "kname: name of function", a C string.
        let name = unsafe { CStr::from_ptr(name) };
        let scatters = match name.to_bytes() {
            b"kv_gather" => false,
            b"kv_scatter" => true,
            _ => return Err(500),
        };
        let handle = fake.machine.new_handle();
        fake.objects().functions.insert(handle, (module, scatters));
        function.set(handle)
    }
    fn hipModuleLaunchKernel(
        function: u64, gx: c_uint, gy: c_uint, gz: c_uint, bx: c_uint, by: c_uint, bz: c_uint, _shared: c_uint, stream: u64,
        parameters: In<*const u64>, _extra: *const c_void,
    ) |fake| {
        let (module, scatters) = *fake.objects().functions.get(&function).ok_or(INVALID_HANDLE)?;
        let loaded_on = fake.objects().modules.get(&module).copied();
        let stream = stream_of(fake, stream);
        let device = fake.machine.stream_device(stream).ok_or(INVALID_HANDLE)?;
        // The thread's device, the stream's and the module's are one.
        if loaded_on != Some(device) || fake.current() != device {
            return Err(INVALID_HANDLE);
        }
        // hipErrorInvalidConfiguration.
        if [gx, gy, gz].contains(&0) || (bx, by, bz) != (THREADS, 1, 1) {
            return Err(9);
        }
        let mut arguments = [0_u64; ARGUMENTS];
        for (index, argument) in arguments.iter_mut().enumerate() {
            let parameter = parameters.at(index);
            // SAFETY: "kernelParams: array of pointers to the parameters"; each of ours is a word of 8 bytes.
            *argument = unsafe { parameter.read() };
        }
        let grid = [gx, gy, gz];
        let skip = fake.number("skip-kernels", 0) == 1;
        let task = move |memory: &Memory| {
            if skip { Ok(()) } else { run(memory, device, scatters, &arguments, grid) }
        };
        // What a kernel moves is not known before it has run; the model is told by a setting.
        let bytes = u64::from(fake.number("kernel-bytes", 0));
        fake.machine.submit(stream, Work::Task { task: Box::new(task), bytes }).map_err(handle_code)
    }
}

releasing! {
    fn hipModuleUnload(module: u64) |fake| {
        let device = fake.objects().modules.remove(&module).ok_or(INVALID_HANDLE)?;
        fake.objects().functions.retain(|_, (of, _)| *of != module);
        fake.machine.count_object("modules", -1);
        let _ = fake.machine.synchronize_device(device);
        Ok(())
    }
}

fn run(
    memory: &Memory,
    device: u32,
    scatters: bool,
    arguments: &[u64; ARGUMENTS],
    grid: [u32; 3],
) -> Result<(), Failure> {
    let windows = [(0, 0, ptr::null_mut()); 3];
    RUNNING.set(Some(Running { memory, device, windows, oldest: 0, fault: None }));
    let kernel = if scatters { kv_scatter_on_host } else { kv_gather_on_host };
    // SAFETY: four words of arguments and three of the grid; what they name is looked up in `kv_at`, access by access.
    unsafe { kernel(arguments.as_ptr(), grid.as_ptr(), THREADS) };
    match RUNNING.replace(None).and_then(|running| running.fault) {
        None => Ok(()),
        Some(address) => Err(Failure::IllegalAddress(address)),
    }
}

/// Where the host reaches what the kernel that this thread runs accesses.
#[unsafe(no_mangle)]
extern "C" fn kv_at(address: u64, bytes: u64) -> *mut c_void {
    let waste = || WASTE.with(Cell::as_ptr).cast();
    let Some(mut running) = RUNNING.get() else { return waste() };
    // An access that is not aligned to its size is a fault on the device.
    let aligned = !bytes.is_power_of_two() || bytes > 16 || address.is_multiple_of(bytes);
    for (base, len, host) in running.windows {
        let offset = address.wrapping_sub(base);
        if aligned && offset < len && bytes <= len - offset {
            return host.wrapping_add(usize::try_from(offset).unwrap_or(0)).cast();
        }
    }
    // SAFETY: `run` keeps the memory borrowed while the kernel runs, on this thread.
    let memory = unsafe { &*running.memory };
    let found = memory.find(address).filter(|area| match area.place {
        // No peer access: the memory of another device is no memory.
        Place::Device(device) => device == running.device,
        _ => true,
    });
    let host = found.and_then(|area| memory.resolve(area.base, area.len).map(|host| (area, host.as_ptr())));
    match host {
        Some((area, host)) if aligned && address - area.base + bytes <= area.len => {
            running.windows[running.oldest] = (area.base, area.len, host);
            running.oldest = (running.oldest + 1) % running.windows.len();
            RUNNING.set(Some(running));
            host.wrapping_add(usize::try_from(address - area.base).unwrap_or(0)).cast()
        }
        _ => {
            running.fault = running.fault.or(Some(address));
            RUNNING.set(Some(running));
            waste()
        }
    }
}

/// The processor of an ELF file for AMD's: the low byte of `e_flags`.
fn machine_of(header: &[u8]) -> Option<u8> {
    let elf = header.starts_with(b"\x7fELF") && header.get(18..20)? == MACHINE.to_le_bytes();
    header.get(48).copied().filter(|_| elf)
}

/// A processor as the compiler names it, and its number in LLVM's AMDGPU user guide.
pub(crate) struct Processor {
    pub(crate) isa: &'static CStr,
    machine: u8,
}

pub(crate) const PROCESSORS: [Processor; 4] = [
    Processor { isa: c"amdgcn-amd-amdhsa--gfx908", machine: 0x30 },
    Processor { isa: c"amdgcn-amd-amdhsa--gfx90a:xnack-", machine: 0x3f },
    Processor { isa: c"amdgcn-amd-amdhsa--gfx942", machine: 0x4c },
    Processor { isa: c"amdgcn-amd-amdhsa--gfx950", machine: 0x4f },
];

/// The number of `gfx...`; 0 of one that is not known.
pub(crate) fn machine_named(arch: &str) -> u8 {
    let named = |processor: &&Processor| {
        let target = processor.isa.to_str().ok().and_then(|isa| isa.strip_prefix("amdgcn-amd-amdhsa--"));
        target.and_then(|target| target.split(':').next()) == Some(arch)
    };
    PROCESSORS.iter().find(named).map_or(0, |processor| processor.machine)
}

/// The least of an ELF file for a processor.
pub(crate) fn image_for(arch: &str) -> Vec<u8> {
    let mut image = vec![0; 64];
    image[..4].copy_from_slice(b"\x7fELF");
    image[18..20].copy_from_slice(&MACHINE.to_le_bytes());
    image[48] = machine_named(arch);
    image
}
