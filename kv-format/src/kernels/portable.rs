//! Plain loops for every shape.
//!
//! Long runs are copies of slices. Runs of a few bytes (a transposed V has runs of one element) are moved by loops over the two dims
//! in which one side each is densest, with the run's length as a constant.

#![forbid(unsafe_code)]

use super::Between;
use super::steps::{Step, Steps, walk};

/// Side of the squares in which a transposition is done.
const TILE: usize = 16;

/// Moves one nest at its place.
pub(super) fn move_nest(
    steps: &Steps,
    from: &[u8],
    to: &mut [u8],
    (f, t): (usize, usize),
    between: &mut impl Between,
) {
    match steps.run {
        1 => elements::<1>(steps, from, to, (f, t), between),
        2 => elements::<2>(steps, from, to, (f, t), between),
        4 => elements::<4>(steps, from, to, (f, t), between),
        8 => elements::<8>(steps, from, to, (f, t), between),
        16 => elements::<16>(steps, from, to, (f, t), between),
        32 => elements::<32>(steps, from, to, (f, t), between),
        run => walk(steps.outer(), f, t, &mut |f, t| {
            for i in 0..steps.row.count {
                let (f, t) = (f + i * steps.row.from, t + i * steps.row.to);
                to[t..t + run].copy_from_slice(&from[f..f + run]);
            }
            between.panel(to, steps.filled(t));
        }),
    }
}

/// Moves runs of `N` bytes: as a transposition if each of the inner two dims is contiguous on one side, else row by row.
fn elements<const N: usize>(
    steps: &Steps,
    from: &[u8],
    to: &mut [u8],
    (f, t): (usize, usize),
    between: &mut impl Between,
) {
    match steps.transposition::<N>() {
        Some((column, outer)) if N <= 4 => walk(outer, f, t, &mut |f, t| {
            transpose::<N>(column, steps.row, &from[f..], &mut to[t..]);
            between.panel(to, steps.filled(t));
        }),
        _ => walk(steps.outer(), f, t, &mut |f, t| {
            row::<N>(steps.row, &from[f..], &mut to[t..]);
            between.panel(to, steps.filled(t));
        }),
    }
}

/// Moves runs of `N` bytes that are contiguous along `column` in the source and along `row` in the destination, in square tiles that
/// are read and written whole.
pub(super) fn transpose<const N: usize>(column: Step, row: Step, from: &[u8], to: &mut [u8]) {
    for i in (0..column.count).step_by(TILE) {
        for j in (0..row.count).step_by(TILE) {
            let (height, width) = ((column.count - i).min(TILE), (row.count - j).min(TILE));
            let (from, to) = (&from[i * N + j * row.from..], &mut to[i * column.to + j * N..]);
            if height == TILE && width == TILE {
                let mut tile = [[[0; N]; TILE]; TILE];
                for (j, line) in tile.iter_mut().enumerate() {
                    let source = &from[j * row.from..][..TILE * N];
                    line.copy_from_slice(source.as_chunks().0);
                }
                for i in 0..TILE {
                    let line: [[u8; N]; TILE] = std::array::from_fn(|j| tile[j][i]);
                    to[i * column.to..][..TILE * N].copy_from_slice(line.as_flattened());
                }
                continue;
            }
            for i in 0..height {
                for j in 0..width {
                    let run = &from[i * N + j * row.from..][..N];
                    to[i * column.to + j * N..][..N].copy_from_slice(run);
                }
            }
        }
    }
}

/// One row of runs of `N` bytes.
fn row<const N: usize>(step: Step, from: &[u8], to: &mut [u8]) {
    let Some(last) = step.count.checked_sub(1) else {
        return;
    };
    let (from, to) = (&from[..last * step.from + N], &mut to[..last * step.to + N]);
    if step.to == N && step.from >= N {
        // Each chunk begins with one run; the last one is only that.
        let (dense, _) = to.as_chunks_mut::<N>();
        for (to, from) in dense.iter_mut().zip(from.chunks(step.from)) {
            if let Some(run) = from.first_chunk() {
                *to = *run;
            }
        }
        return;
    }
    for i in 0..step.count {
        let (f, t) = (i * step.from, i * step.to);
        to[t..t + N].copy_from_slice(&from[f..f + N]);
    }
}
