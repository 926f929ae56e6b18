//! Compiling a kernel at run time, for processors whose code objects are not in the crate.
#![expect(unsafe_code, reason = "calls hiprtc")]

use std::ffi::{CString, c_char};
use std::ptr;

use kv_device::dynamic::{Library, LibrarySearch, mapped};
use kv_device::{Error, ErrorKind, Result};

use super::runtime::{Runtime, c_text, rocm_directories};
use crate::Sabotage;
use crate::sys::table::{Comgr, Rtc};
use crate::sys::{Code, Handle};

/// Environment variable with the path of hiprtc's library, instead of any search.
const VARIABLE: &str = "KVBRIDGE_HIPRTC_LIBRARY";
/// The compiler behind hiprtc, which loads it when a program is made.
const COMPILER: [&str; 3] = ["libamd_comgr.so.3", "libamd_comgr.so.2", "libamd_comgr.so"];

/// Compiles `source` for `arch`; the code object.
///
/// # Errors
/// `Unavailable` if there is no hiprtc; `Unsupported` if it does not know that processor, or does not compile for it, with the
/// compiler's words.
pub(crate) fn compile(
    runtime: &Runtime,
    device: &str,
    source: &str,
    arch: &str,
    sabotage: Option<Sabotage>,
) -> Result<Vec<u8>> {
    let (library, table) = find(runtime.library(), device)?;
    let text = |text: &str| {
        CString::new(text).map_err(|error| {
            Error::new(ErrorKind::Invalid, device, "a kernel's source with a zero byte").with_source(error)
        })
    };
    let (source, name) = (text(source)?, text("gather_scatter.hip")?);
    let options = [text(&format!("--offload-arch={arch}"))?, text("-O3")?];
    let options: Vec<*const c_char> = options.iter().map(|option| option.as_ptr()).collect();
    let mut raw = ptr::null_mut();
    // SAFETY: two C strings and no headers; writes a handle that outlives the call.
    let code =
        unsafe { (table.create)(&raw mut raw, source.as_ptr(), name.as_ptr(), 0, ptr::null(), ptr::null()) };
    check(device, "hiprtcCreateProgram", code, "")?;
    let program = Program { table, raw };
    if sabotage != Some(Sabotage::AskBlindly) {
        check_arch(runtime, &library, device, arch)?;
    }
    // SAFETY: the program is alive, and the options are so many C strings.
    let code = unsafe { (table.compile)(program.raw, 2, options.as_ptr()) };
    check(device, "hiprtcCompileProgram", code, &format!("for {arch}: {}", program.log()))?;
    let mut len = 0_usize;
    // SAFETY: the program is alive and was compiled; writes a size that outlives the call.
    let got = unsafe { (table.code_size)(program.raw, &raw mut len) };
    check(device, "hiprtcGetCodeSize", got, "")?;
    let mut image = vec![0_u8; len];
    // SAFETY: the buffer has as many bytes as the code was said to have.
    let got = unsafe { (table.code)(program.raw, image.as_mut_ptr().cast()) };
    check(device, "hiprtcGetCode", got, "")?;
    Ok(image)
}

/// The compiler is in the runtime's own library in 5.x, in one of its own later; of the same version, so the runtime is asked first.
fn find(runtime: &Library, device: &str) -> Result<(Library, Rtc)> {
    if let Ok(table) = Rtc::load(runtime, "hiprtc") {
        return Ok((runtime.clone(), table));
    }
    let search = LibrarySearch {
        what: "hiprtc, ROCm's run-time compiler",
        variable: VARIABLE,
        names: &["libhiprtc.so.7", "libhiprtc.so.6", "libhiprtc.so.5", "libhiprtc.so"],
        directories: rocm_directories(),
    };
    let library = search.open(device)?;
    let table = Rtc::load(&library, "hiprtc")?;
    Ok((library, table))
}

/// Refuses a processor that the compiler does not know, before hiprtc is asked for it: that of 5.2 ends the process then
/// (`munmap_chunk(): invalid pointer`). Where the compiler cannot be asked, hiprtc answers for itself.
fn check_arch(runtime: &Runtime, rtc: &Library, device: &str, arch: &str) -> Result<()> {
    let comgr = |library: &Library| Comgr::load(library, "amd_comgr_").ok();
    let found = comgr(rtc).or_else(|| mapped(&COMPILER, device).as_ref().and_then(comgr));
    let Some(comgr) = found else { return Ok(()) };
    let told = |call: &str, code: Code| match code {
        0 => Ok(()),
        _ => {
            let message =
                format!("{call} answered {code}: the compiler does not tell which processors it knows");
            Err(Error::new(ErrorKind::Vendor, device, message))
        }
    };
    let mut count = 0_usize;
    // SAFETY: "Return the number of ISA names supported": writes a size that outlives the call.
    let code = unsafe { (comgr.isa_count)(&raw mut count) };
    told("amd_comgr_get_isa_count", code)?;
    let mut known = Vec::new();
    for index in 0..count {
        let mut name = ptr::null();
        // SAFETY: "Return the Nth ISA name", of as many as were counted: writes a pointer that outlives the call.
        let code = unsafe { (comgr.isa_name)(index, &raw mut name) };
        told("amd_comgr_get_isa_name", code)?;
        // SAFETY: "the lifetime of the name is that of the library", which is never unloaded; null is allowed.
        known.extend(unsafe { c_text(name) }.map(processor));
    }
    if known.contains(&arch) {
        return Ok(());
    }
    let message = format!(
        "the compiler of {} does not know {arch}: expected one of {}; install a ROCm that supports it",
        runtime.describe(),
        known.join(", ")
    );
    Err(Error::new(ErrorKind::Unsupported, device, message))
}

/// `gfx90a` of `amdgcn-amd-amdhsa--gfx90a:xnack-`.
fn processor(isa: &str) -> &str {
    let target = isa.rsplit("--").next().unwrap_or(isa);
    target.split(':').next().unwrap_or(target)
}

/// A program, destroyed with the value.
#[derive(Debug)]
struct Program {
    table: Rtc,
    raw: Handle,
}

impl Program {
    /// The compiler's words, if it has any.
    fn log(&self) -> String {
        let mut len = 0_usize;
        // SAFETY: the program is alive; writes a size that outlives the call.
        let code = unsafe { (self.table.log_size)(self.raw, &raw mut len) };
        if code != 0 || len == 0 {
            return "the compiler says nothing".into();
        }
        let mut log = vec![0_u8; len];
        // SAFETY: the buffer has as many bytes as the log was said to have.
        let code = unsafe { (self.table.log)(self.raw, log.as_mut_ptr().cast()) };
        if code != 0 {
            return "the compiler keeps its log".into();
        }
        String::from_utf8_lossy(&log).trim_matches(['\0', '\n', ' ']).to_owned()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // SAFETY: this value owns the program.
        let _ = unsafe { (self.table.destroy)(&raw mut self.raw) };
    }
}

fn check(device: &str, call: &str, code: Code, more: &str) -> Result<()> {
    // Numbers of hiprtcResult: 1 is out of memory, 5 an option that it does not know, 6 the compiler's refusal.
    let kind = match code {
        0 => return Ok(()),
        1 => ErrorKind::OutOfMemory,
        5 | 6 => ErrorKind::Unsupported,
        _ => ErrorKind::Vendor,
    };
    Err(Error::new(kind, device, format!("{call} answered {code}: cannot compile the kernels {more}")))
}
