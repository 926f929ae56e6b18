//! Memory of the emulated device: a memfd mapped twice. All unsafe code of the host device is here.
//!
//! The *device address* is mapped without any permission: a host that touches it faults, as it would (or should) on an accelerator.
//! The *alias* maps the same bytes readable and writable, and only this crate reaches it, as a slice behind a lock.
#![expect(unsafe_code, reason = "maps memory and lends it out as a slice")]

use std::io;
use std::ops::{Deref, DerefMut};
use std::os::fd::{AsFd, BorrowedFd};
use std::ptr::{self, NonNull};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use kv_memory::PageKind;
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use rustix::io::Errno;
use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap, mmap_anonymous, munmap};

/// Size and alignment of huge pages.
const HUGE_PAGE: usize = 2 << 20;
/// Size of ordinary pages, or a multiple of it.
const SMALL_PAGE: usize = 4 << 10;

/// One allocation of the emulated device.
#[derive(Debug)]
pub(super) struct DeviceMemory {
    address: Window,
    alias: RwLock<Alias>,
    len: usize,
    pages: PageKind,
}

impl DeviceMemory {
    /// Allocates `bytes` zeroed bytes, in huge pages if they fill one and the system has them.
    pub(super) fn allocate(bytes: usize) -> io::Result<Self> {
        if bytes >= HUGE_PAGE
            && let Ok(memory) = Self::map(bytes, HUGE_PAGE, MemfdFlags::HUGETLB)
        {
            return Ok(memory);
        }
        let page = if bytes >= HUGE_PAGE { HUGE_PAGE } else { SMALL_PAGE };
        Self::map(bytes, page, MemfdFlags::empty())
    }

    fn map(bytes: usize, page: usize, flags: MemfdFlags) -> io::Result<Self> {
        let mapped = bytes.max(1).checked_next_multiple_of(page).ok_or(io::ErrorKind::OutOfMemory)?;
        let file = memfd_create("kv-host-device", flags | MemfdFlags::CLOEXEC)?;
        ftruncate(&file, mapped as u64)?;
        let address = Window::map(file.as_fd(), mapped, ProtFlags::empty())?;
        let alias = Window::map(file.as_fd(), mapped, ProtFlags::READ | ProtFlags::WRITE)?;
        match alias.advise(Advice::LinuxPopulateWrite) {
            // Kernels before 5.14 do not know the advice: the pages then come with the first touch.
            Ok(()) | Err(Errno::INVAL) => {}
            Err(error) => return Err(error.into()),
        }
        let pages = if flags.contains(MemfdFlags::HUGETLB) {
            PageKind::HugeTlb
        } else if page == HUGE_PAGE && alias.collapse() {
            PageKind::Transparent
        } else {
            PageKind::Small
        };
        Ok(Self { address, alias: RwLock::new(Alias { window: alias, len: bytes }), len: bytes, pages })
    }

    /// The address that the host must not touch.
    pub(super) fn address(&self) -> u64 {
        self.address.base.as_ptr().addr() as u64
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn pages(&self) -> PageKind {
        self.pages
    }

    /// The bytes, shared with other readers.
    pub(super) fn read(&self) -> RwLockReadGuard<'_, Alias> {
        // Bytes have no state that a panic could leave half-changed.
        self.alias.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// The bytes, alone.
    pub(super) fn write(&self) -> RwLockWriteGuard<'_, Alias> {
        self.alias.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The readable and writable mapping, as a slice.
#[derive(Debug)]
pub(super) struct Alias {
    window: Window,
    len: usize,
}

impl Deref for Alias {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: the window maps at least `len` bytes for reading, zero-filled by the kernel, as long as `self` lives. The file
        // behind it is never truncated and its descriptor is closed; the second mapping of it permits no access; so the bytes
        // change only through `deref_mut`, which needs `&mut self`.
        unsafe { std::slice::from_raw_parts(self.window.base.as_ptr(), self.len) }
    }
}

impl DerefMut for Alias {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`; the mapping is writable, and `&mut self` makes the access exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.window.base.as_ptr(), self.len) }
    }
}

/// A file mapped at an address aligned to a huge page, inside a reservation that leaves an untouchable margin around it.
#[derive(Debug)]
struct Window {
    base: NonNull<u8>,
    len: usize,
    reserved: *mut core::ffi::c_void,
    reserved_len: usize,
}

// SAFETY: a mapping belongs to the process, not to a thread; the value only owns it.
unsafe impl Send for Window {}
// SAFETY: through a shared reference only addresses and advice are reachable; the bytes are reached through `Alias`.
unsafe impl Sync for Window {}

impl Window {
    /// Maps the first `len` bytes of `file`, shared.
    fn map(file: BorrowedFd<'_>, len: usize, protection: ProtFlags) -> io::Result<Self> {
        let reserved_len = len.checked_add(HUGE_PAGE).ok_or(io::ErrorKind::OutOfMemory)?;
        let reserve = MapFlags::PRIVATE | MapFlags::NORESERVE;
        // SAFETY: a null hint lets the kernel choose an address, so no existing mapping is touched.
        let reserved = unsafe { mmap_anonymous(ptr::null_mut(), reserved_len, ProtFlags::empty(), reserve) }?;
        let skip = reserved.addr().next_multiple_of(HUGE_PAGE) - reserved.addr();
        let start = reserved.wrapping_byte_add(skip);
        let window = Self {
            base: NonNull::new(start.cast()).ok_or(io::ErrorKind::OutOfMemory)?,
            len,
            reserved,
            reserved_len,
        };
        // SAFETY: skip is below HUGE_PAGE, so start..start + len lies inside the reservation made above, which nothing refers to yet;
        // replacing a part of it touches no other mapping.
        unsafe { mmap(start, len, protection, MapFlags::SHARED | MapFlags::FIXED, file, 0) }?;
        Ok(window)
    }

    fn advise(&self, advice: Advice) -> Result<(), Errno> {
        // SAFETY: the range is the mapping that this value owns; huge pages and population do not change its contents.
        unsafe { madvise(self.base.as_ptr().cast(), self.len, advice) }
    }
}

impl Window {
    /// Asks for the populated pages to become huge ones now; tells whether all have. Unlike `MADV_HUGEPAGE`, which shared memory
    /// heeds only where the administrator allows it, `MADV_COLLAPSE` (Linux 6.1) asks nobody. rustix has no name for it.
    fn collapse(&self) -> bool {
        // SAFETY: the range is the mapping that this value owns; collapsing does not change its contents.
        unsafe { libc::madvise(self.base.as_ptr().cast(), self.len, libc::MADV_COLLAPSE) == 0 }
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        // SAFETY: this value owns the reservation, and whoever holds a slice of it holds a reference to the value.
        let _ = unsafe { munmap(self.reserved, self.reserved_len) };
    }
}
