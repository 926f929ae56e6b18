//! Contiguous host memory: the trait that device allocators implement, and huge pages from the system. All unsafe code that
//! obtains memory is here.

use std::fmt;
use std::ptr::NonNull;

use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous, munmap};

use crate::{BUFFER_ALIGNMENT, Error, Result, poison};

/// Size of the huge pages that are asked for.
const HUGE_PAGE: usize = 2 << 20;

/// One contiguous allocation of host memory that lives until it is dropped.
///
/// # Safety
///
/// Implementors promise that `base()..base() + len()` is readable and writable, initialised, aligned to
/// [`BUFFER_ALIGNMENT`](crate::BUFFER_ALIGNMENT), not moved, and reached through no other safe path, from construction until drop.
pub unsafe trait HostRegion: fmt::Debug + Send + Sync + 'static {
    /// First byte.
    fn base(&self) -> NonNull<u8>;
    /// Length in bytes.
    fn len(&self) -> usize;
    /// Whether there are no bytes.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// What kind of pages the system gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum PageKind {
    /// Pages of the hugetlbfs pool (2 MiB), reserved by the operator.
    HugeTlb,
    /// Ordinary memory for which transparent huge pages were requested; the kernel grants them as it can.
    Transparent,
    /// 4 KiB pages: the system refused both.
    Small,
}

/// Anonymous memory in the largest pages that the system gives, touched once so that no page fault is left for the data path.
pub struct HugePages {
    base: NonNull<u8>,
    /// What was asked for, in whole small pages.
    len: usize,
    /// What was mapped, in whole huge pages.
    mapped: usize,
    pages: PageKind,
}

// SAFETY: the mapping is plain memory owned by this value; nothing about it belongs to a thread.
unsafe impl Send for HugePages {}
// SAFETY: a shared reference gives out only the address and the length; access goes through the owner of each part.
unsafe impl Sync for HugePages {}

impl HugePages {
    /// Maps `bytes` (rounded up to whole 4 KiB pages), zeroed.
    ///
    /// # Errors
    /// [`Invalid`](crate::ErrorKind::Invalid) for zero bytes, [`OutOfMemory`](crate::ErrorKind::OutOfMemory) if the system refuses.
    pub fn allocate(bytes: usize) -> Result<Self> {
        if bytes == 0 {
            return Err(Error::invalid(
                "zero bytes of host memory were asked for: ask for at least one buffer",
            ));
        }
        let too_long = || Error::invalid(format!("{bytes} bytes of host memory exceed the address space"));
        let mapped = bytes.checked_next_multiple_of(HUGE_PAGE).ok_or_else(too_long)?;
        let len = bytes.next_multiple_of(BUFFER_ALIGNMENT);
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        let huge = MapFlags::PRIVATE | MapFlags::HUGETLB | MapFlags::POPULATE;
        // SAFETY: a null hint lets the kernel choose an address, so no existing mapping is touched.
        if let Ok(address) = unsafe { mmap_anonymous(std::ptr::null_mut(), mapped, protection, huge) }
            && let Some(base) = NonNull::new(address.cast())
        {
            return Ok(Self { base, len, mapped, pages: PageKind::HugeTlb }.ends_at_len());
        }
        Self::transparent(len, mapped).map(Self::ends_at_len)
    }

    /// What was mapped beyond what was asked for is nobody's.
    fn ends_at_len(self) -> Self {
        // SAFETY: `len` does not exceed what was mapped.
        poison::forbid(unsafe { self.base.byte_add(self.len) }, self.mapped - self.len);
        self
    }

    /// Maps `mapped` bytes of ordinary memory aligned to a huge page and asks for transparent huge pages.
    fn transparent(len: usize, mapped: usize) -> Result<Self> {
        let oversized = mapped + HUGE_PAGE;
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a null hint lets the kernel choose an address, so no existing mapping is touched.
        let address =
            unsafe { mmap_anonymous(std::ptr::null_mut(), oversized, protection, MapFlags::PRIVATE) }
                .map_err(|error| Error::out_of_memory(len, error.into()))?;
        let skip = address.cast::<u8>().align_offset(HUGE_PAGE);
        let start = address.wrapping_byte_add(skip);
        trim(address, skip);
        trim(start.wrapping_byte_add(mapped), HUGE_PAGE - skip);
        let Some(base) = NonNull::new(start.cast::<u8>()) else {
            return Err(Error::out_of_memory(len, std::io::ErrorKind::OutOfMemory.into()));
        };
        // SAFETY: start..start + mapped is inside the mapping made above, which nothing else refers to.
        let advised = unsafe { madvise(start, mapped, Advice::LinuxHugepage) };
        let region = Self {
            base,
            len,
            mapped,
            pages: if advised.is_ok() { PageKind::Transparent } else { PageKind::Small },
        };
        // SAFETY: the range is the mapping that `region` owns; populating does not change its contents.
        if unsafe { madvise(start, mapped, Advice::LinuxPopulateWrite) }.is_err() {
            region.touch(); // kernels before 5.14 do not know the advice
        }
        Ok(region)
    }

    /// Writes one byte a page, so that every page exists.
    fn touch(&self) {
        for offset in (0..self.mapped).step_by(4096) {
            // SAFETY: the offset is below the length of the mapping that this value owns, and no buffer is cut from it yet.
            unsafe { self.base.as_ptr().wrapping_add(offset).write_volatile(0) };
        }
    }

    /// The pages that the system gave.
    pub fn pages(&self) -> PageKind {
        self.pages
    }
}

/// Gives the unused ends of an over-sized mapping back. A failure leaks address space, never memory in use.
fn trim(address: *mut std::ffi::c_void, len: usize) {
    if len > 0 {
        // SAFETY: callers pass a part of a mapping they just made, to which no reference exists.
        let _ = unsafe { munmap(address, len) };
    }
}

// SAFETY: the mapping is readable, writable, zero-filled by the kernel, page-aligned, and unmapped only in `drop`.
unsafe impl HostRegion for HugePages {
    fn base(&self) -> NonNull<u8> {
        self.base
    }

    fn len(&self) -> usize {
        self.len
    }
}

impl Drop for HugePages {
    fn drop(&mut self) {
        poison::allow(self.base, self.mapped);
        // SAFETY: this value owns the mapping; buffers cut from it hold a reference to it, so none is left.
        let _ = unsafe { munmap(self.base.as_ptr().cast(), self.mapped) };
    }
}

impl fmt::Debug for HugePages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HugePages").field("bytes", &self.len).field("pages", &self.pages).finish()
    }
}
