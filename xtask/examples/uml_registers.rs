//! A library that user-mode Linux is started with (`LD_PRELOAD`): its `ptrace`, on processors whose registers are more than it knows.
//!
//! Linux 6.1 as a process keeps 2,696 bytes of a guest's vector registers. Its host takes them back only in the length that the processor
//! has (`xstateregs_set` in arch/x86/kernel/fpu/regset.c), which with AMX's tiles is 11,008: the first program of a guest dies of
//! `ptrace set fp regs failed, errno = 14`. What is missing are tiles, which no guest has: a process has to ask its kernel for them, and that
//! kernel has none to give. So the rest is zeros, and the marks that say that it holds something are taken off.
#![cfg(target_arch = "x86_64")]

use std::cell::UnsafeCell;
use std::ffi::{c_int, c_long, c_uint, c_void};
use std::mem::MaybeUninit;
use std::ptr;

use libc::{SYS_ptrace, iovec, pid_t, sigset_t};

/// Requests of `ptrace(2)` that answer with a word; the kernel stores it where `data` points, the C function returns it.
const PEEKS: std::ops::RangeInclusive<c_uint> = 1..=3;
const GETREGSET: c_uint = 0x4204;
const SETREGSET: c_uint = 0x4205;
/// `NT_X86_XSTATE` of elf.h.
const XSTATE: usize = 0x202;

/// Longer than the registers of any processor so far.
const MOST: usize = 16 << 10;
/// Where the marks of what the registers hold are: the first word of the XSAVE header (Intel SDM volume 1, 13.4.2).
const MARKS: usize = 512;
/// The marks of AMX's configuration and its tiles.
const TILES: u64 = 0b11 << 17;

/// Registers on their way to the host: of all guests' processes, one at a time.
struct Whole(UnsafeCell<[u8; MOST]>);

// SAFETY: user-mode Linux has one processor, and `set` lets no signal, which is its interrupt, come between.
unsafe impl Sync for Whole {}

static WHOLE: Whole = Whole(UnsafeCell::new([0; MOST]));

/// `ptrace(2)` as the C library has it. The C function has variable arguments, which this processor passes like these.
///
/// # Safety
/// As `ptrace(2)`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ptrace(
    request: c_uint,
    pid: pid_t,
    address: *mut c_void,
    data: *mut c_void,
) -> c_long {
    if request == SETREGSET && address.addr() == XSTATE {
        // SAFETY: the caller passes the list of one buffer that this request takes.
        let given = unsafe { data.cast::<iovec>().read() };
        // SAFETY: likewise.
        return unsafe { set(pid, given) };
    }
    let mut word: c_long = 0;
    let peeks = PEEKS.contains(&request);
    let data = if peeks { (&raw mut word).cast() } else { data };
    // SAFETY: the caller's arguments, or a word of ours for the kernel to write.
    match unsafe { call(request, pid, address, data) } {
        0 if peeks => word,
        answer => answer,
    }
}

/// Sets the registers of a process, of which some bytes are given.
///
/// # Safety
/// `given` is readable memory.
unsafe fn set(pid: pid_t, given: iovec) -> c_long {
    let (mut all, mut before) = (MaybeUninit::<sigset_t>::uninit(), MaybeUninit::<sigset_t>::uninit());
    // SAFETY: there is room for a set.
    unsafe { libc::sigfillset(all.as_mut_ptr()) };
    // SAFETY: the set was filled, and there is room for the old one.
    unsafe { libc::sigprocmask(libc::SIG_BLOCK, all.as_ptr(), before.as_mut_ptr()) };
    // SAFETY: no signal comes before the end of this function, so nobody else has the registers.
    let whole = unsafe { &mut *WHOLE.0.get() };
    let mut list = iovec { iov_base: whole.as_mut_ptr().cast(), iov_len: MOST };
    let address = ptr::without_provenance_mut(XSTATE);
    // SAFETY: the kernel writes no more than the length says, and says how much that was.
    let asked = unsafe { call(GETREGSET, pid, address, (&raw mut list).cast()) };
    if asked < 0 || list.iov_len <= given.iov_len {
        list = given;
    } else {
        // SAFETY: the caller says so.
        let given = unsafe { std::slice::from_raw_parts(given.iov_base.cast::<u8>(), given.iov_len) };
        let (known, rest) = whole.split_at_mut(given.len());
        known.copy_from_slice(given);
        rest.fill(0);
        if let Some(marks) = known.get_mut(MARKS..).and_then(<[u8]>::first_chunk_mut) {
            *marks = (u64::from_le_bytes(*marks) & !TILES).to_le_bytes();
        }
    }
    // SAFETY: either list is of memory that the kernel only reads.
    let answer = unsafe { call(SETREGSET, pid, address, (&raw mut list).cast()) };
    // SAFETY: it was written above. A success leaves `errno` as the call above has set it.
    unsafe { libc::sigprocmask(libc::SIG_SETMASK, before.as_ptr(), ptr::null_mut()) };
    answer
}

/// The system call.
///
/// # Safety
/// As `ptrace(2)`.
unsafe fn call(request: c_uint, pid: pid_t, address: *mut c_void, data: *mut c_void) -> c_long {
    // SAFETY: the caller's.
    unsafe { libc::syscall(SYS_ptrace, c_long::from(request), c_long::from(pid as c_int), address, data) }
}
