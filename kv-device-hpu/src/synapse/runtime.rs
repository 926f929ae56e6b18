//! The loaded library: found, resolved, of a known age, and started.

use std::ffi::{CStr, OsStr, c_char};
use std::path::Path;
use std::sync::Arc;

use kv_device::dynamic::LibrarySearch;
use kv_device::{Error, ErrorKind, Result};

use super::{DeviceType, error};
use crate::sys::{ATTRIBUTE_DEVICE_TYPE, MOST_MODULES, ModuleId, Status, Symbols, TEXT_BYTES};

/// Environment variable with the path of the library to use instead of the installed one.
pub const LIBRARY_VARIABLE: &str = "KVBRIDGE_SYNAPSE_LIBRARY";
/// The oldest release, as major and minor, whose codes and functions are those of this crate.
pub const OLDEST_VERSION: (u32, u32) = (1, 16);

/// Stands in errors where no device is known yet.
const LABEL: &str = "hpu";

/// libSynapse, started. Cheap to clone; the library stays loaded.
#[derive(Debug, Clone)]
pub struct Runtime {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    symbols: Symbols,
    library: String,
    version: String,
}

impl Runtime {
    /// Loads the library that [`LIBRARY_VARIABLE`] names, else the one that an engine has mapped, else the installed one, checks its
    /// version and starts it (which does nothing where an engine has).
    ///
    /// # Errors
    /// [`Unavailable`](ErrorKind::Unavailable) naming every path that was tried, the function that is missing, or the version found and
    /// the oldest expected.
    pub fn load() -> Result<Self> {
        Self::load_from(std::env::var_os(LIBRARY_VARIABLE).as_deref().map(Path::new))
    }

    /// As [`load`](Self::load), from the file `library` whatever the environment says, if one is given.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn load_from(library: Option<&Path>) -> Result<Self> {
        let search = LibrarySearch {
            what: "the Intel Gaudi runtime (SynapseAI)",
            variable: LIBRARY_VARIABLE,
            names: &["libSynapse.so", "libSynapse.so.1"],
            directories: vec!["/usr/lib/habanalabs".into()],
        };
        let given = library.map(Path::as_os_str).filter(|path| *path != OsStr::new(""));
        let library = search.open_with(given, LABEL)?;
        let symbols = Symbols::resolve(&library)?;
        let mut runtime = Inner { symbols, library: library.name().to_owned(), version: String::new() };
        runtime.version = runtime.read_version()?;
        runtime.check_version()?;
        // SAFETY: no arguments; "synInitialize" may be called again, which returns success without doing anything.
        let status = unsafe { (symbols.initialize)() };
        if status != Status::ALREADY_INITIALIZED {
            runtime.check(LABEL, "synInitialize", status)?;
        }
        Ok(Self { inner: Arc::new(runtime) })
    }

    /// Path or name of the library.
    pub fn library(&self) -> &str {
        &self.inner.library
    }

    /// Version of the driver, as it says.
    pub fn version(&self) -> &str {
        &self.inner.version
    }

    /// Module ids of the host's accelerators; empty on a host without one.
    ///
    /// # Errors
    /// What the runtime says.
    pub fn modules(&self) -> Result<Vec<ModuleId>> {
        let mut count = 0;
        // SAFETY: the pointer is to one u32, for the count.
        let status = unsafe { (self.symbols().device_get_count)(&raw mut count) };
        self.check(LABEL, "synDeviceGetCount", status)?;
        if count == 0 {
            return Ok(Vec::new());
        }
        let (mut modules, mut room) = ([0; MOST_MODULES as usize], MOST_MODULES);
        // SAFETY: `room` says how many ids fit behind the first pointer; the call writes no more and stores how many it wrote.
        let status = unsafe { (self.symbols().device_get_module_ids)(modules.as_mut_ptr(), &raw mut room) };
        self.check(LABEL, "synDeviceGetModuleIDs", status)?;
        Ok(modules.into_iter().take(room as usize).collect())
    }

    /// Type of a module, whoever has it acquired.
    ///
    /// # Errors
    /// [`Unavailable`](ErrorKind::Unavailable) for a module that the host does not have.
    pub fn device_type(&self, module: ModuleId) -> Result<DeviceType> {
        let (mut value, wanted) = (0_u64, ATTRIBUTE_DEVICE_TYPE);
        // SAFETY: one attribute is asked for, and there is room for one value.
        let status = unsafe {
            (self.symbols().device_get_attribute_by_module_id)(&raw mut value, &raw const wanted, 1, module)
        };
        self.check(LABEL, "synDeviceGetAttributeByModuleId", status)?;
        Ok(DeviceType::from_code(i32::try_from(value).unwrap_or(i32::MAX)))
    }

    pub(super) fn symbols(&self) -> &Symbols {
        &self.inner.symbols
    }

    /// Success, or the error of `call` on `device`.
    pub(super) fn check(&self, device: &str, call: &'static str, status: Status) -> Result<()> {
        self.inner.check(device, call, status)
    }
}

