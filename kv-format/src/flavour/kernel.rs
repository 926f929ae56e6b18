//! Recoding of slices: which kernel runs, and the portable one, which looks up byte by byte.

use std::hint::black_box;

#[cfg(target_arch = "x86_64")]
use super::simd;
use super::{Change, Run};
use crate::kernels::Destination;

/// Bytes between what is read and what is fetched from memory, within a piece.
const AHEAD: usize = 1024;

/// Runs between the one that is read and the one whose page is looked up.
const TOUCHED_AHEAD: usize = 4;

/// Elements by kind of change.
pub(super) type Counts = [u64; Change::ALL.len()];

/// A recode in the forms that the kernels read.
#[derive(Clone)]
pub(super) struct Tables {
    pub(super) codes: [u8; 256],
    pub(super) changes: [u8; 256],
    #[cfg(target_arch = "x86_64")]
    pub(super) rows: simd::Rows,
    /// The kinds of change that occur.
    pub(super) kinds: Vec<u8>,
}

impl Tables {
    pub(super) fn new(codes: [u8; 256], changes: [u8; 256]) -> Self {
        let kinds = Change::ALL.map(|kind| kind as u8).into_iter().skip(1);
        let kinds = kinds.filter(|kind| changes.contains(kind)).collect();
        Self {
            codes,
            changes,
            #[cfg(target_arch = "x86_64")]
            rows: simd::Rows::new(&codes, &changes),
            kinds,
        }
    }
}

/// A way to recode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kernel {
    /// Byte by byte.
    Portable,
    /// 32 bytes at a time, by the rows that change something.
    #[cfg(target_arch = "x86_64")]
    Avx2(simd::Avx2),
    /// 64 bytes at a time, by the whole table in registers.
    #[cfg(target_arch = "x86_64")]
    Avx512Vbmi(simd::Avx512Vbmi),
}

impl Kernel {
    /// The fastest that this CPU has.
    pub(super) fn best() -> Self {
        #[cfg(target_arch = "x86_64")]
        {
            if let Some(kernel) = simd::Avx512Vbmi::detect() {
                return Self::Avx512Vbmi(kernel);
            }
            if let Some(kernel) = simd::Avx2::detect() {
                return Self::Avx2(kernel);
            }
        }
        Self::Portable
    }

    /// Recodes `from` into `to`, which has the same length, and counts.
    pub(super) fn copy(
        self,
        tables: &Tables,
        from: &[u8],
        to: &mut [u8],
        destination: Destination,
    ) -> Counts {
        let counts = self.piece(tables, from, to, destination, from.as_ptr().wrapping_add(AHEAD));
        self.end(destination);
        counts
    }

    /// Recodes pieces of `len` bytes from one place to another, all of which are inside the slices, and counts.
    pub(super) fn copy_runs(
        self,
        tables: &Tables,
        (from, to): (&[u8], &mut [u8]),
        (runs, len): (&[Run], usize),
        destination: Destination,
    ) -> Counts {
        let mut counts = Counts::default();
        for (index, run) in runs.iter().enumerate() {
            if let Some(next) = runs.get(index + TOUCHED_AHEAD) {
                // The first access of a page waits for its address translation: who asks early does not wait.
                black_box((from[next.from], to[next.to]));
            }
            let ahead = from.as_ptr().wrapping_add(runs.get(index + 1).unwrap_or(run).from);
            let piece = (&from[run.from..][..len], &mut to[run.to..][..len]);
            counts = sum(counts, self.piece(tables, piece.0, piece.1, destination, ahead));
        }
        self.end(destination);
        counts
    }

