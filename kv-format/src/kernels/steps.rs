//! A plan's nests as a copy walks them: dims ordered by how densely they read and write, extents known before a byte moves.

use crate::Nest;

/// Where the bytes come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Device,
    Section,
}

impl Side {
    /// (source, destination).
    pub(super) fn order<T>(self, device: T, section: T) -> (T, T) {
        match self {
            Self::Device => (device, section),
            Self::Section => (section, device),
        }
    }
}

/// One dim, seen from source to destination.
#[derive(Debug, Clone, Copy)]
pub(super) struct Step {
    pub(super) count: usize,
    /// Bytes between neighbours in the source.
    pub(super) from: usize,
    /// Bytes between neighbours in the destination.
    pub(super) to: usize,
}

impl Step {
    /// The same dim with another number of neighbours.
    pub(super) fn times(self, count: usize) -> Self {
        Self { count, ..self }
    }
}

/// A nest, seen from source to destination, in the order in which it is walked.
#[derive(Debug)]
pub(super) struct Steps {
    /// Bytes of a contiguous run.
    pub(super) run: usize,
    pub(super) outer: Vec<Step>,
    /// The innermost dim: the one that writes densest.
    pub(super) row: Step,
    /// Bytes of all runs.
    pub(super) bytes: usize,
    /// Whether the source has no gaps.
    pub(super) dense: bool,
    /// Bytes from the first to behind the last one, in source and destination.
    reach: (usize, usize),
}

impl Steps {
    pub(super) fn new(nest: &Nest, source: Side) -> Self {
        let mut outer: Vec<Step> = nest
            .dims
            .iter()
            .map(|dim| {
                let (from, to) = source.order(index(dim.device_stride), index(dim.section_stride));
                Step { count: dim.count as usize, from, to }
            })
            .collect();
        let run = index(nest.run_bytes);
        let reach = |stride: fn(&Step) -> usize| {
            outer.iter().fold(run, |reach, step| {
                reach.saturating_add(step.count.saturating_sub(1).saturating_mul(stride(step)))
            })
        };
        let reach = (reach(|step| step.from), reach(|step| step.to));
        let bytes = outer.iter().fold(run, |bytes, step| bytes.saturating_mul(step.count));
        // Dims are independent, so their order is free: innermost the one that writes densest, around it the one that reads
        // densest. What the inner two touch then stays in the first-level cache, and no written line is left half-filled.
        outer.sort_by_key(|step| std::cmp::Reverse(step.to));
        let row = outer.pop();
        if let Some(densest) = (0..outer.len()).min_by_key(|i| outer[*i].from) {
            let step = outer.remove(densest);
            outer.push(step);
        }
        let row = row.unwrap_or(Step { count: 1, from: 0, to: 0 });
        Self { run, outer, row, bytes, dense: reach.0 == bytes, reach }
    }

    /// Panics unless the nest at offset `f` of the source and `t` of the destination stays inside both.
    pub(super) fn check(&self, f: usize, from_len: usize, t: usize, to_len: usize) {
        let inside = |start: usize, reach, len| start.checked_add(reach).is_some_and(|end| end <= len);
        assert!(
            inside(f, self.reach.0, from_len) && inside(t, self.reach.1, to_len),
            "a run of {:?} bytes from {f} to {t} leaves a source of {from_len} bytes or a destination of {to_len}",
            self.reach
        );
    }

    /// The dims that are left if the inner two are a transposition of runs of `N` bytes: each is contiguous on one side.
    pub(super) fn transposition<const N: usize>(&self) -> Option<(Step, &[Step])> {
        let (column, outer) = self.outer.split_last()?;
        (column.from == N && self.row.to == N).then_some((*column, outer))
    }
}

/// Visits nested dims, the outermost first.
pub(super) fn walk(dims: &[Step], from: usize, to: usize, visit: &mut impl FnMut(usize, usize)) {
    let Some((step, inner)) = dims.split_first() else {
        return visit(from, to);
    };
    for i in 0..step.count {
        walk(inner, from + i * step.from, to + i * step.to, visit);
    }
}

/// What one run's loops are told besides where it is.
#[derive(Debug)]
pub(super) struct Call {
    /// Whether stores go past the cache.
    pub(super) cold: bool,
    /// How far behind this run's source the next run's is (modulo the address space), if it has the same nest.
    pub(super) ahead: Option<usize>,
    /// Offset of the next line of the next run that a transposition fetches.
    pub(super) cursor: usize,
    /// Bytes of the next run that are left to fetch.
    pub(super) region: usize,
}

impl Call {
    pub(super) fn new(f: usize, next: Option<usize>, cold: bool) -> Self {
        let ahead = next.map(|next| next.wrapping_sub(f));
        Self { cold, ahead, cursor: next.unwrap_or(0), region: 0 }
    }
}

/// An offset inside a slice; one that no slice could have becomes the largest, which no slice has either.
pub(super) fn index(offset: u64) -> usize {
    usize::try_from(offset).unwrap_or(usize::MAX)
}
