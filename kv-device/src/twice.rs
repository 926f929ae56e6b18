//! Memory of an emulated device: a memfd mapped twice. The mapping code that the host device and the emulated runtimes share.
//!
//! The *device address* is mapped without any permission: a host that touches it faults, as it would (or should) on an accelerator.
//! The *alias* maps the same bytes readable and writable; who may reach it is the business of whoever holds the value.
#![expect(unsafe_code, reason = "maps memory")]

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::ptr::{self, NonNull};

use kv_memory::PageKind;
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use rustix::io::Errno;
use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap, mmap_anonymous, munmap};

/// Size and alignment of huge pages.
const HUGE_PAGE: usize = 2 << 20;
/// Size of ordinary pages, or a multiple of it.
const SMALL_PAGE: usize = 4 << 10;

/// One allocation, mapped twice.
#[derive(Debug)]
pub(crate) struct Twice {
    /// The addresses that the host must not touch.
    pub(crate) address: Window,
    /// The same bytes, readable and writable.
    pub(crate) alias: Window,
    /// The pages that the system gave.
    pub(crate) pages: PageKind,
}

impl Twice {
    /// Allocates at least `bytes` zeroed bytes, in huge pages if they fill one and the system has them.
    pub(crate) fn allocate(bytes: usize) -> io::Result<Self> {
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
        Ok(Self { address, alias, pages })
    }
}

/// A file mapped at an address aligned to a huge page, inside a reservation that leaves an untouchable margin around it.
#[derive(Debug)]
pub(crate) struct Window {
    base: NonNull<u8>,
    len: usize,
    reserved: *mut core::ffi::c_void,
    reserved_len: usize,
}

// SAFETY: a mapping belongs to the process, not to a thread; the value only owns it.
unsafe impl Send for Window {}
// SAFETY: through a shared reference only addresses and advice are reachable, never the bytes.
unsafe impl Sync for Window {}

impl Window {
    /// First byte of the mapping. It stays mapped as long as the value lives.
    pub(crate) fn base(&self) -> NonNull<u8> {
        self.base
    }

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
    /// Gives the memory back and keeps the addresses, untouchable, until the process ends: nothing else is ever mapped there.
    #[cfg(feature = "emulation")]
    pub(crate) fn abandon(self) {
        let this = std::mem::ManuallyDrop::new(self);
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE | MapFlags::FIXED;
        // SAFETY: the range is the reservation that this value owns, and no slice of it is left as the value is consumed.
        let kept = unsafe { mmap_anonymous(this.reserved, this.reserved_len, ProtFlags::empty(), flags) };
        // Without memory for the kernel's own bookkeeping the old mapping stays, which is as untouchable.
        let _ = kept;
    }

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
