//! Kernels for x86-64. The unsafe code here is of three kinds: vector loads and stores of whole arrays, the view of a destination as
//! aligned lines, and calls of functions that need a CPU feature, through types that exist only where it was detected.

use std::arch::asm;
use std::arch::x86_64::*;

use super::kernel::{self, Counts, Tables, sum};
use crate::kernels::Destination;

/// A cache line of the destination: what a store past the cache wants whole.
#[repr(C, align(64))]
struct Line([u8; 64]);

/// A table as an addition for all codes and rows for those that need more, 16 codes a row: most recodes have two to four.
#[derive(Clone)]
pub(super) struct Rows {
    /// What is added to most codes.
    base: u8,
    rows: Vec<Row>,
}

/// The codes that share their upper four bits.
#[derive(Clone, Copy)]
struct Row {
    upper: u8,
    /// What is to be added to each code besides the base.
    added: [u8; 16],
    /// Kind of change of each code.
    changes: [u8; 16],
}

impl Rows {
    pub(super) fn new(codes: &[u8; 256], changes: &[u8; 256]) -> Self {
        let added: Vec<u8> = (0..=u8::MAX).zip(codes).map(|(code, new)| new.wrapping_sub(code)).collect();
        let occurrences = |base: u8| added.iter().filter(|added| **added == base).count();
        let base = (0..=u8::MAX).max_by_key(|base| occurrences(*base)).unwrap_or(0);
        let rows = (0..16).zip(added.as_chunks::<16>().0.iter().zip(changes.as_chunks::<16>().0));
        let rows = rows
            .map(|(upper, (added, changes))| Row {
                upper,
                added: added.map(|added| added.wrapping_sub(base)),
                changes: *changes,
            })
            .filter(|row| row.added != [0; 16] || row.changes != [0; 16])
            .collect();
        Self { base, rows }
    }

    #[cfg(test)]
    pub(super) fn count(&self) -> usize {
        self.rows.len()
    }
}

/// Proof that the CPU has AVX-512 F, BW and VBMI.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Avx512Vbmi(());

/// Proof that the CPU has AVX2.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Avx2(());

/// Orders stores past the cache with all that follow, so that another thread which is told of them sees them.
pub(super) fn fence() {
    // SAFETY: needs SSE, which every x86-64 CPU has.
    unsafe { _mm_sfence() };
}

/// Asks for a cache line of any address.
#[inline]
fn prefetch(address: *const u8) {
    // SAFETY: a prefetch is a hint: it faults at no address and changes nothing that a program sees.
    unsafe { asm!("prefetcht0 [{}]", in(reg) address, options(readonly, nostack, preserves_flags)) };
}

/// The safe side of a kernel: splits slices into the middle, which it recodes with vectors, and the ends, which go byte by byte.
macro_rules! entry_points {
    ($name:ident, $kernel:ident, $($feature:tt),+) => {
        impl $name {
            pub(super) fn detect() -> Option<Self> {
                ($(is_x86_feature_detected!($feature))&&+).then_some(Self(()))
            }

            /// `to` has the length of `from`. `ahead` is where the bytes begin that are read next, or any other address. Stores to a cold
            /// destination are ordered by [`fence`].
            pub(super) fn copy(
                self,
                tables: &Tables,
                from: &[u8],
                to: &mut [u8],
                destination: Destination,
                ahead: *const u8,
            ) -> Counts {
                // SAFETY: a line is any 64 bytes, so aligned bytes of `to` are lines.
                let (head, lines, tail) = unsafe { to.align_to_mut::<Line>() };
                let (from_head, from) = from.split_at(head.len());
                let (from_lines, from_tail) = from.split_at(lines.len() * size_of::<Line>());
                // SAFETY: `self` exists only if `detect` found the features.
                let middle = unsafe { $kernel::copy(tables, from_lines.as_chunks().0, lines, destination, ahead) };
                let ends = sum(kernel::copy(tables, from_head, head), kernel::copy(tables, from_tail, tail));
                sum(middle, ends)
            }

            pub(super) fn in_place(self, tables: &Tables, bytes: &mut [u8]) -> Counts {
                let (lines, tail) = bytes.as_chunks_mut();
                // SAFETY: `self` exists only if `detect` found the features.
                let middle = unsafe { $kernel::in_place(tables, lines) };
                sum(middle, kernel::in_place(tables, tail))
            }

            pub(super) fn count(self, tables: &Tables, bytes: &[u8]) -> Counts {
                let (lines, tail) = bytes.as_chunks();
                // SAFETY: `self` exists only if `detect` found the features.
                let middle = unsafe { $kernel::count(tables, lines) };
                sum(middle, kernel::count(tables, tail))
            }
        }
    };
}

