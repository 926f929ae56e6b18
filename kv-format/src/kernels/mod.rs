//! Copies between an engine's memory and sections, at the speed of memory.
//!
//! A [`LayerPlan`] says which strided runs to move; which loop moves them follows from their *shape*, not from a layout's name:
//!
//! * Runs of many bytes (token-major, head-major, K beside V) are copied line by line; those of half a page and more that are to stay
//!   in the cache as a whole, by the system's `memcpy`: its string instructions write lines that they need not fetch first.
//! * Runs of one element, or of 16 bytes, that are dense along one dim in the source and along another in the destination
//!   (x-packed K, transposed V, shuffled V, either way) are transpositions: squares of 16 bytes a side are turned over in registers,
//!   and whole lines are written.
//! * Whatever is left goes through portable loops, which are also all that processors without AVX2 have.
//!
//! Scattered blocks are bound by the latency of the first access to each, not by instructions: while one block is moved, the next
//! one is fetched into the cache line by line, and one line of a block further on is touched so that its address is translated.

mod ahead;
mod portable;
mod steps;
#[cfg(test)]
mod tests;
#[cfg(target_arch = "x86_64")]
mod x86;

use ahead::{Ahead, TOUCHED};
use steps::{PANEL, Side, Steps, index};

use std::ops::Range;

use crate::{Checksum, Error, LayerPlan, Result, StridedRun, TensorKind};

/// Shortest runs that the system's `memcpy` moves into the cache faster than a loop of vector stores does: below, starting its string
/// instructions costs more than they save. Measured on Sapphire Rapids (gather into 2 MiB that are then checked and written: runs of
/// 4 KiB 1.2 times, of 32 KiB 1.1 times as fast).
const WHOLE: usize = 2 << 10;

/// Where moved bytes should end up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Destination {
    /// In the cache, because they are read next: a staging section.
    Hot,
    /// In memory, past the cache: an engine's memory, or a buffer larger than the cache. Nothing of it is read first.
    Cold,
}

/// Copies a section out of an engine's memory (from the tensor's base on), with the best loops of this processor.
///
/// # Panics
/// If a run of the plan leaves `memory` or `section`; nothing was moved then.
pub fn gather(
    plan: &LayerPlan,
    kind: TensorKind,
    memory: &[u8],
    section: &mut [u8],
    destination: Destination,
) {
    Kernels::best().gather(plan, kind, memory, section, destination);
}

/// Copies a section out of an engine's memory into the cache, and returns its CRC-64/NVME, taken while the bytes are there.
///
/// The checksum is that of the plan's [`section_bytes`](LayerPlan::section_bytes), with which `section` begins.
///
/// # Panics
/// As [`gather`].
pub fn gather_with_checksum(plan: &LayerPlan, kind: TensorKind, memory: &[u8], section: &mut [u8]) -> u64 {
    Kernels::best().gather_with_checksum(plan, kind, memory, section)
}

/// Copies a section into an engine's memory (from the tensor's base on), with the best loops of this processor.
///
/// # Panics
/// As [`gather`].
pub fn scatter(
    plan: &LayerPlan,
    kind: TensorKind,
    section: &[u8],
    memory: &mut [u8],
    destination: Destination,
) {
    Kernels::best().scatter(plan, kind, section, memory, destination);
}

/// Compares a section with its CRC-64/NVME and then, while it is in the cache, copies it into an engine's memory.
///
/// # Errors
/// [`Corrupt`](crate::ErrorKind::Corrupt) if the checksum differs; nothing was written then.
///
/// # Panics
/// As [`gather`].
pub fn scatter_verified(
    plan: &LayerPlan,
    kind: TensorKind,
    section: &[u8],
    checksum: u64,
    memory: &mut [u8],
    destination: Destination,
) -> Result<()> {
    Kernels::best().scatter_verified(plan, kind, section, checksum, memory, destination)
}

/// A set of loops. The free functions take the best one; a test or a benchmark names one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Kernels(Level);

