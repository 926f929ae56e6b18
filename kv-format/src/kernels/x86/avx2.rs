//! Registers of 32 bytes: half a cache line, or two lanes of 16 bytes that are turned over at once; and single lanes for the rest.
#![expect(unsafe_code, reason = "vector loads and stores")]

use core::arch::x86_64::{
    __m128i, __m256i, _mm_loadu_si128, _mm_storeu_si128, _mm_stream_si128, _mm256_castsi128_si256,
    _mm256_castsi256_si128, _mm256_inserti128_si256, _mm256_loadu_si256, _mm256_setzero_si256,
    _mm256_storeu_si256, _mm256_stream_si256, _mm256_unpackhi_epi8, _mm256_unpackhi_epi16,
    _mm256_unpackhi_epi32, _mm256_unpackhi_epi64, _mm256_unpacklo_epi8, _mm256_unpacklo_epi16,
    _mm256_unpacklo_epi32, _mm256_unpacklo_epi64,
};

use super::super::ahead::Ahead;
use super::super::portable;
use super::super::steps::Step;
use super::{LINE, are_lines, by_lines, rest_of_columns};

/// Bytes of a lane.
const LANE: usize = 16;

/// Bytes of a register.
const REGISTER: usize = 32;

/// Lanes of a register.
const LANES: usize = 2;

/// Copies one row of runs of `run` bytes.
#[target_feature(enable = "avx2")]
pub(super) fn rows(run: usize, row: Step, from: &[u8], to: &mut [u8], ahead: &mut Ahead<'_>) {
    let cold = ahead.cold;
    let in_lines = are_lines(run, row, to);
    for i in 0..row.count {
        let from = &from[i * row.from..][..run];
        let to = &mut to[i * row.to..][..run];
        if in_lines {
            ahead.advance(run);
            lines(from, to, cold, || {});
            continue;
        }
        let [(from_head, head), (from_lines, whole), (from_tail, tail)] = by_lines(from, to);
        head.copy_from_slice(from_head);
        lines(from_lines, whole, cold, || ahead.advance(LINE));
        tail.copy_from_slice(from_tail);
    }
}

/// Copies whole lines, calling `next` before each.
#[target_feature(enable = "avx2")]
#[inline]
fn lines(from: &[u8], to: &mut [u8], cold: bool, mut next: impl FnMut()) {
    for (from, to) in from.as_chunks::<LINE>().0.iter().zip(to.as_chunks_mut::<LINE>().0) {
        next();
        let halves = (from.as_chunks::<REGISTER>().0, to.as_chunks_mut::<REGISTER>().0);
        for (from, to) in halves.0.iter().zip(halves.1) {
            store(to, load(from), cold);
        }
    }
}

/// Moves runs of `N` bytes, `K` to a lane, that are contiguous along `column` in the source and along `row` in the destination.
#[target_feature(enable = "avx2")]
pub(super) fn transpose<const N: usize, const K: usize>(
    column: Step,
    row: Step,
    from: &[u8],
    to: &mut [u8],
    ahead: &mut Ahead<'_>,
) {
    let cold = ahead.cold;
    let (columns, wide) = (column.count / K * K, row.count / (LANES * K) * (LANES * K));
    for j in (0..wide).step_by(LANES * K) {
        for i in (0..columns).step_by(K) {
            let (from, to) = (&from[j * row.from + i * N..], &mut to[i * column.to + j * N..]);
            tile::<N, K, LANES>(row.from, column.to, from, to, cold);
            ahead.advance(REGISTER * K);
        }
    }
    let narrow = row.count / K * K;
    for j in (wide..narrow).step_by(K) {
        for i in (0..columns).step_by(K) {
            let (from, to) = (&from[j * row.from + i * N..], &mut to[i * column.to + j * N..]);
            tile::<N, K, 1>(row.from, column.to, from, to, cold);
            ahead.advance(LANE * K);
        }
    }
    if narrow < row.count && columns > 0 {
        let rest = row.times(row.count - narrow);
        let (from, to) = (&from[narrow * row.from..], &mut to[narrow * N..]);
        portable::transpose::<N>(column.times(columns), rest, from, to);
    }
    rest_of_columns::<N>(columns, column, row, from, to);
}

