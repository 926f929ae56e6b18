//! Fetches the source into the cache a little before it is read: what a processor's own prefetcher does within a page, across blocks
//! that lie anywhere.

use super::Kernels;
use super::steps::{DIMS, LONG, PANEL, Side, Steps};
use crate::StridedRun;

/// Bytes of a cache line.
const LINE: usize = 64;

/// Runs ahead of the fetched one whose first line is touched, so that its address is translated in time.
pub(super) const TOUCHED: usize = 4;

/// Most bytes between what is fetched and what is moved.
const FARTHEST: usize = PANEL + PANEL / 2;

/// Bytes that are fetched early where something else is done between two panels.
const EARLY: usize = 2 << 10;

/// Walks the source of all runs, line by line in the order in which they are moved, some lines before they are.
#[derive(Debug)]
pub(super) struct Ahead<'a> {
    kernels: Kernels,
    /// Whether what is moved is stored past the cache.
    pub(super) cold: bool,
    from: &'a [u8],
    source: Side,
    runs: &'a [StridedRun],
    nests: &'a [Steps],
    /// Index into `runs` of the one that is fetched.
    run: usize,
    /// Position in the outer dims of the run's nest, the innermost of them last.
    position: [usize; DIMS],
    /// Where the contiguous bytes begin that are fetched, where the next line does, and where they end.
    start: usize,
    line: usize,
    end: usize,
    /// Contiguous pieces that follow in the row, and how far each is from the one before.
    in_row: usize,
    stride: usize,
    /// Bytes that were fetched before they were due.
    early: usize,
}

impl<'a> Ahead<'a> {
    pub(super) fn new(
        kernels: Kernels,
        cold: bool,
        from: &'a [u8],
        source: Side,
        runs: &'a [StridedRun],
        nests: &'a [Steps],
    ) -> Self {
        let mut ahead = Self {
            kernels,
            cold,
            from,
            source,
            runs,
            nests,
            run: 0,
            position: [0; DIMS],
            start: 0,
            line: 0,
            end: 0,
            in_row: 0,
            stride: 0,
            early: 0,
        };
        // A section is read from its start to its end, which processors notice by themselves.
        if source == Side::Section && nests.iter().all(|nest| nest.run >= LONG) {
            ahead.run = runs.len();
            return ahead;
        }
        ahead.enter();
        // All of the first lines are asked for at once, so that their latencies overlap.
        ahead.pass(PANEL, true);
        ahead.pass(ahead.distance() - PANEL, false);
        ahead
    }

    /// Bytes between what is fetched and what is moved: a block if it is small, so that the next one is on its way while one is moved.
    fn distance(&self) -> usize {
        self.nests.first().map_or(PANEL, |nest| nest.bytes.clamp(PANEL, FARTHEST))
    }

    /// Whether there is nothing left to fetch, now and later.
    pub(super) fn is_done(&self) -> bool {
        self.run >= self.runs.len()
    }

    /// Fetches as many bytes as were just moved, in whole lines.
    #[inline(always)]
    pub(super) fn advance(&mut self, bytes: usize) {
        if self.early >= bytes {
            self.early -= bytes;
        } else {
            self.pass(bytes, true);
        }
    }

    /// Fetches some lines before they are due: something else is done first, and memory would be idle meanwhile.
    pub(super) fn hurry(&mut self) {
        self.pass(EARLY - self.early, true);
        self.early = EARLY;
    }

    #[inline(always)]
    fn pass(&mut self, bytes: usize, fetch: bool) {
        let mut lines = bytes / LINE;
        while lines > 0 {
            if self.line >= self.end {
                if self.in_row > 0 {
                    self.in_row -= 1;
                    (self.start, self.end) = (self.start + self.stride, self.end + self.stride);
                    self.line = self.start;
                } else if self.is_done() {
                    return;
                } else {
                    self.next();
                }
                continue;
            }
            let few = lines.min((self.end - self.line).div_ceil(LINE));
            if fetch {
                (0..few).for_each(|line| self.kernels.fetch(self.from, self.line + line * LINE));
            }
            self.line += few * LINE;
            lines -= few;
        }
    }

    /// Goes on to the next row.
    #[cold]
    fn next(&mut self) {
        let nests = self.nests;
        if let Some(nest) = self.runs.get(self.run).and_then(|run| nests.get(run.nest as usize))
            && !nest.dense
        {
            self.start -= nest.row.from * nest.row.count.saturating_sub(1);
            for (position, dim) in self.position.iter_mut().rev().zip(nest.outer().iter().rev()) {
                *position += 1;
                self.start += dim.from;
                if *position < dim.count {
                    return self.enter_row(nest);
                }
                self.start -= dim.from * dim.count;
                *position = 0;
            }
        }
        self.run += 1;
        self.enter();
    }

    /// Starts with a run.
    fn enter(&mut self) {
        let Some(run) = self.runs.get(self.run) else {
            self.end = 0;
            return;
        };
        self.start = self.source.start(run).0;
        self.enter_row(&self.nests[run.nest as usize]);
        if let Some(far) = self.runs.get(self.run + TOUCHED) {
            self.kernels.fetch(self.from, self.source.start(far).0);
        }
    }

    /// Starts with a row of a nest; a nest without gaps is one row of one run.
    fn enter_row(&mut self, nest: &Steps) {
        let (bytes, more) =
            if nest.dense { (nest.bytes, 0) } else { (nest.run, nest.row.count.saturating_sub(1)) };
        (self.line, self.end) = (self.start, self.start + bytes);
        (self.in_row, self.stride) = (more, nest.row.from);
    }
}

#[cfg(test)]
mod tests {
    use super::super::steps::{Step, index, walk};
    use super::super::tests::geometry;
    use super::*;
    use crate::{Dtype, LayerPlan, PagingLayout, TensorKind};

    /// Rows with gaps, blocks without, and runs of several blocks.
    #[test]
    fn lines_are_fetched_in_the_order_in_which_they_are_moved() {
        for heads in [0..8, 3..4, 2..5] {
            for layout in [PagingLayout::token_major(16, 8, 128), PagingLayout::head_major(16, 8, 128)] {
                let geometry = geometry(Dtype::Bf16, 16, 8, 128, 8, layout);
                let plan = LayerPlan::new(&geometry, &[5, 0, 7], 3..45, heads.clone()).unwrap();
                let (runs, source) = (plan.runs(TensorKind::Key), Side::Device);
                let nests: Vec<Steps> =
                    plan.nests(TensorKind::Key).iter().map(|nest| Steps::new(nest, source)).collect();
                let mut moved = Vec::new();
                for run in runs {
                    let (nest, (from, to)) = (&nests[run.nest as usize], source.start(run));
                    let dims: Vec<Step> = nest.outer().iter().copied().chain([nest.row]).collect();
                    walk(&dims, from, to, &mut |from, _| {
                        moved.extend((from..from + nest.run).step_by(LINE));
                    });
                }
                let memory = vec![0; index(geometry.regions[0])];
                let mut ahead = Ahead::new(Kernels::portable(), false, &memory, source, runs, &nests);
                let fetched = ahead.distance() / LINE;
                for line in &moved[fetched - 1..] {
                    assert_eq!(ahead.line - LINE, *line, "{layout:?}, heads {heads:?}");
                    ahead.advance(LINE);
                }
                assert!(ahead.is_done());
            }
        }
    }
}
