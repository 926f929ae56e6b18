//! The plain copies that a recode is measured against, and the memory that both use: what the machine gives for the same bytes when
//! nothing is done to them.

/// Memory in huge pages, where the system has them: with small ones a scattered read waits for the page tables.
pub(crate) struct Huge {
    bytes: Vec<u8>,
    start: usize,
    len: usize,
    /// Whether the system was willing; with small pages the figures mean less.
    pub(crate) pages: bool,
}

impl Huge {
    pub(crate) fn new(len: usize, byte: impl FnMut() -> u8) -> Self {
        const PAGE: usize = 2 << 20;
        let room = len.next_multiple_of(PAGE) + PAGE;
        let mut bytes: Vec<u8> = Vec::with_capacity(room);
        let start = bytes.as_ptr().align_offset(PAGE);
        let pages = bytes.as_mut_ptr().wrapping_add(start).cast();
        // SAFETY: whole pages inside the vector's own allocation; the advice changes how they are mapped, not what they hold.
        let advised = unsafe { rustix::mm::madvise(pages, room - PAGE, rustix::mm::Advice::LinuxHugepage) };
        bytes.resize_with(start + len, byte);
        Self { bytes, start, len, pages: advised.is_ok() }
    }

    pub(crate) fn bytes(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..][..self.len]
    }
}

/// A plain copy of slices of one length.
pub(crate) type Copy = fn(&[u8], &mut [u8]);

/// Every plain copy that this CPU has, with its name.
pub(crate) fn copies() -> Vec<(&'static str, Copy)> {
    let mut copies: Vec<(&'static str, Copy)> = vec![("memcpy", |from, to| to.copy_from_slice(from))];
    #[cfg(target_arch = "x86_64")]
    {
        copies.push(("rep movsb", x86_64::rep_movsb));
        if is_x86_feature_detected!("avx2") {
            copies.push(("non-temporal", x86_64::non_temporal));
        }
    }
    copies
}

#[cfg(target_arch = "x86_64")]
mod x86_64 {
    use std::arch::asm;
    use std::arch::x86_64::*;

    pub(super) fn rep_movsb(from: &[u8], to: &mut [u8]) {
        assert_eq!(from.len(), to.len());
        // SAFETY: reads `len` bytes of `from` and writes as many of `to`, which are distinct slices of that length; the direction flag
        // is clear by the calling convention.
        unsafe {
            asm!("rep movsb", inout("rcx") from.len() => _, inout("rsi") from.as_ptr() => _, inout("rdi") to.as_mut_ptr() => _,
                options(nostack, preserves_flags));
        }
    }

    /// Past the cache; only where `copies` found AVX2.
    pub(super) fn non_temporal(from: &[u8], to: &mut [u8]) {
        // SAFETY: this function is handed out only where AVX2 was detected.
        unsafe { lines(from, to) }
    }

    #[repr(C, align(64))]
    struct Line([u8; 64]);

    #[target_feature(enable = "avx2")]
    fn lines(from: &[u8], to: &mut [u8]) {
        assert_eq!(from.len(), to.len());
        // SAFETY: a line is any 64 bytes.
        let (head, lines, tail) = unsafe { to.align_to_mut::<Line>() };
        let (from_head, from) = from.split_at(head.len());
        let (from_lines, from_tail) = from.split_at(lines.len() * 64);
        head.copy_from_slice(from_head);
        tail.copy_from_slice(from_tail);
        for (to, from) in lines.iter_mut().zip(from_lines.as_chunks::<64>().0) {
            for (to, from) in to.0.as_chunks_mut::<32>().0.iter_mut().zip(from.as_chunks::<32>().0) {
                // SAFETY: reads 32 bytes of any alignment, which the reference has.
                let half = unsafe { _mm256_loadu_si256(from.as_ptr().cast()) };
                // SAFETY: writes 32 bytes that are aligned to 32, as both halves of a line are.
                unsafe { _mm256_stream_si256(to.as_mut_ptr().cast(), half) };
            }
        }
        _mm_sfence();
    }
}