entry_points!(Avx512Vbmi, avx512, "avx512f", "avx512bw", "avx512vbmi", "popcnt");
entry_points!(Avx2, avx2, "avx2", "popcnt");

/// Counts in the order of the table's kinds, by the number of the kind.
fn by_kind(tables: &Tables, counted: Counts) -> Counts {
    let mut counts = Counts::default();
    tables.kinds.iter().zip(counted).for_each(|(kind, count)| counts[usize::from(*kind)] = count);
    counts
}

/// The loops of one instruction set around its `Loaded::line`, `load`, `store` and `stream`.
macro_rules! loops {
    ($features:literal) => {
        #[target_feature(enable = $features)]
        pub(super) fn copy(
            tables: &Tables,
            from: &[[u8; 64]],
            to: &mut [Line],
            destination: Destination,
            ahead: *const u8,
        ) -> Counts {
            let (loaded, mut counts) = (Loaded::new(tables), Counts::default());
            match destination {
                Destination::Hot => {
                    for (to, from) in to.iter_mut().zip(from) {
                        store(&mut to.0, loaded.line(load(from), &mut counts));
                    }
                }
                Destination::Cold => {
                    for (index, (to, from)) in to.iter_mut().zip(from).enumerate() {
                        // The look-ups leave the CPU less room to run ahead of its loads than a plain copy has.
                        prefetch(ahead.wrapping_add(index * 64));
                        stream(to, loaded.line(load(from), &mut counts));
                    }
                }
            }
            by_kind(tables, counts)
        }

        #[target_feature(enable = $features)]
        pub(super) fn in_place(tables: &Tables, lines: &mut [[u8; 64]]) -> Counts {
            let (loaded, mut counts) = (Loaded::new(tables), Counts::default());
            for line in lines {
                let new = loaded.line(load(line), &mut counts);
                store(line, new);
            }
            by_kind(tables, counts)
        }

        #[target_feature(enable = $features)]
        pub(super) fn count(tables: &Tables, lines: &[[u8; 64]]) -> Counts {
            let (loaded, mut counts) = (Loaded::new(tables), Counts::default());
            if !loaded.kinds.is_empty() {
                for line in lines {
                    loaded.line(load(line), &mut counts);
                }
            }
            by_kind(tables, counts)
        }
    };
}

/// The whole table in registers: two look-ups of 128 codes each, and the code's sign chooses between them.
mod avx512 {
    use super::*;

