//! Registers of 64 bytes: a whole cache line, or four lanes of 16 bytes that are turned over at once.
#![expect(unsafe_code, reason = "vector loads and stores")]

use core::arch::x86_64::{
    __m512i, _mm512_castsi128_si512, _mm512_inserti32x4, _mm512_loadu_si512, _mm512_setzero_si512,
    _mm512_storeu_si512, _mm512_stream_si512, _mm512_unpackhi_epi8, _mm512_unpackhi_epi16,
    _mm512_unpackhi_epi32, _mm512_unpackhi_epi64, _mm512_unpacklo_epi8, _mm512_unpacklo_epi16,
    _mm512_unpacklo_epi32, _mm512_unpacklo_epi64,
};

use super::super::ahead::Ahead;
use super::super::steps::Step;
use super::{LINE, are_lines, avx2, by_lines, rest_of_columns};

/// Lanes of a register.
const LANES: usize = 4;

/// Copies one row of runs of `run` bytes.
#[target_feature(enable = "avx2,avx512f,avx512bw")]
pub(super) fn rows(run: usize, row: Step, from: &[u8], to: &mut [u8], ahead: &mut Ahead<'_>) {
    let cold = ahead.cold;
    if ahead.is_done() {
        rows_with(run, row, from, to, cold, |_| {});
    } else {
        rows_with(run, row, from, to, cold, |bytes| ahead.advance(bytes));
    }
}

/// The same, calling `next` with the bytes that are copied next.
#[target_feature(enable = "avx2,avx512f,avx512bw")]
#[inline]
fn rows_with(run: usize, row: Step, from: &[u8], to: &mut [u8], cold: bool, mut next: impl FnMut(usize)) {
    let in_lines = are_lines(run, row, to);
    for i in 0..row.count {
        let from = &from[i * row.from..][..run];
        let to = &mut to[i * row.to..][..run];
        if in_lines {
            next(run);
            lines(from, to, cold, |_| {});
            continue;
        }
        let [(from_head, head), (from_lines, whole), (from_tail, tail)] = by_lines(from, to);
        head.copy_from_slice(from_head);
        lines(from_lines, whole, cold, &mut next);
        tail.copy_from_slice(from_tail);
    }
}

/// Copies whole lines, calling `next` before each.
#[target_feature(enable = "avx2,avx512f,avx512bw")]
#[inline]
fn lines(from: &[u8], to: &mut [u8], cold: bool, mut next: impl FnMut(usize)) {
    for (from, to) in from.as_chunks::<LINE>().0.iter().zip(to.as_chunks_mut::<LINE>().0) {
        next(LINE);
        store(to, load(from), cold);
    }
}

/// Moves runs of `N` bytes, `K` to a lane, that are contiguous along `column` in the source and along `row` in the destination.
#[target_feature(enable = "avx2,avx512f,avx512bw")]
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
            tile::<N, K>(row.from, column.to, from, to, cold);
            ahead.advance(LINE * K);
        }
    }
    if wide < row.count && columns > 0 {
        let rest = row.times(row.count - wide);
        let (from, to) = (&from[wide * row.from..], &mut to[wide * N..]);
        avx2::transpose::<N, K>(column.times(columns), rest, from, to, ahead);
    }
    rest_of_columns::<N>(columns, column, row, from, to);
}

/// Turns `K` columns of `4 * K` rows into `K` lines. Lane `g` of register `k` holds row `g * K + k`, so that turning each lane over
/// leaves column `k` in register `k`.
#[target_feature(enable = "avx2,avx512f,avx512bw")]
#[inline]
fn tile<const N: usize, const K: usize>(row: usize, column: usize, from: &[u8], to: &mut [u8], cold: bool) {
    let mut registers = [_mm512_setzero_si512(); K];
    for (k, register) in registers.iter_mut().enumerate() {
        let lane = |g: usize| avx2::load_lane(from, (g * K + k) * row);
        *register = _mm512_castsi128_si512(lane(0));
        *register = _mm512_inserti32x4::<1>(*register, lane(1));
        *register = _mm512_inserti32x4::<2>(*register, lane(2));
        *register = _mm512_inserti32x4::<3>(*register, lane(3));
    }
    let turned = turn_over::<N, K>(registers);
    for (k, line) in turned.into_iter().enumerate() {
        store(&mut to[k * column..k * column + LINE], line, cold);
    }
}

/// Transposes a square of `K` by `K` elements of `N` bytes in each lane: shuffling the first half of the registers perfectly with
/// the second, as often as it takes for an element to reach its register.
#[target_feature(enable = "avx2,avx512f,avx512bw")]
#[inline]
fn turn_over<const N: usize, const K: usize>(mut registers: [__m512i; K]) -> [__m512i; K] {
    for _ in 0..K.ilog2() {
        let before = registers;
        for i in 0..K / 2 {
            let (a, b) = (before[i], before[i + K / 2]);
            (registers[2 * i], registers[2 * i + 1]) = match N {
                1 => (_mm512_unpacklo_epi8(a, b), _mm512_unpackhi_epi8(a, b)),
                2 => (_mm512_unpacklo_epi16(a, b), _mm512_unpackhi_epi16(a, b)),
                4 => (_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b)),
                _ => (_mm512_unpacklo_epi64(a, b), _mm512_unpackhi_epi64(a, b)),
            };
        }
    }
    registers
}

#[target_feature(enable = "avx512f")]
#[inline]
fn load(from: &[u8]) -> __m512i {
    let line = &from[..LINE];
    // SAFETY: the slice is 64 readable bytes, and the load needs no alignment.
    unsafe { _mm512_loadu_si512(line.as_ptr().cast()) }
}

/// Stores a line, past the cache if that is asked for and the line is one of memory's.
#[target_feature(enable = "avx512f")]
#[inline]
fn store(to: &mut [u8], line: __m512i, cold: bool) {
    let address = to[..LINE].as_mut_ptr();
    if cold && address.addr().is_multiple_of(LINE) {
        // SAFETY: the slice is 64 writable bytes, aligned as was just checked; `finish_cold` orders the store.
        unsafe { _mm512_stream_si512(address.cast(), line) }
    } else {
        // SAFETY: the slice is 64 writable bytes, and the store needs no alignment.
        unsafe { _mm512_storeu_si512(address.cast(), line) }
    }
}
