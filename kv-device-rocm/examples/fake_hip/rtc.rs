//! The run-time compiler: it compiles nothing, and makes an image that the modules take for the processor it was told. The compiler
//! behind it, `comgr`, is in this library too.

use std::ffi::{CStr, c_char, c_int, c_void};

use crate::fake::{INVALID_VALUE, In, Out, OutBytes, exported, releasing};
use crate::kernels::{PROCESSORS, image_for, machine_named};

/// `HIPRTC_ERROR_INVALID_PROGRAM`, `HIPRTC_ERROR_COMPILATION`.
const INVALID_PROGRAM: c_int = 4;
const COMPILATION: c_int = 6;
/// `AMD_COMGR_STATUS_ERROR_INVALID_ARGUMENT`.
const COMGR_INVALID_ARGUMENT: c_int = 2;
const LOG: &[u8] = b"error: invalid target ID\0";

exported! {
    fn hiprtcCreateProgram(
        program: Out<u64>, source: *const c_char, _name: *const c_char, _headers: c_int, _sources: *const c_void,
        _names: *const c_void,
    ) |fake| {
        if source.is_null() {
            return Err(3);
        }
        let handle = fake.machine.new_handle();
        fake.objects().programs.insert(handle, None);
        fake.machine.count_object("programs", 1);
        program.set(handle)
    }
    fn hiprtcCompileProgram(program: u64, count: c_int, options: In<*const c_char>) |fake| {
        let mut arch = fake.arch();
        for index in 0..usize::try_from(count).map_err(|_| INVALID_VALUE)? {
            let option = options.at(index);
            // SAFETY: "options: array of numOptions C strings".
            let option = unsafe { CStr::from_ptr(option) }.to_string_lossy();
            if let Some(named) = option.strip_prefix("--offload-arch=") {
                arch = named.to_owned();
            }
        }
        let mut objects = fake.objects();
        let compiled = objects.programs.get_mut(&program).ok_or(INVALID_PROGRAM)?;
        if machine_named(&arch) == 0 {
            // What was seen of 5.2: munmap_chunk(): invalid pointer.
            if fake.version() < 60_000_000 {
                std::process::abort();
            }
            return Err(COMPILATION);
        }
        *compiled = Some(arch);
        Ok(())
    }
    fn hiprtcGetProgramLogSize(_program: u64, size: Out<usize>) |fake| {
        let _ = fake;
        size.set(LOG.len())
    }
    fn hiprtcGetProgramLog(_program: u64, log: OutBytes) |fake| {
        let _ = fake;
        log.write(LOG)
    }
    fn hiprtcGetCodeSize(program: u64, size: Out<usize>) |fake| {
        let arch = fake.objects().programs.get(&program).cloned().flatten().ok_or(INVALID_PROGRAM)?;
        size.set(image_for(&arch).len())
    }
    fn hiprtcGetCode(program: u64, code: OutBytes) |fake| {
        let arch = fake.objects().programs.get(&program).cloned().flatten().ok_or(INVALID_PROGRAM)?;
        code.write(&image_for(&arch))
    }
}

exported! {
    fn amd_comgr_get_isa_count(count: Out<usize>) |fake| {
        let _ = fake;
        count.set(PROCESSORS.len())
    }
    fn amd_comgr_get_isa_name(index: usize, name: Out<*const c_char>) |fake| {
        let _ = fake;
        name.set(PROCESSORS.get(index).ok_or(COMGR_INVALID_ARGUMENT)?.isa.as_ptr())
    }
}

releasing! {
    fn hiprtcDestroyProgram(program: *mut u64) |fake| {
        if program.is_null() {
            return Err(INVALID_PROGRAM);
        }
        // SAFETY: "prog: pointer to the program to be destroyed".
        let handle = unsafe { program.read() };
        fake.objects().programs.remove(&handle).ok_or(INVALID_PROGRAM)?;
        fake.machine.count_object("programs", -1);
        Ok(())
    }
}
