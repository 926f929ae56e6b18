//! The emulated runtime as a test uses it: its own copy of the library, its control, and an engine that calls HIP as engines do.
#![allow(dead_code, clippy::allow_attributes, reason = "each test uses a part of it")]

use std::ffi::{c_int, c_uint, c_void};
use std::path::PathBuf;
use std::sync::Arc;

use kv_device::conformance::{Engine, EngineFence, EngineMemory};
use kv_device::dynamic::{Library, LibrarySearch};
use kv_device::emulation::{Control, own_copy};
use kv_device::{Device, DeviceRegion, Error, ErrorKind, Fence, Result};
use kv_device_rocm::{EngineStream, RocmDevice, RocmFence, RocmOptions};

/// The device of the tests: not 0, which is current on every new thread.
pub(crate) const ORDINAL: u32 = 1;

/// The emulated runtime's file, which cargo builds beside the tests.
pub(crate) fn fake_file() -> PathBuf {
    let program = std::env::current_exe().unwrap();
    let folder = program.parent().and_then(std::path::Path::parent).unwrap();
    let file = folder.join("examples/libfake_hip.so");
    assert!(
        file.exists(),
        "{} is not built: cargo build -p kv-device-rocm --features emulation --example fake_hip",
        file.display()
    );
    file
}

/// A copy of the emulated runtime that no other test uses.
#[derive(Debug, Clone)]
pub(crate) struct FakeHip {
    pub(crate) file: PathBuf,
    pub(crate) library: Library,
    pub(crate) control: Control,
}

impl FakeHip {
    /// A copy that has run these commands.
    pub(crate) fn new(commands: &[&str]) -> Self {
        let file = own_copy(&fake_file()).unwrap();
        Self::of(file, commands)
    }

    pub(crate) fn of(file: PathBuf, commands: &[&str]) -> Self {
        let library = open(&file).unwrap();
        let fake = Self { control: Control::of(&library).unwrap(), library, file };
        commands.iter().for_each(|command| drop(fake.tell(command)));
        fake
    }

    /// Runs a command.
    pub(crate) fn tell(&self, command: &str) -> String {
        self.control.command(command).unwrap()
    }

    /// Opens a device of it.
    pub(crate) fn device(&self) -> Result<Arc<RocmDevice>> {
        RocmDevice::open_with(self.options())
    }

    pub(crate) fn options(&self) -> RocmOptions {
        RocmOptions::new(ORDINAL).library(&self.file)
    }

    /// Opens a device, and an engine on it.
    pub(crate) fn engine(&self) -> HipEngine {
        self.engine_with(self.options()).unwrap()
    }

    pub(crate) fn engine_with(&self, options: RocmOptions) -> Result<HipEngine> {
        Ok(HipEngine { device: RocmDevice::open_with(options)?, calls: Arc::new(Calls::of(self)) })
    }
}

/// `SIGABRT`.
pub(crate) const ABORTED: i32 = 6;
pub(crate) fn open(file: &std::path::Path) -> Result<Library> {
    let search = LibrarySearch { what: "fake_hip", variable: "UNUSED", names: &[], directories: Vec::new() };
    search.open_with(Some(file.as_os_str()), "fake")
}

/// HIP as an engine calls it.
#[derive(Debug)]
pub(crate) struct Calls {
    control: Control,
    set_device: unsafe extern "C" fn(c_int) -> c_int,
    malloc: unsafe extern "C" fn(*mut *mut c_void, usize) -> c_int,
    free: unsafe extern "C" fn(*mut c_void) -> c_int,
    memcpy: unsafe extern "C" fn(*mut c_void, *const c_void, usize, c_int) -> c_int,
    memset: unsafe extern "C" fn(*mut c_void, c_int, usize, *mut c_void) -> c_int,
    pointer_attributes: unsafe extern "C" fn(*mut [u64; 32], *const c_void) -> c_int,
    stream_create: unsafe extern "C" fn(*mut *mut c_void, c_uint) -> c_int,
    stream_destroy: unsafe extern "C" fn(*mut c_void) -> c_int,
}

impl Calls {
    pub(crate) fn of(fake: &FakeHip) -> Self {
        let library = &fake.library;
        // SAFETY: the types are those of HIP's header; so it is below.
        let set_device = unsafe { library.symbol("hipSetDevice") }.unwrap();
        // SAFETY: as above.
        let malloc = unsafe { library.symbol("hipMalloc") }.unwrap();
        // SAFETY: as above.
        let free = unsafe { library.symbol("hipFree") }.unwrap();
        // SAFETY: as above.
        let memcpy = unsafe { library.symbol("hipMemcpy") }.unwrap();
        // SAFETY: as above.
        let memset = unsafe { library.symbol("hipMemsetAsync") }.unwrap();
        // SAFETY: as above.
        let pointer_attributes = unsafe { library.symbol("hipPointerGetAttributes") }.unwrap();
        // SAFETY: as above.
        let stream_create = unsafe { library.symbol("hipStreamCreateWithFlags") }.unwrap();
        // SAFETY: as above.
        let stream_destroy = unsafe { library.symbol("hipStreamDestroy") }.unwrap();
        Self {
            control: fake.control,
            set_device,
            malloc,
            free,
            memcpy,
            memset,
            pointer_attributes,
            stream_create,
            stream_destroy,
        }
    }