/// Instructions that the loops may use. The ones beyond [`Portable`](Self::Portable) are made only where the processor was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Level {
    Portable,
    #[cfg(target_arch = "x86_64")]
    Avx2(x86::Avx2),
    #[cfg(target_arch = "x86_64")]
    Avx512(x86::Avx512),
}

impl Kernels {
    /// The fastest that this processor has.
    pub fn best() -> Self {
        #[cfg(target_arch = "x86_64")]
        {
            if let Some(proof) = x86::Avx512::detect() {
                return Self(Level::Avx512(proof));
            }
            if let Some(proof) = x86::Avx2::detect() {
                return Self(Level::Avx2(proof));
            }
        }
        Self::portable()
    }

    /// Plain loops: what a processor without vector kernels of its own gets.
    pub const fn portable() -> Self {
        Self(Level::Portable)
    }

    /// Every set that this processor can run, the fastest first.
    pub fn available() -> Vec<Self> {
        let mut sets = Vec::new();
        #[cfg(target_arch = "x86_64")]
        {
            sets.extend(x86::Avx512::detect().map(|proof| Self(Level::Avx512(proof))));
            sets.extend(x86::Avx2::detect().map(|proof| Self(Level::Avx2(proof))));
        }
        sets.push(Self::portable());
        sets
    }

    /// `avx512`, `avx2` or `portable`.
    pub const fn name(self) -> &'static str {
        match self.0 {
            Level::Portable => "portable",
            #[cfg(target_arch = "x86_64")]
            Level::Avx2(_) => "avx2",
            #[cfg(target_arch = "x86_64")]
            Level::Avx512(_) => "avx512",
        }
    }

    /// As the function [`gather`].
    ///
    /// # Panics
    /// As there.
    pub fn gather(
        self,
        plan: &LayerPlan,
        kind: TensorKind,
        memory: &[u8],
        section: &mut [u8],
        destination: Destination,
    ) {
        self.move_runs(plan, kind, Side::Device, memory, section, destination, &mut ());
    }

    /// As the function [`gather_with_checksum`].
    ///
    /// # Panics
    /// As there.
    pub fn gather_with_checksum(
        self,
        plan: &LayerPlan,
        kind: TensorKind,
        memory: &[u8],
        section: &mut [u8],
    ) -> u64 {
        let len = index(plan.section_bytes(kind));
        let complete = complete_after(plan.runs(kind), len);
        let mut taken = Taken { checksum: Checksum::new(), taken: 0, complete: 0, after: complete };
        self.move_runs(plan, kind, Side::Device, memory, section, Destination::Hot, &mut taken);
        taken.checksum.update(&section[taken.taken..len]);
        taken.checksum.value()
    }

    /// As the function [`scatter`].
    ///
    /// # Panics
    /// As there.
    pub fn scatter(
        self,
        plan: &LayerPlan,
        kind: TensorKind,
        section: &[u8],
        memory: &mut [u8],
        destination: Destination,
    ) {
        self.move_runs(plan, kind, Side::Section, section, memory, destination, &mut ());
    }

    /// As the function [`scatter_verified`].
    ///
    /// # Errors
    /// As there.
    ///
    /// # Panics
    /// As there.
    pub fn scatter_verified(
        self,
        plan: &LayerPlan,
        kind: TensorKind,
        section: &[u8],
        checksum: u64,
        memory: &mut [u8],
        destination: Destination,
    ) -> Result<()> {
        let section = &section[..index(plan.section_bytes(kind))];
        let computed = Checksum::of(section);
        if computed != checksum {
            return Err(Error::corrupt(format!(
                "a section of {} bytes has checksum {computed:016x}: expected {checksum:016x}",
                section.len()
            )));
        }
        self.scatter(plan, kind, section, memory, destination);
        Ok(())
    }

    /// Moves every run, with `between` behind each panel and each run.
    #[expect(clippy::too_many_arguments, reason = "the one loop behind five functions")]
    fn move_runs(
        self,
        plan: &LayerPlan,
        kind: TensorKind,
        source: Side,
        from: &[u8],
        to: &mut [u8],
        destination: Destination,
        between: &mut impl Between,
    ) {
        let runs = plan.runs(kind);
        let nests: Vec<Steps> = plan.nests(kind).iter().map(|nest| Steps::new(nest, source)).collect();
        for run in runs {
            let (f, t) = source.start(run);
            nests[run.nest as usize].check(f, from.len(), t, to.len());
        }
        let cold = destination == Destination::Cold;
        if !cold && nests.iter().all(|nest| nest.run >= WHOLE) {
            return self.copy_whole(&nests, runs, source, from, to, between);
        }
        let mut ahead = Ahead::new(self, cold, from, source, runs, &nests);
        for (i, run) in runs.iter().enumerate() {
            let (at, steps) = (source.start(run), &nests[run.nest as usize]);
            match self.0 {
                Level::Portable => portable::move_nest(steps, from, to, at, between),
                #[cfg(target_arch = "x86_64")]
                Level::Avx2(level) => level.move_nest(steps, from, to, at, &mut ahead, between),
                #[cfg(target_arch = "x86_64")]
                Level::Avx512(level) => level.move_nest(steps, from, to, at, &mut ahead, between),
            }
            between.run(i);
        }
        if cold {
            self.finish_cold();
        }
    }

    /// Copies runs with the system's `memcpy`, and touches a line of each some runs ahead, so that its address is translated in time.
    fn copy_whole(
        self,
        nests: &[Steps],
        runs: &[StridedRun],
        source: Side,
        from: &[u8],
        to: &mut [u8],
        between: &mut impl Between,
    ) {
        for (i, run) in runs.iter().enumerate() {
            if let Some(far) = runs.get(i + TOUCHED) {
                self.fetch(from, source.start(far).0);
            }
            portable::move_nest(&nests[run.nest as usize], from, to, source.start(run), between);
            between.run(i);
        }
    }

    /// Starts to bring the line of `from` at `at` into the cache.
    #[inline(always)]
    fn fetch(self, from: &[u8], at: usize) {
        #[cfg(target_arch = "x86_64")]
        if self.0 != Level::Portable {
            x86::fetch(from, at);
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = (from, at);
    }

    /// Makes stores past the cache visible before whatever this thread stores next.
    fn finish_cold(self) {
        #[cfg(target_arch = "x86_64")]
        if self.0 != Level::Portable {
            x86::finish_cold();
        }
    }
}