    struct Loaded<'a> {
        codes: [__m512i; 4],
        changes: [__m512i; 4],
        kinds: &'a [u8],
    }

    impl<'a> Loaded<'a> {
        #[inline]
        #[target_feature(enable = "avx512f,avx512bw,avx512vbmi,popcnt")]
        fn new(tables: &'a Tables) -> Self {
            let quarters = |table: &[u8; 256]| {
                let mut quarters = [_mm512_setzero_si512(); 4];
                for (quarter, bytes) in quarters.iter_mut().zip(table.as_chunks().0) {
                    *quarter = load(bytes);
                }
                quarters
            };
            Self { codes: quarters(&tables.codes), changes: quarters(&tables.changes), kinds: &tables.kinds }
        }

        #[inline]
        #[target_feature(enable = "avx512f,avx512bw,avx512vbmi,popcnt")]
        fn line(&self, old: __m512i, counts: &mut Counts) -> __m512i {
            if !self.kinds.is_empty() {
                let changes = look_up(&self.changes, old);
                if _mm512_test_epi8_mask(changes, changes) != 0 {
                    for (kind, count) in self.kinds.iter().zip(counts) {
                        let mask = _mm512_cmpeq_epi8_mask(changes, _mm512_set1_epi8(kind.cast_signed()));
                        *count += u64::from(mask.count_ones());
                    }
                }
            }
            look_up(&self.codes, old)
        }
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vbmi")]
    fn look_up(table: &[__m512i; 4], old: __m512i) -> __m512i {
        let positive = _mm512_permutex2var_epi8(table[0], old, table[1]);
        let negative = _mm512_permutex2var_epi8(table[2], old, table[3]);
        _mm512_mask_blend_epi8(_mm512_movepi8_mask(old), positive, negative)
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    fn load(bytes: &[u8; 64]) -> __m512i {
        // SAFETY: reads 64 bytes of any alignment, which the reference has.
        unsafe { _mm512_loadu_si512(bytes.as_ptr().cast()) }
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    fn store(bytes: &mut [u8; 64], new: __m512i) {
        // SAFETY: writes 64 bytes of any alignment, which the reference has.
        unsafe { _mm512_storeu_si512(bytes.as_mut_ptr().cast(), new) }
    }

    /// Ordered by [`fence`].
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn stream(line: &mut Line, new: __m512i) {
        // SAFETY: writes 64 bytes that are aligned to 64, as a line is.
        unsafe { _mm512_stream_si512(line.0.as_mut_ptr().cast(), new) }
    }

    loops!("avx512f,avx512bw,avx512vbmi,popcnt");
}

/// One addition for all codes, and a look-up of 16 codes for each row that needs more: two to four rows for most recodes.
mod avx2 {
    use super::*;

    struct Loaded<'a> {
        rows: &'a Rows,
        kinds: &'a [u8],
    }

    /// 64 bytes.
    type Pair = [__m256i; 2];

    impl<'a> Loaded<'a> {
        fn new(tables: &'a Tables) -> Self {
            Self { rows: &tables.rows, kinds: &tables.kinds }
        }

        #[inline]
        #[target_feature(enable = "avx2,popcnt")]
        fn line(&self, old: Pair, counts: &mut Counts) -> Pair {
            let zero = _mm256_setzero_si256();
            let base = _mm256_set1_epi8(self.rows.base.cast_signed());
            let mut new = old.map(|old| _mm256_add_epi8(old, base));
            let mut changes = [zero; 2];
            for row in &self.rows.rows {
                let (added, changed) = (row_twice(&row.added), row_twice(&row.changes));
                let upper = _mm256_set1_epi8((row.upper << 4).cast_signed());
                for (old, (new, changes)) in old.iter().zip(new.iter_mut().zip(&mut changes)) {
                    // A code of this row becomes 0x70 to 0x7F, any other 0x80 or more, for which a look-up gives zero.
                    let index = _mm256_adds_epu8(_mm256_xor_si256(*old, upper), _mm256_set1_epi8(0x70));
                    *new = _mm256_add_epi8(*new, _mm256_shuffle_epi8(added, index));
                    *changes = _mm256_or_si256(*changes, _mm256_shuffle_epi8(changed, index));
                }
            }
            let any = _mm256_or_si256(changes[0], changes[1]);
            if _mm256_testz_si256(any, any) == 0 {
                for (kind, count) in self.kinds.iter().zip(counts) {
                    let wanted = _mm256_set1_epi8(kind.cast_signed());
                    for changes in changes {
                        let mask = _mm256_movemask_epi8(_mm256_cmpeq_epi8(changes, wanted));
                        *count += u64::from(mask.count_ones());
                    }
                }
            }
            new
        }
    }

    /// The same 16 bytes in both halves.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn row_twice(row: &[u8; 16]) -> __m256i {
        // SAFETY: reads 16 bytes of any alignment, which the reference has.
        _mm256_broadcastsi128_si256(unsafe { _mm_loadu_si128(row.as_ptr().cast()) })
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    fn load(bytes: &[u8; 64]) -> Pair {
        let mut pair = [_mm256_setzero_si256(); 2];
        for (half, bytes) in pair.iter_mut().zip(bytes.as_chunks::<32>().0) {
            // SAFETY: reads 32 bytes of any alignment, which the reference has.
            *half = unsafe { _mm256_loadu_si256(bytes.as_ptr().cast()) };
        }
        pair
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    fn store(bytes: &mut [u8; 64], new: Pair) {
        for (half, bytes) in new.into_iter().zip(bytes.as_chunks_mut::<32>().0) {
            // SAFETY: writes 32 bytes of any alignment, which the reference has.
            unsafe { _mm256_storeu_si256(bytes.as_mut_ptr().cast(), half) };
        }
    }

    /// Ordered by [`fence`].
    #[inline]
    #[target_feature(enable = "avx2")]
    fn stream(line: &mut Line, new: Pair) {
        for (half, bytes) in new.into_iter().zip(line.0.as_chunks_mut::<32>().0) {
            // SAFETY: writes 32 bytes that are aligned to 32, as both halves of a line are.
            unsafe { _mm256_stream_si256(bytes.as_mut_ptr().cast(), half) };
        }
    }

    loops!("avx2,popcnt");
}