    /// A copy that [`end`](Self::end) completes.
    #[cfg_attr(
        not(target_arch = "x86_64"),
        expect(unused_variables, reason = "the portable kernel stores in one way and fetches nothing ahead")
    )]
    fn piece(
        self,
        tables: &Tables,
        from: &[u8],
        to: &mut [u8],
        destination: Destination,
        ahead: *const u8,
    ) -> Counts {
        match self {
            Self::Portable => copy(tables, from, to),
            #[cfg(target_arch = "x86_64")]
            Self::Avx2(kernel) => kernel.copy(tables, from, to, destination, ahead),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Vbmi(kernel) => kernel.copy(tables, from, to, destination, ahead),
        }
    }

    #[cfg_attr(
        not(target_arch = "x86_64"),
        expect(unused_variables, reason = "the portable kernel's stores need no fence")
    )]
    fn end(self, destination: Destination) {
        #[cfg(target_arch = "x86_64")]
        if self != Self::Portable && destination == Destination::Cold {
            simd::fence();
        }
    }

    /// Recodes bytes where they are, and counts.
    pub(super) fn in_place(self, tables: &Tables, bytes: &mut [u8]) -> Counts {
        match self {
            Self::Portable => in_place(tables, bytes),
            #[cfg(target_arch = "x86_64")]
            Self::Avx2(kernel) => kernel.in_place(tables, bytes),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Vbmi(kernel) => kernel.in_place(tables, bytes),
        }
    }

    /// Counts.
    pub(super) fn count(self, tables: &Tables, bytes: &[u8]) -> Counts {
        match self {
            Self::Portable => count(tables, bytes),
            #[cfg(target_arch = "x86_64")]
            Self::Avx2(kernel) => kernel.count(tables, bytes),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Vbmi(kernel) => kernel.count(tables, bytes),
        }
    }
}

/// Adds the counts of two pieces.
pub(super) fn sum(mut counts: Counts, more: Counts) -> Counts {
    counts.iter_mut().zip(more).for_each(|(count, more)| *count += more);
    counts
}

/// Bytes that the portable kernel looks up while they stay in the nearest cache.
const BLOCK: usize = 4096;

/// The portable copy, also for the ends that are shorter than a vector.
pub(super) fn copy(tables: &Tables, from: &[u8], to: &mut [u8]) -> Counts {
    let mut counts = Counts::default();
    for (to, from) in to.chunks_mut(BLOCK).zip(from.chunks(BLOCK)) {
        counts = sum(counts, count(tables, from));
        for (to, from) in to.iter_mut().zip(from) {
            *to = tables.codes[usize::from(*from)];
        }
    }
    counts
}

/// As [`copy`], in place.
pub(super) fn in_place(tables: &Tables, bytes: &mut [u8]) -> Counts {
    let mut counts = Counts::default();
    for block in bytes.chunks_mut(BLOCK) {
        counts = sum(counts, count(tables, block));
        for byte in block {
            *byte = tables.codes[usize::from(*byte)];
        }
    }
    counts
}

/// As [`copy`], without a destination.
pub(super) fn count(tables: &Tables, bytes: &[u8]) -> Counts {
    let mut counts = Counts::default();
    if tables.kinds.is_empty() {
        return counts;
    }
    let mut found = [0; BLOCK];
    for block in bytes.chunks(BLOCK) {
        let found = &mut found[..block.len()];
        for (kind, byte) in found.iter_mut().zip(block) {
            *kind = tables.changes[usize::from(*byte)];
        }
        // One count a pass is a loop of vector instructions; all counts in one pass would wait for each other's stores.
        for kind in &tables.kinds {
            let count: usize = found.chunks(255).map(|piece| usize::from(equal(piece, *kind))).sum();
            counts[usize::from(*kind)] += count as u64;
        }
    }
    counts
}

