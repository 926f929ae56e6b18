//! An allocator that counts, per thread, how many bytes are allocated at once and in one piece.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

thread_local! {
    /// Bytes that are allocated now, the most since [`counted`] began, and the largest piece since. They need no memory of their own.
    static COUNTS: Cell<(isize, isize, usize)> = const { Cell::new((0, 0, 0)) };
}

/// The system's allocator, counted.
pub(crate) struct Counting;

impl Counting {
    fn note(freed: usize, allocated: usize) {
        let (now, most, piece) = COUNTS.get();
        let now =
            now - isize::try_from(freed).unwrap_or(0) + isize::try_from(allocated).unwrap_or(isize::MAX);
        COUNTS.set((now, most.max(now), piece.max(allocated)));
    }
}

/// Bytes that some work allocated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Allocated {
    /// The most at one time.
    pub(crate) at_once: usize,
    /// The largest piece.
    pub(crate) in_one_piece: usize,
}

/// What `work` returns, and what it allocated.
pub(crate) fn counted<T>(work: impl FnOnce() -> T) -> (T, Allocated) {
    let (start, ..) = COUNTS.get();
    COUNTS.set((start, start, 0));
    let result = work();
    let (_, most, in_one_piece) = COUNTS.get();
    (result, Allocated { at_once: usize::try_from(most - start).unwrap(), in_one_piece })
}

// SAFETY: every call is passed on to the system's allocator unchanged; counting allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        Self::note(0, layout.size());
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        Self::note(0, layout.size());
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        Self::note(layout.size(), 0);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // Old and new may exist side by side for a moment.
        Self::note(0, size);
        Self::note(layout.size(), 0);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.realloc(pointer, layout, size) }
    }
}