/// Turns `K` columns of `L * K` rows over, as `avx512::tile` does with four lanes. With one lane the upper half stays unused.
#[target_feature(enable = "avx2")]
#[inline]
fn tile<const N: usize, const K: usize, const L: usize>(
    row: usize,
    column: usize,
    from: &[u8],
    to: &mut [u8],
    cold: bool,
) {
    let mut registers = [_mm256_setzero_si256(); K];
    for (k, register) in registers.iter_mut().enumerate() {
        *register = _mm256_castsi128_si256(load_lane(from, k * row));
        if L == LANES {
            *register = _mm256_inserti128_si256::<1>(*register, load_lane(from, (K + k) * row));
        }
    }
    for (k, turned) in turn_over::<N, K>(registers).into_iter().enumerate() {
        let to = &mut to[k * column..];
        if L == LANES {
            store(to, turned, cold);
        } else {
            store_lane(to, _mm256_castsi256_si128(turned), cold);
        }
    }
}

/// Transposes a square of `K` by `K` elements of `N` bytes in each lane, as `avx512::turn_over` does.
#[target_feature(enable = "avx2")]
#[inline]
fn turn_over<const N: usize, const K: usize>(mut registers: [__m256i; K]) -> [__m256i; K] {
    for _ in 0..K.ilog2() {
        let before = registers;
        for i in 0..K / 2 {
            let (a, b) = (before[i], before[i + K / 2]);
            (registers[2 * i], registers[2 * i + 1]) = match N {
                1 => (_mm256_unpacklo_epi8(a, b), _mm256_unpackhi_epi8(a, b)),
                2 => (_mm256_unpacklo_epi16(a, b), _mm256_unpackhi_epi16(a, b)),
                4 => (_mm256_unpacklo_epi32(a, b), _mm256_unpackhi_epi32(a, b)),
                _ => (_mm256_unpacklo_epi64(a, b), _mm256_unpackhi_epi64(a, b)),
            };
        }
    }
    registers
}

/// The 16 bytes of `from` at `at`.
#[target_feature(enable = "avx2")]
#[inline]
pub(super) fn load_lane(from: &[u8], at: usize) -> __m128i {
    let lane = &from[at..at + LANE];
    // SAFETY: the slice is 16 readable bytes, and the load needs no alignment.
    unsafe { _mm_loadu_si128(lane.as_ptr().cast()) }
}

#[target_feature(enable = "avx2")]
#[inline]
fn load(from: &[u8]) -> __m256i {
    let half = &from[..REGISTER];
    // SAFETY: the slice is 32 readable bytes, and the load needs no alignment.
    unsafe { _mm256_loadu_si256(half.as_ptr().cast()) }
}

/// Stores half a line, past the cache if that is asked for and the address is aligned.
#[target_feature(enable = "avx2")]
#[inline]
fn store(to: &mut [u8], half: __m256i, cold: bool) {
    let address = to[..REGISTER].as_mut_ptr();
    if cold && address.addr().is_multiple_of(REGISTER) {
        // SAFETY: the slice is 32 writable bytes, aligned as was just checked; `finish_cold` orders the store.
        unsafe { _mm256_stream_si256(address.cast(), half) }
    } else {
        // SAFETY: the slice is 32 writable bytes, and the store needs no alignment.
        unsafe { _mm256_storeu_si256(address.cast(), half) }
    }
}

/// Stores a lane, past the cache if that is asked for and the address is aligned.
#[target_feature(enable = "avx2")]
#[inline]
fn store_lane(to: &mut [u8], lane: __m128i, cold: bool) {
    let address = to[..LANE].as_mut_ptr();
    if cold && address.addr().is_multiple_of(LANE) {
        // SAFETY: the slice is 16 writable bytes, aligned as was just checked; `finish_cold` orders the store.
        unsafe { _mm_stream_si128(address.cast(), lane) }
    } else {
        // SAFETY: the slice is 16 writable bytes, and the store needs no alignment.
        unsafe { _mm_storeu_si128(address.cast(), lane) }
    }
}