/// How many of at most 255 bytes are `kind`.
fn equal(bytes: &[u8], kind: u8) -> u8 {
    bytes.iter().map(|byte| u8::from(*byte == kind)).sum()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::{Flavour, Lossy, Recode};
    use super::*;

    /// Every kernel that this CPU has.
    fn kernels() -> Vec<Kernel> {
        let mut kernels = vec![Kernel::Portable];
        #[cfg(target_arch = "x86_64")]
        {
            kernels.extend(simd::Avx2::detect().map(Kernel::Avx2));
            kernels.extend(simd::Avx512Vbmi::detect().map(Kernel::Avx512Vbmi));
        }
        assert!(kernels.contains(&Kernel::best()));
        kernels
    }

    /// Each byte by itself, by the table.
    fn expected(tables: &Tables, bytes: &[u8]) -> (Vec<u8>, Counts) {
        let mut counts = Counts::default();
        for byte in bytes {
            let change = usize::from(tables.changes[usize::from(*byte)]);
            counts[change] += u64::from(change > 0);
        }
        (bytes.iter().map(|byte| tables.codes[usize::from(*byte)]).collect(), counts)
    }

    fn check(tables: &Tables, from: &[u8], offset: usize) {
        let (recoded, counts) = expected(tables, from);
        for kernel in kernels() {
            for destination in [Destination::Hot, Destination::Cold] {
                let mut to = vec![0xA5; offset + from.len() + 70];
                let found = kernel.copy(tables, from, &mut to[offset..offset + from.len()], destination);
                assert!(to[offset..offset + from.len()] == recoded, "{kernel:?} {destination:?}");
                let around = to[..offset].iter().chain(&to[offset + from.len()..]);
                assert!(
                    around.into_iter().all(|byte| *byte == 0xA5),
                    "{kernel:?} {destination:?} left its slice"
                );
                assert_eq!(found, counts, "{kernel:?} {destination:?}");
            }
            for destination in [Destination::Hot, Destination::Cold] {
                let (len, count) = (37, from.len() / 37);
                // Backwards, and one byte apart on the other side.
                let runs: Vec<Run> =
                    (0..count).rev().map(|i| Run { from: i * len, to: i * (len + 1) }).collect();
                let mut to = vec![0xA5; count * (len + 1)];
                let found = kernel.copy_runs(tables, (from, &mut to), (&runs, len), destination);
                let pieces = to.chunks(len + 1).zip(recoded.chunks_exact(len));
                assert!(
                    pieces.clone().count() == count
                        && pieces.into_iter().all(|(to, from)| to[..len] == *from && to[len] == 0xA5)
                );
                assert_eq!(found, expected(tables, &from[..count * len]).1, "{kernel:?} runs");
            }
            let mut bytes = from.to_vec();
            assert_eq!(kernel.count(tables, &bytes), counts, "{kernel:?} counts");
            assert_eq!(kernel.in_place(tables, &mut bytes), counts, "{kernel:?} in place");
            assert!(bytes == recoded, "{kernel:?} in place");
        }
    }

    fn recodes() -> Vec<Recode> {
        let pairs = Flavour::ALL.into_iter().flat_map(|from| Flavour::ALL.map(|to| (from, to)));
        pairs
            .flat_map(|(from, to)| {
                [Lossy::Saturate, Lossy::Overflow].map(|lossy| Recode::lossy(from, to, lossy))
            })
            .collect()
    }

    #[test]
    fn every_kernel_recodes_and_counts_every_code_of_every_pair_at_every_place_of_a_vector() {
        for recode in recodes() {
            let codes: Vec<u8> = (0..=u8::MAX).cycle().take(256 * 3 + 17).collect();
            (0..64).for_each(|start| check(&recode.tables, &codes[start..], start));
        }
    }

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn most_recodes_need_few_rows() {
        for recode in recodes().iter().filter(|recode| recode.scale_factor() != 1.0) {
            let rows = recode.tables.rows.count();
            assert!(rows <= 5, "{recode:?} has {rows}");
        }
    }

    proptest! {
        #[test]
        fn every_kernel_does_what_the_table_says(
            recode in prop::sample::select(recodes()),
            bytes in prop::collection::vec(any::<u8>(), 0..10_000),
            offset in 0..64_usize,
        ) {
            check(&recode.tables, &bytes, offset);
        }

        /// Tables that no pair of flavours has: the kernels depend on the table alone.
        #[test]
        fn every_kernel_takes_any_table(
            codes in prop::array::uniform32(prop::array::uniform8(any::<u8>())),
            kinds in prop::array::uniform32(prop::array::uniform8(0..6_u8)),
            bytes in prop::collection::vec(any::<u8>(), 0..500),
        ) {
            let flat = |table: [[u8; 8]; 32]| std::array::from_fn(|code| table[code / 8][code % 8]);
            check(&Tables::new(flat(codes), flat(kinds)), &bytes, 3);
        }
    }
}
