//! The library and the functions of its C interface. The loader's calls are here, and the types of the functions; nothing is called.
#![expect(unsafe_code, reason = "loads a library and casts its symbols to functions")]

use std::ffi::{OsStr, c_char, c_int, c_uint, c_void};
use std::fmt;
use std::path::{Path, PathBuf};

use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};

use super::missing::{Attempt, Missing};
use super::search::{Candidate, NAME, Search};

/// What every function answers: 0, 1 for a transfer that goes on, or a negative code.
pub(super) type Status = c_int;
/// An object of the library's, known by its address alone.
pub(super) type Handle = *mut c_void;

/// Success.
pub(super) const DONE: Status = 0;
/// The transfer goes on.
pub(super) const GOES_ON: Status = 1;

/// Kinds of memory, as the interface numbers them.
pub(super) const MEMORY: c_uint = 0;
#[cfg(feature = "s3")]
pub(super) const OBJECT: c_uint = 3;
pub(super) const FILE: c_uint = 4;

/// Directions, as the interface numbers them.
pub(super) const READ: c_uint = 0;
pub(super) const WRITE: c_uint = 1;

/// How an agent is made: the fields of `nixl_capi_agent_config_t`, in its order.
#[repr(C)]
pub(super) struct AgentSettings {
    pub(super) progress_thread: bool,
    pub(super) listener_thread: bool,
    pub(super) listener_port: c_int,
    /// 0: one thread uses the agent.
    pub(super) synchronisation: c_uint,
    pub(super) workers: c_uint,
    pub(super) progress_delay_us: u64,
    pub(super) listener_delay_us: u64,
    pub(super) telemetry: bool,
}

/// A newer function, which 1.5.0 and later have.
const NEW: &str = "nixl_capi_prep_mem_view_local";

/// The names and types of the functions, once.
macro_rules! functions {
    ($($name:ident: fn($($argument:ty),*);)*) => {
        /// The functions of one library. It is never unloaded, so they stay valid.
        pub(super) struct Functions {
            /// Where it was found.
            pub(super) library: PathBuf,
            $(pub(super) $name: unsafe extern "C" fn($($argument),*) -> Status,)*
        }

        impl Functions {
            fn of(library: &'static Library, path: PathBuf) -> Result<Self, Missing> {
                Ok(Self {
                    $($name: symbol(library, &path, concat!("nixl_capi_", stringify!($name)))?,)*
                    library: path,
                })
            }
        }
    };
}

functions! {
    create_configured_agent: fn(*const c_char, *const AgentSettings, *mut Handle);
    destroy_agent: fn(Handle);
    create_params: fn(*mut Handle);
    params_add: fn(Handle, *const c_char, *const c_char);
    destroy_params: fn(Handle);
    create_backend: fn(Handle, *const c_char, Handle, *mut Handle);
    destroy_backend: fn(Handle);
    create_opt_args: fn(*mut Handle);
    opt_args_add_backend: fn(Handle, Handle);
    destroy_opt_args: fn(Handle);
    create_reg_dlist: fn(c_uint, *mut Handle);
    reg_dlist_add_desc: fn(Handle, usize, usize, u64, *const c_void, usize);
    destroy_reg_dlist: fn(Handle);
    register_mem: fn(Handle, Handle, Handle);
    deregister_mem: fn(Handle, Handle, Handle);
    create_xfer_dlist: fn(c_uint, *mut Handle);
    xfer_dlist_add_desc: fn(Handle, usize, usize, u64);
    destroy_xfer_dlist: fn(Handle);
    create_xfer_req: fn(Handle, c_uint, Handle, Handle, *const c_char, *mut Handle, Handle);
    post_xfer_req: fn(Handle, Handle, Handle);
    get_xfer_status: fn(Handle, Handle);
    release_xfer_req: fn(Handle, Handle);
    destroy_xfer_req: fn(Handle);
}

impl fmt::Debug for Functions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Functions").field("library", &self.library).finish_non_exhaustive()
    }
}

/// One function of the library.
fn symbol<F: Copy>(library: &'static Library, path: &Path, name: &str) -> Result<F, Missing> {
    const { assert!(size_of::<F>() == size_of::<fn()>(), "a symbol is a function pointer") }
    // SAFETY: `functions!` names for each symbol the type that NIXL's header wrapper.h declares in 1.5.0 to 1.5.2; that the library is of
    // these versions is what `load` looks for before. The interface is C: pointers, sizes and integers, no structure but the settings.
    let found = unsafe { library.get::<F>(name.as_bytes()) };
    match found {
        Ok(function) => Ok(*function),
        Err(error) => {
            let (library, symbol, reason) = (path.to_owned(), name.to_owned(), reason(&error));
            Err(Missing::Symbol { library, symbol, reason })
        }
    }
}

/// Opens the first candidate that opens, and takes it or refuses it.
///
/// # Errors
/// What is missing: the library, or something in it.
pub(super) fn load(search: Search) -> Result<&'static Functions, Missing> {
    let mut tried = search.vain;
    for candidate in search.candidates {
        let (path, flags) = match candidate {
            Candidate::Loaded => (PathBuf::from(NAME), RTLD_NOW | RTLD_LOCAL | libc::RTLD_NOLOAD),
            Candidate::Loader => (PathBuf::from(NAME), RTLD_NOW | RTLD_LOCAL),
            Candidate::File(path) => (path, RTLD_NOW | RTLD_LOCAL),
        };
        match open(path.as_os_str(), flags) {
            Ok(library) => return functions_of(library, path),
            // That nothing is loaded yet is no news.
            Err(_) if flags & libc::RTLD_NOLOAD != 0 => {}
            Err(reason) => tried.push(Attempt { path, reason }),
        }
    }
    Err(Missing::Library { tried })
}

fn functions_of(library: &'static Library, path: PathBuf) -> Result<&'static Functions, Missing> {
    let functions = Functions::of(library, path)?;
    // Only looked for: whether it is there tells the version, which the interface has no call for.
    symbol::<*const ()>(library, &functions.library, NEW)
        .map_err(|_| Missing::TooOld { library: functions.library.clone() })?;
    Ok(Box::leak(Box::new(functions)))
}

/// A library that stays loaded until the process ends: NIXL has threads of its own.
fn open(path: &OsStr, flags: c_int) -> Result<&'static Library, String> {
    // SAFETY: the library's initialisers run. NIXL's make no demands on when they do: Python programs load it at any time. That the file is
    // NIXL is up to whoever names it or fills the folders that are searched, as for every linked library.
    let library = unsafe { Library::open(Some(path), flags) };
    library.map(|library| &*Box::leak(Box::new(library))).map_err(|error| reason(&error))
}

/// The loader's words, without this crate's around them.
fn reason(error: &libloading::Error) -> String {
    match error {
        libloading::Error::DlOpen { desc } | libloading::Error::DlSym { desc } => {
            format!("{desc:?}").trim_matches('"').to_owned()
        }
        other => other.to_string(),
    }
}
