//! A vendor's runtime: which library it is, its versions, how many devices it sees. The same for HIP and for CUDA's runtime, whose
//! functions agree here but for their prefix.
#![expect(unsafe_code, reason = "calls the runtime")]

use std::ffi::{CStr, c_char, c_int};
use std::fmt;
use std::path::{Path, PathBuf};

use kv_device::dynamic::{Library, LibrarySearch};
use kv_device::{Error, ErrorKind, Result};

use super::error::{VendorError, vendor_error};
use crate::sys::table::Common;
use crate::sys::{Code, codes};

/// Environment variable with the path of HIP's library, instead of any search.
pub const HIP_VARIABLE: &str = "KVBRIDGE_HIP_LIBRARY";
/// Environment variable with the path of CUDA's runtime library, instead of any search.
pub const CUDA_VARIABLE: &str = "KVBRIDGE_CUDART_LIBRARY";

/// Oldest HIP whose headers were compared with this crate's declarations: 5.2.
const OLDEST_HIP: c_int = 50_200_000;

/// Whose runtime.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Vendor {
    /// AMD's HIP.
    Hip,
    /// NVIDIA's CUDA runtime: loaded and identified, no device is driven through it.
    Cuda,
}

/// A loaded runtime.
#[derive(Debug, Clone)]
pub struct Runtime {
    vendor: Vendor,
    library: Library,
    pub(super) common: Common,
    versions: Versions,
}

/// What a runtime and its driver say they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Versions {
    /// Whose numbers these are.
    pub vendor: Vendor,
    /// The library's: `HIP_VERSION` or `CUDART_VERSION`.
    pub runtime: i32,
    /// The driver's; 0 if there is none.
    pub driver: i32,
}

impl Runtime {
    /// Loads the runtime: the path in the environment, else the copy that the process uses, else the newest that is installed.
    ///
    /// # Errors
    /// `Unavailable` naming every path that was tried, a symbol that is missing, or the version that was expected.
    pub fn open(vendor: Vendor) -> Result<Self> {
        Self::open_with(vendor, None)
    }

    /// As [`open`](Self::open), from this file and no other.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_file(vendor: Vendor, file: &Path) -> Result<Self> {
        Self::open_with(vendor, Some(file))
    }

    fn open_with(vendor: Vendor, file: Option<&Path>) -> Result<Self> {
        let search = vendor.search();
        let library = match file {
            Some(file) => search.open_with(Some(file.as_os_str()), vendor.device())?,
            None => search.open(vendor.device())?,
        };
        let common = Common::load(&library, vendor.prefix())?;
        let versions = Versions { vendor, runtime: 0, driver: 0 };
        let mut runtime = Self { vendor, library, common, versions };
        runtime.versions.runtime = runtime.version("RuntimeGetVersion", common.runtime_version)?;
        // A runtime without a driver may fail here, which the count of devices says better.
        runtime.versions.driver = runtime.version("DriverGetVersion", common.driver_version).unwrap_or(0);
        if vendor == Vendor::Hip && runtime.versions.runtime < OLDEST_HIP {
            let message =
                format!("{} is {}: expected HIP 5.2 or newer", runtime.library.name(), runtime.versions);
            return Err(Error::new(ErrorKind::Unavailable, vendor.device(), message));
        }
        Ok(runtime)
    }

    /// Number of devices that the process sees.
    ///
    /// # Errors
    /// `Unavailable` if there is none, or no driver, with the versions.
    pub fn device_count(&self) -> Result<i32> {
        // CUDA leaves the count as it is if it fails.
        let mut count: c_int = 0;
        // SAFETY: "Return number of compute-capable devices" into an int that outlives the call.
        let code = unsafe { (self.common.device_count)(&raw mut count) };
        match (code, count) {
            (codes::SUCCESS, 1..) => Ok(count),
            (codes::SUCCESS, _) => {
                let message =
                    format!("{} sees no device: look at /dev/kfd and ROCR_VISIBLE_DEVICES", self.describe());
                Err(Error::new(ErrorKind::Unavailable, self.vendor.device(), message))
            }
            _ => {
                let call = match self.vendor {
                    Vendor::Hip => "hipGetDeviceCount",
                    Vendor::Cuda => "cudaGetDeviceCount",
                };
                let error = self.error(call, code);
                Err(error.about(self.vendor.device(), &format!("{} sees no device", self.describe())))
            }
        }
    }

    /// Compiles the gather and scatter kernels for a processor ("gfx90a") by the runtime's own compiler: what opening a device does
    /// for which no code object is committed. It needs no device.
    ///
    /// # Errors
    /// `Unavailable` without a compiler; `Unsupported` for a processor that it does not know, with its words.
    pub fn compile_kernels(&self, arch: &str) -> Result<Vec<u8>> {
        super::rtc::compile(self, self.vendor.device(), crate::kernel::SOURCE, arch, None)
    }

    /// The library, and its versions.
    pub fn describe(&self) -> String {
        let file = self.library.file_of(self.common.device_count as *const ());
        let file = file.map_or_else(|| self.library.name().to_owned(), |file| file.display().to_string());
        format!("{} ({file})", self.versions)
    }

    /// The versions.
    pub fn versions(&self) -> Versions {
        self.versions
    }

    pub(crate) fn library(&self) -> &Library {
        &self.library
    }

    /// The error of a call.
    pub(crate) fn error(&self, call: &'static str, code: Code) -> VendorError {
        vendor_error(&self.common, call, code)
    }

    fn version(&self, call: &'static str, ask: unsafe extern "C" fn(*mut c_int) -> Code) -> Result<c_int> {
        let mut version: c_int = 0;
        // SAFETY: both functions write one int, which outlives the call.
        let code = unsafe { ask(&raw mut version) };
        match code {
            codes::SUCCESS => Ok(version),
            _ => Err(self
                .error(call, code)
                .about(self.vendor.device(), "the library does not tell its version")),
        }
    }
}

