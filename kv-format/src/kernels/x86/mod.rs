//! The kernels of x86-64 with AVX2 or AVX-512.
//!
//! All loops here are safe code over slices. What is unsafe is small: one load, one store and one store past the cache for each
//! register width, each behind a bounds check; a prefetch, which touches nothing; and the calls into functions compiled for a feature,
//! for which a value that only detection makes is the proof.
#![expect(
    unsafe_code,
    reason = "vector loads and stores, and calls of functions compiled for a processor feature"
)]

mod avx2;
mod avx512;

use core::arch::x86_64::{_MM_HINT_T0, _mm_prefetch, _mm_sfence};

use super::Between;
use super::ahead::Ahead;
use super::steps::{Step, Steps, walk};

/// Bytes of a cache line.
const LINE: usize = 64;

/// Shortest runs that are copied by the vector loop.
const LONG: usize = 32;

/// Proof that the processor has AVX2.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Avx2(());

/// Proof that the processor has AVX-512 F and BW, and AVX2.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Avx512(());

/// Defines detection and the choice of a loop for one set of features.
macro_rules! level {
    ($level:ident, $module:ident, $($feature:tt),+) => {
        impl $level {
            pub(super) fn detect() -> Option<Self> {
                ($(is_x86_feature_detected!($feature))&&+).then_some(Self(()))
            }

            /// Moves one nest at its place.
            pub(super) fn move_nest(
                self,
                steps: &Steps,
                from: &[u8],
                to: &mut [u8],
                (f, t): (usize, usize),
                ahead: &mut Ahead<'_>,
                between: &mut impl Between,
            ) {
                match steps.run {
                    1 => self.elements::<1, 16>(steps, from, to, (f, t), ahead, between),
                    2 => self.elements::<2, 8>(steps, from, to, (f, t), ahead, between),
                    4 => self.elements::<4, 4>(steps, from, to, (f, t), ahead, between),
                    8 => self.elements::<8, 2>(steps, from, to, (f, t), ahead, between),
                    16 => self.elements::<16, 1>(steps, from, to, (f, t), ahead, between),
                    run if run >= LONG => walk(steps.outer(), f, t, &mut |f, t| {
                        let (from, panel) = (&from[f..], &mut to[t..]);
                        // SAFETY: `self` exists, so the processor has the features that the function is compiled for.
                        unsafe { $module::rows(run, steps.row, from, panel, ahead) }
                        look(ahead, between, steps, to, t);
                    }),
                    _ => super::portable::move_nest(steps, from, to, (f, t), between),
                }
            }

            /// Moves runs of `N` bytes, of which a register's lane holds `K`.
            fn elements<const N: usize, const K: usize>(
                self,
                steps: &Steps,
                from: &[u8],
                to: &mut [u8],
                (f, t): (usize, usize),
                ahead: &mut Ahead<'_>,
                between: &mut impl Between,
            ) {
                let Some((column, outer)) = steps.transposition::<N>() else {
                    return super::portable::move_nest(steps, from, to, (f, t), between);
                };
                walk(outer, f, t, &mut |f, t| {
                    let (from, panel) = (&from[f..], &mut to[t..]);
                    // SAFETY: `self` exists, so the processor has the features that the function is compiled for.
                    unsafe { $module::transpose::<N, K>(column, steps.row, from, panel, ahead) }
                        look(ahead, between, steps, to, t);
                });
            }
        }
    };
}

level!(Avx2, avx2, "avx2");
level!(Avx512, avx512, "avx2", "avx512f", "avx512bw");

/// Does what is to be done behind the panel at `t`, with a part of the next one on its way. Of blocks that are read line by line that
/// hides most of a checksum; of others it was measured to cost more than it hides.
fn look<B: Between>(ahead: &mut Ahead<'_>, between: &mut B, steps: &Steps, to: &[u8], t: usize) {
    if B::READS && steps.dense && steps.run >= LONG {
        ahead.hurry();
    }
    between.panel(to, steps.filled(t));
}

/// Starts to bring the line of `from` at `at` into the cache.
#[inline(always)]
pub(super) fn fetch(from: &[u8], at: usize) {
    let address = from.as_ptr().wrapping_add(at);
    // SAFETY: a prefetch is a hint that reads and writes nothing and never faults, whatever the address is.
    unsafe { _mm_prefetch::<_MM_HINT_T0>(address.cast()) }
}

/// Orders stores past the cache before whatever this thread stores next.
pub(super) fn finish_cold() {
    // SAFETY: every x86-64 processor has SSE, and the fence touches no memory.
    unsafe { _mm_sfence() }
}

/// Whether every run of a row fills whole lines of the destination.
fn are_lines(run: usize, row: Step, to: &[u8]) -> bool {
    [run, row.to, to.as_ptr().addr()].iter().all(|bytes| bytes.is_multiple_of(LINE))
}

/// The destination's bytes up to a line's start, whole lines, and the rest; and as much of the source for each.
fn by_lines<'a>(from: &'a [u8], to: &'a mut [u8]) -> [(&'a [u8], &'a mut [u8]); 3] {
    let head = to.as_ptr().align_offset(LINE).min(to.len());
    let lines = (to.len() - head) / LINE * LINE;
    let (to_head, to) = to.split_at_mut(head);
    let (to_lines, to_tail) = to.split_at_mut(lines);
    let (from_head, from) = from.split_at(head);
    let (from_lines, from_tail) = from.split_at(lines);
    [(from_head, to_head), (from_lines, to_lines), (from_tail, to_tail)]
}

/// Moves what a wide kernel leaves: the rest of the columns.
fn rest_of_columns<const N: usize>(done: usize, column: Step, row: Step, from: &[u8], to: &mut [u8]) {
    if done < column.count {
        let rest = column.times(column.count - done);
        super::portable::transpose::<N>(rest, row, &from[done * N..], &mut to[done * column.to..]);
    }
}
