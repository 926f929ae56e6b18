//! libSynapse for machines without a Gaudi: the same C ABI over the emulation core of `kv-device`, with the vendor's rules and codes.
//!
//! It is an accelerator's runtime as the backend must expect it: one device for a process, handles that are checked, host memory that
//! must be mapped, streams in no order with each other, work that runs as late as the rules allow. What it says where a rule is
//! broken, and how that is known, stands in the crate's README. Beside what `kv_device::emulation` sets, it has these settings
//! (`set KEY VALUE`):
//!
//! * `type gaudi2|gaudi3` (gaudi3), `modules N` (8), `version TEXT` (1.21.0.555), `memory BYTES` (the type's).
//! * `locks DIRECTORY`: processes that share it share the accelerators.
#![expect(unsafe_code, reason = "exports C functions that take pointers")]

mod copies;
mod device;
mod fake;
mod memory;
mod streams;

use std::ffi::{c_char, c_int};

use kv_device::emulation;

/// The control symbol of the emulation core.
///
/// # Safety
/// `command` is a C string; `out` is null or has room for `out_len` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn kv_fake_control(command: *const c_char, out: *mut c_char, out_len: usize) -> c_int {
    // SAFETY: the contract is the same.
    unsafe { emulation::serve(fake::fake().machine(), command, out, out_len) }
}