/// A static string of the runtime about a code.
pub(super) fn words(ask: unsafe extern "C" fn(Code) -> *const c_char, code: Code) -> Option<&'static str> {
    // SAFETY: the functions take any number and return a C string of the library, or null.
    let words = unsafe { ask(code) };
    // SAFETY: it is a string constant of a library that is never unloaded.
    unsafe { c_text(words) }
}

/// A C string of a library; `None` for null and for what is not UTF-8.
///
/// # Safety
/// It is null or a C string that lives as long as the library, which is never unloaded.
pub(super) unsafe fn c_text(words: *const c_char) -> Option<&'static str> {
    if words.is_null() {
        return None;
    }
    // SAFETY: this function's contract.
    unsafe { CStr::from_ptr(words) }.to_str().ok()
}

impl Vendor {
    fn prefix(self) -> &'static str {
        match self {
            Self::Hip => "hip",
            Self::Cuda => "cuda",
        }
    }

    /// What stands in errors before a device is known.
    fn device(self) -> &'static str {
        match self {
            Self::Hip => "rocm",
            Self::Cuda => "cuda",
        }
    }

    fn search(self) -> LibrarySearch<'static> {
        match self {
            // The soname's number is HIP's major version; programs are linked against the unversioned name only where they are built.
            Self::Hip => LibrarySearch {
                what: "the HIP runtime of ROCm",
                variable: HIP_VARIABLE,
                names: &["libamdhip64.so.7", "libamdhip64.so.6", "libamdhip64.so.5", "libamdhip64.so"],
                directories: rocm_directories(),
            },
            Self::Cuda => LibrarySearch {
                what: "the CUDA runtime",
                variable: CUDA_VARIABLE,
                names: &["libcudart.so.13", "libcudart.so.12", "libcudart.so"],
                directories: vec![PathBuf::from("/usr/local/cuda/lib64")],
            },
        }
    }
}

/// `$ROCM_PATH/lib`, and where packages put it.
pub(super) fn rocm_directories() -> Vec<PathBuf> {
    let named = std::env::var_os("ROCM_PATH").filter(|path| !path.is_empty());
    let named = named.map(|path| PathBuf::from(path).join("lib"));
    named.into_iter().chain([PathBuf::from("/opt/rocm/lib")]).collect()
}

impl fmt::Display for Versions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { vendor, runtime, driver } = self;
        match vendor {
            Vendor::Hip => write!(
                f,
                "HIP {}.{}.{}, driver {}",
                runtime / 10_000_000,
                runtime / 100_000 % 100,
                runtime % 100_000,
                driver
            ),
            Vendor::Cuda => {
                write!(f, "CUDA runtime {}.{}, driver {driver}", runtime / 1000, runtime / 10 % 100)
            }
        }
    }
}
