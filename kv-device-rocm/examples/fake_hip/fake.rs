//! The state of the runtime beside its machine, and how a C function becomes one of Rust.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::ffi::{c_char, c_int};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use kv_device::emulation::{Failure, HandleError, Machine, Refused};

/// `hipError_t`.
pub(crate) type Code = c_int;
/// A code other than 0 is the error.
pub(crate) type Answer = Result<(), Code>;

pub(crate) const INVALID_VALUE: Code = 1;
pub(crate) const OUT_OF_MEMORY: Code = 2;
pub(crate) const NO_DEVICE: Code = 100;
pub(crate) const INVALID_DEVICE: Code = 101;
pub(crate) const INVALID_HANDLE: Code = 400;

thread_local! {
    static CURRENT: Cell<u32> = const { Cell::new(0) };
}

/// The runtime.
pub(crate) struct Fake {
    pub(crate) machine: Arc<Machine>,
    objects: Mutex<Objects>,
}

/// What is known by handle, beside streams and events.
#[derive(Default)]
pub(crate) struct Objects {
    /// Modules: the device that was current when they were loaded.
    pub(crate) modules: BTreeMap<u64, u32>,
    /// Kernels: their module, and whether they scatter.
    pub(crate) functions: BTreeMap<u64, (u64, bool)>,
    /// Programs of the run-time compiler: the architecture that they were compiled for.
    pub(crate) programs: BTreeMap<u64, Option<String>>,
    /// Each device's null stream, once it was used.
    pub(crate) null_streams: BTreeMap<u32, u64>,
}

impl Fake {
    pub(crate) fn get() -> &'static Self {
        static FAKE: OnceLock<Fake> = OnceLock::new();
        FAKE.get_or_init(|| {
            let machine = Machine::new();
            machine.run_script();
            Self { machine, objects: Mutex::default() }
        })
    }

    /// The scripted code of a call, or that of a device that failed.
    pub(crate) fn enter(&self, symbol: &'static str) -> Answer {
        if let Some(code) = self.machine.enter(symbol) {
            return Err(code);
        }
        self.machine.failure(self.current()).map_or(Ok(()), |failure| Err(code_of(failure)))
    }

    pub(crate) fn objects(&self) -> MutexGuard<'_, Objects> {
        self.objects.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn number(&self, setting: &str, otherwise: u32) -> u32 {
        self.machine.setting(setting).and_then(|text| text.parse().ok()).unwrap_or(otherwise)
    }

    pub(crate) fn version(&self) -> c_int {
        c_int::try_from(self.number("hip-version", 70_200_000)).unwrap_or(0)
    }

    pub(crate) fn arch(&self) -> String {
        self.machine.setting("arch").unwrap_or_else(|| "gfx942".into())
    }

    pub(crate) fn devices(&self) -> u32 {
        self.number("devices", 2)
    }

    /// The calling thread's device.
    pub(crate) fn current(&self) -> u32 {
        CURRENT.get()
    }

    pub(crate) fn set_current(&self, device: u32) {
        CURRENT.set(device);
    }

    /// A device by its number in C.
    pub(crate) fn device(&self, ordinal: c_int) -> Result<u32, Code> {
        if self.devices() == 0 {
            return Err(if self.version() < 60_000_000 { INVALID_DEVICE } else { NO_DEVICE });
        }
        u32::try_from(ordinal).ok().filter(|device| *device < self.devices()).ok_or(INVALID_DEVICE)
    }

    /// Any device at all.
    pub(crate) fn ready(&self) -> Answer {
        self.device(0).map(drop)
    }
}

/// The code of what happened to a device.
pub(crate) fn code_of(failure: Failure) -> Code {
    match failure {
        Failure::IllegalAddress(_) => 700,
        Failure::DeviceLost => 719,
        _ => 702,
    }
}

