//! The process's runtime: whether it was started, which device it has, and what every function does first.

use std::ffi::{c_char, c_void};
use std::fs::File;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use kv_device::emulation::{Failure, HandleError, Machine};
use kv_device_hpu::sys::{ModuleId, Status};
use rustix::fs::{FlockOperation, flock};

/// The device of a process is always this one.
pub(crate) const DEVICE: u32 = 0;
/// Added to the machine's addresses, so that a device address is no address of the host.
pub(crate) const DEVICE_ADDRESSES: u64 = 0x1001_0000_0000_0000;
/// Bytes of the range that has all of the machine's addresses. A real device's range is as long as its memory.
pub(crate) const ADDRESS_RANGE: u64 = 1 << 47;

/// What a function of the runtime answers.
pub(crate) type Answer = Result<(), Status>;

/// The runtime of one process.
pub(crate) struct Fake {
    machine: Arc<Machine>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    initialized: bool,
    acquired: Option<Acquired>,
}

/// The acquired device; other processes see the lock.
#[derive(Debug)]
struct Acquired {
    module: ModuleId,
    _lock: Option<File>,
}

/// The one runtime of this library.
pub(crate) fn fake() -> &'static Fake {
    static FAKE: OnceLock<Fake> = OnceLock::new();
    FAKE.get_or_init(|| {
        let machine = Machine::new();
        machine.run_script();
        Fake { machine, state: Mutex::default() }
    })
}

/// Runs a function: counts it, fails if a test says so, and turns its answer into a code.
pub(crate) fn call(symbol: &'static str, body: impl FnOnce(&'static Fake) -> Answer) -> Status {
    let fake = fake();
    if let Some(code) = fake.machine.enter(symbol) {
        return Status(code);
    }
    body(fake).err().unwrap_or(Status::SUCCESS)
}

/// Runs a function that needs the acquired device: not without one, and not after it has failed.
pub(crate) fn device_call(symbol: &'static str, body: impl FnOnce(&'static Fake) -> Answer) -> Status {
    call(symbol, |fake| {
        fake.check_device()?;
        body(fake)
    })
}

impl Fake {
    pub(crate) fn machine(&self) -> &Arc<Machine> {
        &self.machine
    }

    pub(crate) fn initialize(&self) {
        self.state().initialized = true;
    }

    pub(crate) fn end(&self) {
        *self.state() = State::default();
    }

    /// Fails unless `synInitialize` was called.
    pub(crate) fn check_initialized(&self) -> Answer {
        if self.state().initialized { Ok(()) } else { Err(Status::UNINITIALIZED) }
    }

    /// Fails with the generic code unless a device is acquired, and with the last one after it has failed.
    pub(crate) fn check_device(&self) -> Answer {
        self.check_initialized()?;
        if !self.has_device() {
            return Err(Status::FAIL);
        }
        self.machine.failure(DEVICE).map_or(Ok(()), |failure| Err(code(failure)))
    }

    pub(crate) fn has_device(&self) -> bool {
        self.state().acquired.is_some()
    }

    /// Module of the acquired device.
    pub(crate) fn module(&self) -> Option<ModuleId> {
        self.state().acquired.as_ref().map(|acquired| acquired.module)
    }

    /// Takes the first of these modules that no process has.
    pub(crate) fn acquire(&self, modules: impl IntoIterator<Item = ModuleId>) -> Answer {
        self.check_initialized()?;
        let mut state = self.state();
        if state.acquired.is_some() {
            return Err(Status::DEVICE_ALREADY_ACQUIRED);
        }
        for module in modules.into_iter().filter(|module| *module < self.modules()) {
            if let Some(lock) = self.lock(module) {
                state.acquired = Some(Acquired { module, _lock: lock });
                drop(state);
                self.machine.count_object("device", 1);
                return Ok(());
            }
        }
        Err(Status::NO_DEVICE_FOUND)
    }

    /// Gives the device back.
    pub(crate) fn release(&self) -> Answer {
        match self.state().acquired.take() {
            Some(_) => {
                self.machine.count_object("device", -1);
                Ok(())
            }
            None => Err(Status::NO_DEVICE_FOUND),
        }
    }

    /// `None` if another process has the module; `Some(None)` if processes share nothing.
    fn lock(&self, module: ModuleId) -> Option<Option<File>> {
        let Some(directory) = self.machine.setting("locks") else { return Some(None) };
        let path = Path::new(&directory).join(format!("module-{module}"));
        let file = File::options().create(true).truncate(false).write(true).open(path).ok()?;
        flock(&file, FlockOperation::NonBlockingLockExclusive).ok()?;
        Some(Some(file))
    }

    /// Accelerators of the host.
    pub(crate) fn modules(&self) -> u32 {
        self.number("modules", 8).try_into().unwrap_or(u32::MAX)
    }

    /// `synDeviceType` of all of them.
    pub(crate) fn device_type(&self) -> i32 {
        if self.is_gaudi2() { 4 } else { 5 }
    }

    pub(crate) fn is_gaudi2(&self) -> bool {
        self.machine.setting("type").as_deref() == Some("gaudi2")
    }

    /// Bytes of device memory.
    pub(crate) fn memory_bytes(&self) -> u64 {
        self.number("memory", if self.is_gaudi2() { 96 << 30 } else { 128 << 30 })
    }

    fn number(&self, key: &str, default: u64) -> u64 {
        self.machine.setting(key).and_then(|text| text.parse().ok()).unwrap_or(default)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every change is one assignment.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The code of a device that failed: the device-failure handler has ended the runtime.
pub(crate) fn code(failure: Failure) -> Status {
    match failure {
        Failure::Hung => Status::TIMEOUT,
        _ => Status::SYNAPSE_TERMINATED,
    }
}

/// The code of a call about a stream or an event; `unknown` if there is none with that handle.
pub(crate) fn handle_code(error: HandleError, unknown: Status) -> Status {
    match error {
        HandleError::Unknown => unknown,
        HandleError::Failed(failure) => code(failure),
    }
}

/// A handle as a number.
pub(crate) fn number(handle: *mut c_void) -> u64 {
    handle.addr() as u64
}

/// Writes an answer where the caller wants it.
///
/// # Safety
/// `out` is null or points to room for a `T`.
pub(crate) unsafe fn put<T>(out: *mut T, value: T) -> Answer {
    if out.is_null() {
        return Err(Status::NULL_POINTER);
    }
    // SAFETY: it is not null, and the rest is the contract.
    unsafe { out.write_unaligned(value) };
    Ok(())
}

/// Writes a C string, cut to the room.
///
/// # Safety
/// `out` is null or has room for `len` bytes.
pub(crate) unsafe fn put_text(out: *mut c_char, len: u64, text: &str) -> Answer {
    let room = usize::try_from(len).ok().and_then(|len| len.checked_sub(1));
    let (Some(room), false) = (room, out.is_null()) else { return Err(Status::INVALID_ARGUMENT) };
    let bytes = text.len().min(room);
    // SAFETY: `out` has `len` bytes, and fewer are written.
    unsafe { std::ptr::copy_nonoverlapping(text.as_ptr().cast(), out, bytes) };
    // SAFETY: as above.
    unsafe { out.wrapping_add(bytes).write(0) };
    Ok(())
}
