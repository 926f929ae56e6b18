//! The copy kernels beside plain copies of the same bytes, and what the format costs beside its floor.
//!
//! Every kernel is measured cold to cold in huge pages, a kernel and the plain copies (libc memcpy, rep movsb, stores past the cache)
//! back to back, round after round, the first round dropped. A kernel's ratio is that of the best plain copy's time to its own in the
//! same round; the table has the median and the quartiles of all rounds. Time is that on the processor, of the slower thread if there
//! are two. Machines share their memory's bandwidth: compare ratios, not GB/s.
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
