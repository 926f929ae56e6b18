//! Moves the runs of one section between an engine's memory and staging.
//!
//! Long runs are copies of slices. Runs of a few bytes (a transposed V has runs of one element) are moved by loops over the two dims
//! in which one side each is densest, with the run's length as a constant.

use kv_format::{LayerPlan, Nest, TensorKind};

/// Copies the runs of `plan` from the engine's memory (from the tensor's base on) into a section.
pub(super) fn gather(plan: &LayerPlan, kind: TensorKind, memory: &[u8], section: &mut [u8]) {
    move_runs(plan, kind, Side::Device, memory, section);
}

/// Copies the runs of `plan` from a section into the engine's memory (from the tensor's base on).
pub(super) fn scatter(plan: &LayerPlan, kind: TensorKind, section: &[u8], memory: &mut [u8]) {
    move_runs(plan, kind, Side::Section, section, memory);
}

/// Side of the squares in which a transposition is done.
const TILE: usize = 16;

/// Where the bytes come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Device,
    Section,
}

/// One dim, seen from source to destination.
#[derive(Debug, Clone, Copy)]
struct Step {
    count: usize,
    from: usize,
    to: usize,
}

/// A nest, seen from source to destination, in the order in which it is walked.
#[derive(Debug)]
struct Steps {
    run: usize,
    outer: Vec<Step>,
    row: Step,
}

/// The bounds were checked before: an offset that leaves a slice panics, and the queue reports the device lost.
fn move_runs(plan: &LayerPlan, kind: TensorKind, source: Side, from: &[u8], to: &mut [u8]) {
    let nests: Vec<Steps> = plan.nests(kind).iter().map(|nest| Steps::new(nest, source)).collect();
    for run in plan.runs(kind) {
        let (device, section) = (index(run.device), index(run.section));
        let (f, t) = match source {
            Side::Device => (device, section),
            Side::Section => (section, device),
        };
        let steps = &nests[run.nest as usize];
        match steps.run {
            1 => steps.elements::<1>(from, f, to, t),
            2 => steps.elements::<2>(from, f, to, t),
            4 => steps.elements::<4>(from, f, to, t),
            8 => steps.elements::<8>(from, f, to, t),
            16 => steps.elements::<16>(from, f, to, t),
            32 => steps.elements::<32>(from, f, to, t),
            run => steps.walk(f, t, &mut |f, t| {
                for i in 0..steps.row.count {
                    let (f, t) = (f + i * steps.row.from, t + i * steps.row.to);
                    to[t..t + run].copy_from_slice(&from[f..f + run]);
                }
            }),
        }
    }
}

impl Steps {
    fn new(nest: &Nest, source: Side) -> Self {
        let mut outer: Vec<Step> = nest
            .dims
            .iter()
            .map(|dim| {
                let (device, section) = (index(dim.device_stride), index(dim.section_stride));
                let (from, to) = match source {
                    Side::Device => (device, section),
                    Side::Section => (section, device),
                };
                Step { count: index(u64::from(dim.count)), from, to }
            })
            .collect();
        // Dims are independent, so their order is free: innermost the one that writes densest, around it the one that reads
        // densest. What the inner two touch then stays in the first-level cache, and no written line is left half-filled.
        outer.sort_by_key(|step| std::cmp::Reverse(step.to));
        let row = outer.pop();
        if let Some(densest) = (0..outer.len()).min_by_key(|i| outer[*i].from) {
            let step = outer.remove(densest);
            outer.push(step);
        }
        Self { run: index(nest.run_bytes), outer, row: row.unwrap_or(Step { count: 1, from: 0, to: 0 }) }
    }

    /// Calls `row` with both offsets for every repetition of the outer dims.
    fn walk(&self, from: usize, to: usize, row: &mut impl FnMut(usize, usize)) {
        walk(&self.outer, from, to, row);
    }

    /// Moves runs of `N` bytes: as a transposition if each of the inner two dims is contiguous on one side, else row by row.
    fn elements<const N: usize>(&self, from: &[u8], f: usize, to: &mut [u8], t: usize) {
        match self.outer.split_last() {
            Some((column, outer)) if N <= 4 && column.from == N && self.row.to == N => {
                walk(outer, f, t, &mut |f, t| {
                    transpose::<N>(*column, self.row, &from[f..], &mut to[t..]);
                });
            }
            _ => self.walk(f, t, &mut |f, t| row::<N>(self.row, &from[f..], &mut to[t..])),
        }
    }
}

