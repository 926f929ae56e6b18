//! Plain copies: what a relayout is compared with.
#![expect(unsafe_code, reason = "a string instruction, and stores past the cache")]

/// A way to copy one slice to another of the same length.
pub(crate) type Plain = fn(&[u8], &mut [u8]);

/// Every plain copy that this processor can do.
pub(crate) fn all() -> Vec<(&'static str, Plain)> {
    let mut all: Vec<(&'static str, Plain)> = vec![("memcpy", |from, to| to.copy_from_slice(from))];
    #[cfg(target_arch = "x86_64")]
    {
        all.push(("rep movsb", x86::string_move));
        if is_x86_feature_detected!("avx512f") {
            // SAFETY: the processor was asked for the feature just now.
            all.push(("past the cache", |from, to| unsafe { x86::past_the_cache_512(from, to) }));
        } else if is_x86_feature_detected!("avx") {
            // SAFETY: the processor was asked for the feature just now.
            all.push(("past the cache", |from, to| unsafe { x86::past_the_cache_256(from, to) }));
        }
    }
    all
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use core::arch::asm;
    use core::arch::x86_64::{
        _mm_sfence, _mm256_loadu_si256, _mm256_stream_si256, _mm512_loadu_si512, _mm512_stream_si512,
    };

    pub(super) fn string_move(from: &[u8], to: &mut [u8]) {
        assert_eq!(from.len(), to.len());
        // SAFETY: both slices have as many bytes as the counter says, and a shared and an exclusive slice do not overlap.
        unsafe {
            asm!(
                "rep movsb",
                inout("rcx") to.len() => _,
                inout("rdi") to.as_mut_ptr() => _,
                inout("rsi") from.as_ptr() => _,
                options(nostack, preserves_flags)
            );
        }
    }

    #[target_feature(enable = "avx512f")]
    pub(super) fn past_the_cache_512(from: &[u8], to: &mut [u8]) {
        assert!(
            to.as_ptr().addr().is_multiple_of(64) && to.len().is_multiple_of(64) && from.len() == to.len()
        );
        for (from, to) in from.as_chunks::<64>().0.iter().zip(to.as_chunks_mut::<64>().0) {
            // SAFETY: the array is 64 readable bytes.
            let line = unsafe { _mm512_loadu_si512(from.as_ptr().cast()) };
            // SAFETY: the array is 64 writable bytes, aligned as was asserted for the first.
            unsafe { _mm512_stream_si512(to.as_mut_ptr().cast(), line) };
        }
        _mm_sfence();
    }

    #[target_feature(enable = "avx")]
    pub(super) fn past_the_cache_256(from: &[u8], to: &mut [u8]) {
        assert!(
            to.as_ptr().addr().is_multiple_of(32) && to.len().is_multiple_of(32) && from.len() == to.len()
        );
        for (from, to) in from.as_chunks::<32>().0.iter().zip(to.as_chunks_mut::<32>().0) {
            // SAFETY: the array is 32 readable bytes.
            let half = unsafe { _mm256_loadu_si256(from.as_ptr().cast()) };
            // SAFETY: the array is 32 writable bytes, aligned as was asserted for the first.
            unsafe { _mm256_stream_si256(to.as_mut_ptr().cast(), half) };
        }
        _mm_sfence();
    }
}