    /// With the test's device current, and device 0 after it.
    fn on_device(&self, call: impl FnOnce() -> c_int) -> c_int {
        // SAFETY: takes a number.
        let set = unsafe { (self.set_device)(i32::try_from(ORDINAL).unwrap()) };
        let code = if set == 0 { call() } else { set };
        // SAFETY: takes a number.
        unsafe { (self.set_device)(0) };
        code
    }

    /// A stream of the engine's own.
    pub(crate) fn stream(self: &Arc<Self>) -> Result<OwnStream> {
        let mut raw = std::ptr::null_mut();
        // SAFETY: writes a handle that outlives the call.
        check(self.on_device(|| unsafe { (self.stream_create)(&raw mut raw, 1) }))?;
        Ok(OwnStream { calls: Arc::clone(self), raw })
    }
}

/// A stream of an engine.
#[derive(Debug)]
pub(crate) struct OwnStream {
    calls: Arc<Calls>,
    pub(crate) raw: *mut c_void,
}

// SAFETY: a handle, which may be used on any thread.
unsafe impl Send for OwnStream {}
// SAFETY: as above.
unsafe impl Sync for OwnStream {}

impl OwnStream {
    pub(crate) fn hold(&self, held: bool) -> Result<String> {
        let word = if held { "hold" } else { "release" };
        self.calls.control.command(&format!("{word} {:#x}", self.raw.addr()))
    }

    /// A write that an engine queues.
    pub(crate) fn fill(&self, region: DeviceRegion, value: u8) -> Result<()> {
        let to = pointer(region.address);
        let len = usize::try_from(region.len).unwrap();
        // SAFETY: a live region of the device, and a live stream.
        check(unsafe { (self.calls.memset)(to, i32::from(value), len, self.raw) })
    }

    pub(crate) fn fence(&self, device: &RocmDevice) -> Result<Arc<RocmFence>> {
        // SAFETY: the stream is alive, and of this device.
        unsafe { device.fence_after(EngineStream(self.raw)) }
    }
}

impl Drop for OwnStream {
    fn drop(&mut self) {
        drop(self.hold(false));
        // SAFETY: this value owns the stream.
        unsafe { (self.calls.stream_destroy)(self.raw) };
    }
}

/// An engine on an emulated device.
#[derive(Debug)]
pub(crate) struct HipEngine {
    pub(crate) device: Arc<RocmDevice>,
    pub(crate) calls: Arc<Calls>,
}

impl Engine for HipEngine {
    fn device(&self) -> Arc<dyn Device> {
        Arc::<RocmDevice>::clone(&self.device)
    }

    fn allocate(&self, bytes: usize) -> Result<Arc<dyn EngineMemory>> {
        let mut address = std::ptr::null_mut();
        // SAFETY: writes a pointer that outlives the call.
        check(self.calls.on_device(|| unsafe { (self.calls.malloc)(&raw mut address, bytes) }))?;
        let region = DeviceRegion { address: address.addr() as u64, len: bytes as u64 };
        Ok(Arc::new(Memory { region, calls: Arc::clone(&self.calls) }))
    }

    fn fence(&self) -> Result<Box<dyn EngineFence>> {
        let stream = self.calls.stream()?;
        stream.hold(true)?;
        let fence = stream.fence(&self.device)?;
        Ok(Box::new(Signal { fence, stream }))
    }

    fn reaches(&self, address: u64) -> Option<bool> {
        let mut found = [0; 32];
        // SAFETY: fills a structure that is smaller than the room in every version; the address is looked up, and not followed.
        let code = unsafe { (self.calls.pointer_attributes)(&raw mut found, pointer(address)) };
        // hostPointer, which memory has that the runtime has allocated or registered.
        Some(code == 0 && found[2] != 0)
    }
}

#[derive(Debug)]
struct Memory {
    region: DeviceRegion,
    calls: Arc<Calls>,
}

impl Memory {
    fn at(&self, offset: usize) -> *mut c_void {
        pointer(self.region.address + offset as u64)
    }
}

impl EngineMemory for Memory {
    fn region(&self) -> DeviceRegion {
        self.region
    }

    fn read(&self, offset: usize, to: &mut [u8]) -> Result<()> {
        // SAFETY: the range is inside the allocation, and the slice as long.
        check(unsafe { (self.calls.memcpy)(to.as_mut_ptr().cast(), self.at(offset), to.len(), 2) })
    }

    fn write(&self, offset: usize, from: &[u8]) -> Result<()> {
        // SAFETY: the range is inside the allocation, and the slice as long.
        check(unsafe { (self.calls.memcpy)(self.at(offset), from.as_ptr().cast(), from.len(), 1) })
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: this value owns the allocation.
        unsafe { (self.calls.free)(self.at(0)) };
    }
}

/// A fence behind a stream that is held.
#[derive(Debug)]
struct Signal {
    fence: Arc<RocmFence>,
    stream: OwnStream,
}

impl EngineFence for Signal {
    fn fence(&self) -> Arc<dyn Fence> {
        Arc::<RocmFence>::clone(&self.fence)
    }

    fn signal(&self) {
        drop(self.stream.hold(false));
    }
}

/// An address of the device as C has it.
fn pointer(address: u64) -> *mut c_void {
    std::ptr::with_exposed_provenance_mut(usize::try_from(address).unwrap())
}

pub(crate) fn check(code: c_int) -> Result<()> {
    match code {
        0 => Ok(()),
        code => Err(Error::new(ErrorKind::Vendor, "engine", format!("code {code}"))),
    }
}
