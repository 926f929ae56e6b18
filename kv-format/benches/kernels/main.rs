//! The copy kernels beside plain copies of the same bytes, and what the format costs beside its floor.
//!
//! Every kernel is measured cold to cold in huge pages, a kernel and the plain copies (libc memcpy, rep movsb, stores past the cache)
//! back to back, round after round, the first round dropped. A kernel's ratio is that of the best plain copy's time to its own in the
//! same round; the table has the median and the quartiles of all rounds. Time is that on the processor, of the slower thread if there
//! are two. Machines share their memory's bandwidth: compare ratios, not GB/s. On a machine that others keep busy two threads seldom
//! run at once, and their rows repeat those of one.
//!
//! # What misses its target, and why
//!
//! On two cores of an AMD EPYC, family 26 (AVX-512, 1 MiB of second-level cache each), with nothing else running; one thread copies
//! 30 GB/s, two 31 to 54, as other guests of the host leave it. All else met its target. Where others keep the machine busy, two threads
//! with one head fall to .46 to .57 of .50 to .68: they seldom run at once.
//!
//! * **Packed, eight heads: .68 of .85 and .75 of .79.** K and V are gathered one after the other, each reading every other 256 bytes.
//!   Twice the reads for the same writes predicts (1 + 1) / (2 + 1) = .67: the processor's prefetcher appears to bring the other half
//!   along. Its counters are not visible in the virtual machine, so this is inferred. Gathering both in one pass would need a call for
//!   both.
//! * **To Gaudi's blocks, one head, one thread: .84 of .87** (two threads: .93). Leaving out the fence that every section of 64 KiB ends
//!   with gains 2 to 3 %, which safe code may not; touching the destination's pages ahead gains nothing; the rest is not explained.
//! * **Checksum, one thread, eight heads in all but NHD order: 29 to 46 % of 25; AITER with one head 28.** With two threads, 1 to 25 %. It
//!   adds up to 17 ps a byte (it runs at 57 GB/s) to a gather of 40 to 70 ps: the faster the gather, the larger a part. In NHD order it
//!   hides behind lines that are fetched early. A block of eight heads in head-major or transposed order is complete only as a whole, so
//!   its 32 KiB come back from the second-level cache. Pieces of 1 and 2 KiB cost more than they overlap; of 16 KiB, too.
//! * **Header: 13.4 microseconds of 2.** The format's content digest is one BLAKE3 of 7.8 KiB on either side, 5 microseconds each where
//!   this was measured (seven chunks fill neither 8 nor 16 lanes, the eighth is short): 10.6 of the 13.4 are that and the checksum.
#![expect(clippy::print_stdout, reason = "a program that reports to people")]
#![expect(clippy::unwrap_used, reason = "a benchmark stops at the first error")]

mod format;
mod fused;
mod plain;
mod relayout;
mod scene;
mod spread;

use clap::Parser;
use kv_format::kernels::Kernels;

/// The copy kernels of kv-format beside the best plain copies of the same run.
#[derive(Debug, Parser)]
struct Arguments {
    /// A quarter of the bytes and fewer rounds: under a minute.
    #[arg(long)]
    quick: bool,
    /// Rounds that count [default: 11, or 5 with --quick].
    #[arg(long, value_name = "N")]
    rounds: Option<usize>,
    /// Measure only rows whose name contains this, for a profiler.
    #[arg(long, value_name = "TEXT", default_value = "")]
    only: String,
    /// The set of loops: avx512, avx2 or portable [default: the best of this processor].
    #[arg(long, value_name = "NAME")]
    kernels: Option<String>,
    /// What cargo says to a benchmark.
    #[arg(long, hide = true)]
    bench: bool,
}

/// How one run measures.
pub(crate) struct Options {
    pub(crate) kernels: Kernels,
    pub(crate) rounds: usize,
    /// Bytes of one thread's sections.
    pub(crate) bytes: usize,
    pub(crate) only: String,
}

impl Options {
    pub(crate) fn wants(&self, row: &str) -> bool {
        row.contains(&self.only)
    }
}

fn main() {
    let arguments = Arguments::parse();
    let wanted = arguments.kernels.as_deref();
    let kernels = Kernels::available().into_iter().find(|set| wanted.is_none_or(|name| name == set.name()));
    let options = Options {
        kernels: kernels.unwrap(),
        rounds: arguments.rounds.unwrap_or(if arguments.quick { 5 } else { 11 }),
        bytes: if arguments.quick { 32 << 20 } else { 128 << 20 },
        only: arguments.only,
    };
    println!("kernels: {}, {} rounds", options.kernels.name(), options.rounds);
    relayout::run(&options);
    fused::run(&options);
    format::run(&options);
}