impl Inner {
    fn check(&self, device: &str, call: &'static str, status: Status) -> Result<()> {
        if status == Status::SUCCESS {
            return Ok(());
        }
        Err(error::error(device, call, status, self.describe(status)))
    }

    /// The runtime's words for a code.
    fn describe(&self, status: Status) -> String {
        let described = text(|room, bytes| {
            // SAFETY: `room` has the number of bytes that is passed; the call writes a C string into it.
            unsafe { (self.symbols.status_get_brief_description)(status, room, u64::from(bytes)) }
        });
        described.unwrap_or_else(|_| "no description".into())
    }

    fn read_version(&self) -> Result<String> {
        let version = text(|room, bytes| {
            // SAFETY: `room` has the number of bytes that is passed; the call is allowed before synInitialize.
            unsafe { (self.symbols.driver_get_version)(room, i32::from(bytes)) }
        });
        version.or_else(|status| self.check(LABEL, "synDriverGetVersion", status).map(|()| String::new()))
    }

    /// Refuses what is older than [`OLDEST_VERSION`]: its codes mean other things. A version that is no number is left alone.
    fn check_version(&self) -> Result<()> {
        let Some(found) = major_minor(&self.version).filter(|found| *found < OLDEST_VERSION) else {
            return Ok(());
        };
        let (major, minor) = OLDEST_VERSION;
        let message = format!(
            "{} is of release {}.{}: expected {major}.{minor} or later, whose functions and codes this crate knows; update the driver and the runtime",
            self.library, found.0, found.1
        );
        Err(Error::new(ErrorKind::Unavailable, LABEL, message))
    }
}

/// The first two numbers of a version such as `1.21.0.555` or `hl-1.21.0-fw-59`.
fn major_minor(version: &str) -> Option<(u32, u32)> {
    let start = version.find(|c: char| c.is_ascii_digit())?;
    let mut numbers = version.get(start..)?.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// What a call writes as a C string into the room that it is given.
pub(super) fn text(call: impl FnOnce(*mut c_char, u8) -> Status) -> Result<String, Status> {
    let mut room = [0_u8; TEXT_BYTES];
    // One byte less than there is: it stays zero, whatever the call leaves out.
    match call(room.as_mut_ptr().cast(), u8::MAX) {
        Status::SUCCESS => {
            let text = CStr::from_bytes_until_nul(&room).unwrap_or_default();
            Ok(text.to_string_lossy().into_owned())
        }
        failed => Err(failed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_from_what_drivers_say() {
        assert_eq!(major_minor("1.21.0.555"), Some((1, 21)));
        assert_eq!(major_minor("hl-1.16.2-rc-fw-50.1.2.0"), Some((1, 16)));
        assert_eq!(major_minor("HL_DRIVER 1.24"), Some((1, 24)));
        assert_eq!(major_minor("unknown"), None);
        assert_eq!(major_minor("7"), None);
    }
}
