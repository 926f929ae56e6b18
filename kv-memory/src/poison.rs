//! Memory that nobody may touch, for builds with AddressSanitizer (`--cfg kv_asan`, which `cargo xtask test --only asan` sets).
//!
//! The sanitizer knows the heap, and staging is no heap: without this a copy into a buffer that was given back to its pool, or past the
//! end of a region, would be no error to it. In other builds nothing is called.

use std::ptr::NonNull;

#[cfg(kv_asan)]
mod runtime {
    #![expect(unsafe_code, reason = "declares two functions of the sanitizer's runtime")]
    use std::ffi::c_void;

    unsafe extern "C" {
        pub(super) fn __asan_poison_memory_region(base: *const c_void, bytes: usize);
        pub(super) fn __asan_unpoison_memory_region(base: *const c_void, bytes: usize);
    }
}

/// From now on an access is reported, and ends the process. The memory belongs to the caller, and is in use by nobody.
pub(crate) fn forbid(base: NonNull<u8>, bytes: usize) {
    #[cfg(kv_asan)]
    {
        // SAFETY: marks addresses in the sanitizer's own memory, and touches no byte of the range.
        unsafe { runtime::__asan_poison_memory_region(base.as_ptr().cast(), bytes) }
    }
    let _ = (base, bytes);
}

/// Ends what [`forbid`] began. Addresses that are unmapped must not stay forbidden: the next mapping may get them.
pub(crate) fn allow(base: NonNull<u8>, bytes: usize) {
    #[cfg(kv_asan)]
    {
        // SAFETY: as in `forbid`.
        unsafe { runtime::__asan_unpoison_memory_region(base.as_ptr().cast(), bytes) }
    }
    let _ = (base, bytes);
}
