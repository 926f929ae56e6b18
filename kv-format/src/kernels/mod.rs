//! Copies between an engine's memory and sections, at the speed of memory.
//!
//! A [`LayerPlan`] says which strided runs to move; which loop moves them follows from their *shape*, not from a layout's name:
//!
//! * Runs of many bytes (token-major, head-major, K beside V) are copied line by line.
//! * Runs of one element, or of 16 bytes, that are dense along one dim in the source and along another in the destination
//!   (x-packed K, transposed V, shuffled V, either way) are transpositions: squares of 16 bytes a side are turned over in registers,
//!   and whole lines are written.
//! * Whatever is left goes through portable loops, which are also all that processors without AVX2 have.
//!
//! Scattered blocks are bound by the latency of the first access to each, not by instructions: while one block is moved, the next
//! one is fetched into the cache line by line, and one line of a block further on is touched so that its address is translated.

mod portable;
mod steps;
#[cfg(test)]
mod tests;
#[cfg(target_arch = "x86_64")]
mod x86;

use steps::{Call, Side, Steps, index};

use crate::{Checksum, Error, LayerPlan, Result, StridedRun, TensorKind};

/// Runs ahead of the current one whose first line is touched.
const TOUCHED: usize = 4;

/// Bytes that are gathered before their checksum is taken: they are then still in the first-level cache.
const TILE: usize = 16 << 10;

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
        self.move_runs(plan, kind, Side::Device, memory, section, destination, |_, _| {});
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
        let (mut checksum, mut taken) = (Checksum::new(), 0);
        self.move_runs(plan, kind, Side::Device, memory, section, Destination::Hot, |run, section| {
            let complete = complete[run];
            if complete - taken >= TILE || complete == len {
                checksum.update(&section[taken..complete]);
                taken = complete;
            }
        });
        checksum.value()
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
        self.move_runs(plan, kind, Side::Section, section, memory, destination, |_, _| {});
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

    /// Moves every run, and calls `moved(index of the run, destination)` behind each.
    #[expect(clippy::too_many_arguments, reason = "the one loop behind five functions")]
    fn move_runs(
        self,
        plan: &LayerPlan,
        kind: TensorKind,
        source: Side,
        from: &[u8],
        to: &mut [u8],
        destination: Destination,
        mut moved: impl FnMut(usize, &mut [u8]),
    ) {
        let runs = plan.runs(kind);
        let nests: Vec<Steps> = plan.nests(kind).iter().map(|nest| Steps::new(nest, source)).collect();
        for run in runs {
            let (f, t) = source.order(index(run.device), index(run.section));
            nests[run.nest as usize].check(f, from.len(), t, to.len());
        }
        let start = |run: &StridedRun| source.order(index(run.device), index(run.section));
        let cold = destination == Destination::Cold;
        for (i, run) in runs.iter().enumerate() {
            let (f, t) = start(run);
            let next = runs.get(i + 1).filter(|next| next.nest == run.nest).map(|next| start(next).0);
            let mut call = Call::new(f, next, cold);
            if let Some(far) = runs.get(i + TOUCHED) {
                self.fetch(from, start(far).0);
            }
            self.move_nest(&nests[run.nest as usize], from, f, to, t, &mut call);
            moved(i, to);
        }
        if cold {
            self.finish_cold();
        }
    }

    /// Moves one nest at its place.
    fn move_nest(self, steps: &Steps, from: &[u8], f: usize, to: &mut [u8], t: usize, call: &mut Call) {
        call.region = if steps.dense { steps.bytes } else { 0 };
        match self.0 {
            Level::Portable => portable::move_nest(steps, from, f, to, t),
            #[cfg(target_arch = "x86_64")]
            Level::Avx2(level) => level.move_nest(steps, from, f, to, t, call),
            #[cfg(target_arch = "x86_64")]
            Level::Avx512(level) => level.move_nest(steps, from, f, to, t, call),
        }
    }

    /// Starts to bring the line of `from` at `at` into the cache.
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

/// How many bytes at the section's start are there for good once the first, second, ... run was moved: where the foremost of the
/// later runs begins. Runs are in the order of tokens, but those of one block may take turns.
fn complete_after(runs: &[StridedRun], len: usize) -> Vec<usize> {
    let mut complete = vec![len; runs.len()];
    for i in (1..runs.len()).rev() {
        complete[i - 1] = complete[i].min(index(runs[i].section));
    }
    complete
}