/// Visits nested dims, the outermost first.
fn walk(dims: &[Step], from: usize, to: usize, row: &mut impl FnMut(usize, usize)) {
    let Some((step, inner)) = dims.split_first() else {
        return row(from, to);
    };
    for i in 0..step.count {
        walk(inner, from + i * step.from, to + i * step.to, row);
    }
}

/// Moves runs of `N` bytes that are contiguous along `column` in the source and along `row` in the destination, in square tiles that
/// are read and written whole.
fn transpose<const N: usize>(column: Step, row: Step, from: &[u8], to: &mut [u8]) {
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

/// An offset inside a slice; one that no slice could have becomes the largest, which no slice has either.
pub(super) fn index(offset: u64) -> usize {
    usize::try_from(offset).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use kv_format::{
        AttentionParts, Axis, Dtype, Geometry, PagingLayout, Replica, RopePairing, TensorBase, TensorKind,
    };
    use proptest::prelude::*;

    use super::*;

    fn layouts(block: u32, heads: u32, dim: u32) -> Vec<PagingLayout> {
        let (tokens, all_heads, wide) = (u64::from(block), u64::from(heads), u64::from(dim));
        vec![
            PagingLayout::token_major(block, heads, dim),
            PagingLayout::head_major(block, heads, dim),
            PagingLayout::x_packed(block, heads, dim, 4),
            PagingLayout::transposed(block, heads, dim),
            // Nothing is contiguous: every second element, heads innermost.
            PagingLayout {
                block_stride: 2 * tokens * all_heads * wide,
                token: Axis::strided(2 * all_heads),
                head: Axis::strided(2),
                dim: Axis::strided(2 * tokens * all_heads),
            },
        ]
    }

    proptest! {
        /// The fast paths do what the plan's plain loop does, in both directions, and touch nothing else.
        #[test]
        fn copies_are_those_of_the_plain_loop(
            layout in 0..5_usize,
            dtype in prop::sample::select(vec![Dtype::Int8, Dtype::Bf16, Dtype::F32]),
            block in 1..40_u32,
            heads in 1..5_u32,
            dim in (1..12_u32).prop_map(|groups| 4 * groups),
            (start, len) in (0..60_u32, 1..60_u32),
            (skipped, kept) in (0..4_u32, 1..5_u32),
        ) {
            let paging = layouts(block, heads, dim)[layout];
            let (tokens, first) = (start..start + len, skipped.min(heads - 1));
            let kept = first..(first + kept).min(heads);
            let blocks: Vec<u32> = (0..tokens.end.div_ceil(block)).rev().collect();
            let count = u32::try_from(blocks.len()).unwrap();
            let bytes = u64::from(count) * paging.block_stride * u64::from(dtype.bytes());
            let geometry = Geometry::new(AttentionParts {
                dtype,
                rope: RopePairing::RotateHalf,
                layers: 0..1,
                heads: 0..heads,
                replica: Replica::ONLY,
                key_dim: dim,
                value_dim: dim,
                block_tokens: block,
                blocks: count,
                key: paging,
                value: paging,
                tensors: vec![TensorBase { region: 0, offset: 0 }, TensorBase { region: 1, offset: 0 }],
                regions: vec![bytes; 2],
            }).unwrap();
            let plan = LayerPlan::new(&geometry, &blocks, tokens, kept).unwrap();
            let kind = TensorKind::Key;
            let memory: Vec<u8> = (0..index(bytes)).map(|i| (i * 31 % 251).to_le_bytes()[0]).collect();
            let section: Vec<u8> = (0..index(plan.section_bytes(kind))).map(|i| (i * 17 % 241).to_le_bytes()[0]).collect();
            let (mut gathered, mut scattered) = (section.clone(), memory.clone());
            plan.for_each_run(kind, |device, place, bytes| {
                let (device, place, bytes) = (index(device), index(place), index(bytes));
                gathered[place..place + bytes].copy_from_slice(&memory[device..device + bytes]);
                scattered[device..device + bytes].copy_from_slice(&section[place..place + bytes]);
            });
            let (mut to_section, mut to_memory) = (section.clone(), memory.clone());
            gather(&plan, kind, &memory, &mut to_section);
            scatter(&plan, kind, &section, &mut to_memory);
            prop_assert!(to_section == gathered, "gather");
            prop_assert!(to_memory == scattered, "scatter");
        }
    }
}
