//! A plan's nests as a copy walks them: dims ordered by how densely they read and write, extents known before a byte moves.

use std::ops::Range;

use crate::{Nest, StridedRun};

/// Shortest runs of which every destination line that they touch is as good as whole.
pub(super) const LONG: usize = 256;

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

    /// Where a run begins in source and destination.
    pub(super) fn start(self, run: &StridedRun) -> (usize, usize) {
        self.order(index(run.device), index(run.section))
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
    /// No repetition.
    const ONCE: Self = Self { count: 1, from: 0, to: 0 };

    /// The same dim with another number of neighbours.
    pub(super) fn times(self, count: usize) -> Self {
        Self { count, ..self }
    }
}

/// Most dims of a nest: token, head and element, each split once, and two that cut it into panels.
pub(super) const DIMS: usize = 8;

/// Bytes that are moved between two looks at anything else. Nests are cut into panels of about as many.
pub(super) const PANEL: usize = 4 << 10;

/// A nest, seen from source to destination, in the order in which it is walked.
#[derive(Debug)]
pub(super) struct Steps {
    /// Bytes of a contiguous run.
    pub(super) run: usize,
    /// The outer dims, of which the first `outer_count` exist.
    dims: [Step; DIMS],
    outer_count: usize,
    /// The innermost dim.
    pub(super) row: Step,
    /// Bytes of all runs.
    pub(super) bytes: usize,
    /// Whether the source has no gaps.
    pub(super) dense: bool,
    /// Bytes of a panel, if panels fill the destination one behind the other.
    panel: Option<usize>,
    /// Bytes from the first to behind the last one, in source and destination.
    reach: (usize, usize),
}

impl Steps {
    pub(super) fn new(nest: &Nest, source: Side) -> Self {
        let mut dims = [Step::ONCE; DIMS];
        assert!(
            nest.dims.len() <= DIMS - 2,
            "a nest of {} dims: a plan has at most {}",
            nest.dims.len(),
            DIMS - 2
        );
        let mut run = index(nest.run_bytes);
        let (mut bytes, mut reach) = (run, (run, run));
        for (step, dim) in dims.iter_mut().zip(&nest.dims) {
            let (from, to) = source.order(index(dim.device_stride), index(dim.section_stride));
            *step = Step { count: dim.count as usize, from, to };
            let extend = |reach: usize, stride| {
                reach.saturating_add(step.count.saturating_sub(1).saturating_mul(stride))
            };
            reach = (extend(reach.0, from), extend(reach.1, to));
            bytes = bytes.saturating_mul(step.count);
        }
        // Dims are independent, so their order is free. Of short runs, innermost comes the dim that writes densest and around it the
        // one that reads densest: what the two touch stays in the first-level cache, and no written line is left half-filled. All
        // else is read in the order of the source, as it is fetched; written lines are whole then, wherever they lie.
        let mut used = nest.dims.len();
        dims[..used].sort_unstable_by_key(|step| std::cmp::Reverse(step.from));
        if run < LONG {
            if let Some(densest) = (0..used).min_by_key(|i| dims[*i].to) {
                dims[densest..used].rotate_left(1);
            }
        } else if run > PANEL && run.is_multiple_of(PANEL) {
            dims[used] = Step { count: run / PANEL, from: PANEL, to: PANEL };
            (run, used) = (PANEL, used + 1);
        }
        used = cut_into_panels(run, &mut dims, used);
        let (outer_count, row) = match used.checked_sub(1) {
            Some(last) => (last, dims[last]),
            None => (0, Step::ONCE),
        };
        let in_order = reach.1 == bytes && dims[..used].is_sorted_by_key(|step| std::cmp::Reverse(step.to));
        let panel = in_order.then(|| row.count.saturating_mul(run));
        Self { run, dims, outer_count, row, bytes, dense: reach.0 == bytes, panel, reach }
    }

    /// What the panel at `t` fills without a gap, if it does.
    pub(super) fn filled(&self, t: usize) -> Option<Range<usize>> {
        self.panel.map(|bytes| t..t + bytes)
    }

    /// The dims around the innermost one, outermost first.
    pub(super) fn outer(&self) -> &[Step] {
        &self.dims[..self.outer_count]
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
        let (column, outer) = self.outer().split_last()?;
        (column.from == N && self.row.to == N).then_some((*column, outer))
    }
}

/// Splits the innermost of `used` dims, and puts the outer part of it outside of a panel, if a panel would be too large otherwise and
/// whole ones remain. Returns how many dims there are then.
fn cut_into_panels(run: usize, dims: &mut [Step; DIMS], used: usize) -> usize {
    let Some(last) = used.checked_sub(1) else {
        return used;
    };
    let row = dims[last];
    // A transposition's panel is as wide as its column; its rows are taken in whole lines of the destination.
    let column = last.checked_sub(1).filter(|column| dims[*column].from == run && row.to == run);
    let across = column.map_or(run, |column| dims[column].count.saturating_mul(run));
    let lines = if column.is_some() { (64 / run.max(1)).max(1) } else { 1 };
    let count = (PANEL / across.max(1) / lines * lines).max(lines);
    if row.count <= count || !row.count.is_multiple_of(count) {
        return used;
    }
    let place = column.unwrap_or(last);
    dims[place..=used].rotate_right(1);
    dims[place] = Step { count: row.count / count, from: row.from * count, to: row.to * count };
    dims[used] = row.times(count);
    used + 1
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

/// An offset inside a slice; one that no slice could have becomes the largest, which no slice has either.
pub(super) fn index(offset: u64) -> usize {
    usize::try_from(offset).unwrap_or(usize::MAX)
}
