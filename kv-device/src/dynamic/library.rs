//! A loaded library and its symbols. The loader's calls are here, and nowhere else.
#![expect(unsafe_code, reason = "loads a library and casts its symbols to functions")]

use std::ffi::{OsStr, c_int};
use std::fmt;
use std::mem::ManuallyDrop;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::sync::Arc;

use libloading::os::unix::{Library as Handle, RTLD_LOCAL, RTLD_NOW};

use super::{Missing, Origin};
use crate::{Error, ErrorKind, Result};

/// A library that stays loaded until the process ends, so that its functions may be copied freely.
#[derive(Clone)]
pub struct Library(Arc<Loaded>);

struct Loaded {
    /// Never closed.
    handle: ManuallyDrop<Handle>,
    name: String,
    device: String,
    origin: Origin,
}

impl Library {
    /// Opens a file or a name; the error is the loader's reason.
    ///
    /// Its initialisers run: whoever names a path to open trusts it as much as a library that the program is linked with.
    pub(super) fn open(path: &OsStr, device: &str, origin: Origin) -> Result<Self, String> {
        let flags = RTLD_NOW | RTLD_LOCAL | if origin == Origin::Process { libc::RTLD_NOLOAD } else { 0 };
        // SAFETY: the initialisers of the library run. The vendors' runtimes have no demands on when they do; that the file is such a
        // runtime is up to whoever sets the search variable or fills the loader's directories, as for every linked library.
        let handle = unsafe { Handle::open(Some(path), flags) };
        let handle = ManuallyDrop::new(handle.map_err(|error| reason(&error))?);
        let name = path.to_string_lossy().into_owned();
        Ok(Self(Arc::new(Loaded { handle, name, device: device.to_owned(), origin })))
    }

    /// A function of the library.
    ///
    /// # Errors
    /// [`Unavailable`](ErrorKind::Unavailable) if the library has no such symbol, with [`Missing::Symbol`] as the source.
    ///
    /// # Panics
    /// While compiling, if `F` has not the size of a function pointer.
    ///
    /// # Safety
    /// `F` is the type of an `unsafe extern "C" fn` with the signature that the vendor's header declares for `symbol`.
    pub unsafe fn symbol<F: Copy>(&self, symbol: &str) -> Result<F> {
        const { assert!(size_of::<F>() == size_of::<fn()>(), "a symbol is a function pointer") }
        // SAFETY: the caller names the type of the function; the symbol is copied out of a library that is never unloaded.
        let found = unsafe { self.0.handle.get::<F>(symbol.as_bytes()) };
        match found {
            Ok(function) => Ok(*function),
            Err(error) => {
                let Loaded { name, device, .. } = &*self.0;
                let missing = Missing::Symbol {
                    library: name.clone(),
                    symbol: symbol.to_owned(),
                    reason: reason(&error),
                };
                let message = format!(
                    "{name} has no {symbol}: expected a version of the library that has it; install another, or point the search to it"
                );
                Err(Error::new(ErrorKind::Unavailable, device, message).with_source(missing))
            }
        }
    }

    /// A function that not every version of the library has.
    ///
    /// # Safety
    /// As [`symbol`](Self::symbol).
    pub unsafe fn optional<F: Copy>(&self, symbol: &str) -> Option<F> {
        // SAFETY: the caller's promise is the same.
        unsafe { self.symbol(symbol) }.ok()
    }

    /// The path or name by which it was opened.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// How it was found.
    pub fn origin(&self) -> Origin {
        self.0.origin
    }

    /// The file that holds `function`, a function of this library, as the loader knows it.
    pub fn file_of(&self, function: *const ()) -> Option<&'static Path> {
        let mut found = std::mem::MaybeUninit::<libc::Dl_info>::zeroed();
        // SAFETY: dladdr(3) reads no memory at the address, and fills the structure if it returns a value other than zero.
        let status: c_int = unsafe { libc::dladdr(function.cast(), found.as_mut_ptr()) };
        // SAFETY: the structure was zeroed, which is a valid value of its pointers and integers.
        let found = unsafe { found.assume_init() };
        if status == 0 || found.dli_fname.is_null() {
            return None;
        }
        // SAFETY: after success dli_fname is the path of a loaded object, a C string that lives as long as the object is loaded;
        // this library is never unloaded.
        let name = unsafe { std::ffi::CStr::from_ptr(found.dli_fname) };
        Some(Path::new(OsStr::from_bytes(name.to_bytes())))
    }
}

impl fmt::Debug for Library {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Library")
            .field("name", &self.0.name)
            .field("origin", &self.0.origin)
            .finish_non_exhaustive()
    }
}

/// The loader's words, without this crate's around them.
fn reason(error: &libloading::Error) -> String {
    match error {
        libloading::Error::DlOpen { desc } | libloading::Error::DlSym { desc } => {
            format!("{desc:?}").trim_matches('"').to_owned()
        }
        libloading::Error::DlOpenUnknown => "the loader gives no reason".into(),
        other => other.to_string(),
    }
}