pub(crate) fn handle_code(error: HandleError) -> Code {
    match error {
        HandleError::Unknown => INVALID_HANDLE,
        HandleError::Failed(failure) => code_of(failure),
    }
}

pub(crate) fn refused_code(refused: Refused) -> Code {
    match refused {
        Refused::OutOfMemory => OUT_OF_MEMORY,
        Refused::Overlaps => 712,
        _ => INVALID_VALUE,
    }
}

/// Where a C function leaves a result.
#[repr(transparent)]
pub(crate) struct Out<T>(*mut T);

impl<T> Out<T> {
    /// Null is an invalid value.
    pub(crate) fn set(&self, value: T) -> Answer {
        if self.0.is_null() {
            return Err(INVALID_VALUE);
        }
        // SAFETY: HIP's functions demand that their results' pointers are null or point to a value of the type.
        unsafe { self.0.write(value) };
        Ok(())
    }
}

/// An array that a C function reads.
#[repr(transparent)]
pub(crate) struct In<T>(*const T);

impl<T: Copy> In<T> {
    pub(crate) fn is_null(&self) -> bool {
        self.0.is_null()
    }

    /// An entry; the caller says how many there are, as the function was told.
    pub(crate) fn at(&self, index: usize) -> T {
        let entry = self.0.wrapping_add(index);
        // SAFETY: HIP's functions demand that their arrays have as many entries as they are told.
        unsafe { entry.read() }
    }
}

/// Where a C function leaves bytes.
#[repr(transparent)]
pub(crate) struct OutBytes(*mut c_char);

impl OutBytes {
    /// Writes `text` and a zero byte, at most `room` bytes.
    pub(crate) fn set(&self, text: &str, room: c_int) -> Answer {
        let room = usize::try_from(room).map_err(|_| INVALID_VALUE)?;
        let text: Vec<u8> = text.bytes().take(room.saturating_sub(1)).chain([0]).collect();
        self.write(&text)
    }

    pub(crate) fn write(&self, bytes: &[u8]) -> Answer {
        if self.0.is_null() || bytes.is_empty() {
            return Err(INVALID_VALUE);
        }
        // SAFETY: HIP's functions demand room for what they are said to write.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.0.cast(), bytes.len()) };
        Ok(())
    }
}

/// Exports functions: each counts itself, answers what the script says, and else what its body says.
macro_rules! exported {
    ($(fn $name:ident($($argument:ident: $type:ty),* $(,)?) |$fake:ident| $body:block)*) => {$(
        #[unsafe(no_mangle)]
        extern "C" fn $name($($argument: $type),*) -> $crate::fake::Code {
            let $fake = $crate::fake::Fake::get();
            let answer = $fake.enter(stringify!($name)).and_then(|()| -> $crate::fake::Answer { $body });
            answer.err().unwrap_or(0)
        }
    )*};
}
pub(crate) use exported;

/// As `exported`, for functions that free: they do even if they answer something else.
macro_rules! releasing {
    ($(fn $name:ident($($argument:ident: $type:ty),* $(,)?) |$fake:ident| $body:block)*) => {$(
        #[unsafe(no_mangle)]
        extern "C" fn $name($($argument: $type),*) -> $crate::fake::Code {
            let $fake = $crate::fake::Fake::get();
            let entered = $fake.enter(stringify!($name));
            let release = || -> $crate::fake::Answer { $body };
            let answer = release();
            entered.and(answer).err().unwrap_or(0)
        }
    )*};
}
pub(crate) use releasing;

/// The symbol by which tests control this runtime.
///
/// # Safety
/// `command` is a C string, `out` null or as long as `out_len` says.
#[unsafe(no_mangle)]
unsafe extern "C" fn kv_fake_control(command: *const c_char, out: *mut c_char, out_len: usize) -> c_int {
    // SAFETY: the caller's promise is the same.
    unsafe { kv_device::emulation::serve(&Fake::get().machine, command, out, out_len) }
}
