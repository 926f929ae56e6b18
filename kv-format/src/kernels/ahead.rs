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
    /// Position in the dims of the run's nest, the innermost last.
    position: [usize; DIMS],
    /// Where the contiguous bytes begin that are fetched, where the next line does, and where they end.
    start: usize,
    line: usize,
    end: usize,
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
                if self.run >= self.runs.len() {
                    return;
                }
                self.next();
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

    /// Goes on to the next contiguous bytes.
    #[cold]
    fn next(&mut self) {
        if let Some(nest) = self.runs.get(self.run).and_then(|run| self.nests.get(run.nest as usize))
            && !nest.dense
        {
            let dims = std::iter::once(&nest.row).chain(nest.outer().iter().rev());
            for (position, dim) in self.position.iter_mut().rev().zip(dims) {
                *position += 1;
                self.start += dim.from;
                if *position < dim.count {
                    (self.line, self.end) = (self.start, self.start + nest.run);
                    return;
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
        let nest = &self.nests[run.nest as usize];
        self.start = self.source.start(run).0;
        (self.line, self.end) = (self.start, self.start + if nest.dense { nest.bytes } else { nest.run });
        if let Some(far) = self.runs.get(self.run + TOUCHED) {
            self.kernels.fetch(self.from, self.source.start(far).0);
        }
    }
}