/// What else is done while bytes are on their way.
trait Between {
    /// Whether it is anything at all.
    const READS: bool;
    /// Behind each panel of a run, with the part of the destination that it filled without a gap, if it did.
    fn panel(&mut self, to: &[u8], filled: Option<Range<usize>>);
    /// Behind run `index`.
    fn run(&mut self, index: usize);
}

impl Between for () {
    const READS: bool = false;
    fn panel(&mut self, _: &[u8], _: Option<Range<usize>>) {}
    fn run(&mut self, _: usize) {}
}

/// A checksum that follows the copy, one panel's bytes behind each panel: what is fetched for the copy arrives meanwhile, and what the
/// checksum reads is still in the cache.
struct Taken {
    checksum: Checksum,
    /// Bytes that it covers.
    taken: usize,
    /// Bytes that are there for good.
    complete: usize,
    /// The same behind each run.
    after: Vec<usize>,
}

impl Between for Taken {
    const READS: bool = true;
    fn panel(&mut self, to: &[u8], filled: Option<Range<usize>>) {
        if let Some(filled) = filled.filter(|filled| filled.start == self.complete) {
            self.complete = filled.end;
        }
        if self.complete - self.taken >= PANEL {
            self.checksum.update(&to[self.taken..self.taken + PANEL]);
            self.taken += PANEL;
        }
    }

    fn run(&mut self, index: usize) {
        self.complete = self.after[index];
    }
}

/// How many bytes at the section's start are there for good once the first, second, ... run was moved: where the foremost of the
/// later runs begins. Runs are in the order of tokens, but those of one block may take turns.
fn complete_after(runs: &[StridedRun], len: usize) -> Vec<usize> {
    let mut complete = vec![len; runs.len()];
    for i in (1..runs.len()).rev() {
        complete[i - 1] = complete[i].min(index(runs[i].section));
    }
    complete
}
