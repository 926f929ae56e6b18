//! What recoding costs beside a plain copy of the same bytes: cold to cold with scattered blocks, and in place in a staging tile.
//!
//! Memory bandwidth of a shared machine differs by a factor of two between minutes, so the cold table takes turns: every round times
//! every copy once, and a figure is the median over the rounds, as a part of the best plain copy's.
//!
//! What misses its target: gathers of 4 KiB runs with two threads, .51 of .54 on a quiet machine. Not the recoding: a hot tile is recoded
//! as fast as memcpy copies it, and runs of 32 KiB reach .86. What is left is the first access to each run, a page of its own, as in the
//! copy kernels with one head (`benches/kernels`). Inferred: the virtual machine shows no counters.

#![expect(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a benchmark prints its table and fails by panicking"
)]

mod plain;

use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group};
use kv_format::flavour::{Flavour, Lossy, Recode, Run};
use kv_format::kernels::Destination;

/// Larger than any last-level cache.
const COLD: usize = 256 << 20;
/// Stays in a core's second-level cache.
const TILE: usize = 1 << 20;
const ROUNDS: usize = 11;

/// The hand-off from MI300X to Gaudi3 and to Gaudi2, and the pair that has the most to count.
const PAIRS: [(Flavour, Flavour); 3] = [
    (Flavour::E4m3Fnuz, Flavour::E4m3Fn),
    (Flavour::E4m3Fnuz, Flavour::E4m3Ieee),
    (Flavour::E5m2, Flavour::E4m3Fn),
];

/// One way to fill `to` from `from`.
struct Way {
    name: String,
    run: Box<Fill>,
}

type Fill = dyn Fn(&[u8], &mut [u8]) + Sync;

fn main() {
    if std::env::args().all(|argument| argument != "--test") {
        cold();
    }
    tiles();
    Criterion::default().configure_from_args().final_summary();
}

/// Codes as they occur: small ones often, special ones seldom.
fn elements(len: usize) -> plain::Huge {
    let mut state = 7_u64;
    plain::Huge::new(len, || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let [.., byte] = state.to_le_bytes();
        (byte & 0x87) | (byte & 0x78).min(0x60)
    })
}

/// Runs of `len` bytes; blocks are in scattered order, since a multiplicative step puts neighbours far apart.
fn runs(total: usize, len: usize, scatters: bool) -> Vec<Run> {
    let blocks = total / len;
    let run = |block: usize| {
        let (section, engine) = (block * len, block * 7919 % blocks * len);
        if scatters { Run { from: section, to: engine } } else { Run { from: engine, to: section } }
    };
    (0..blocks).map(run).collect()
}

fn cold() {
    let (mut from, mut to) = (elements(COLD), plain::Huge::new(COLD, || 1));
    let pages = if from.pages && to.pages { "huge pages" } else { "small pages" };
    let (from, to) = (from.bytes(), to.bytes());
    let mut ways: Vec<Way> = plain::copies()
        .into_iter()
        .map(|(name, copy)| Way { name: name.to_owned(), run: Box::new(copy) })
        .collect();
    let plain = ways.len();
    for (source, target) in PAIRS {
        for (len, scatters) in [(4 << 10, true), (32 << 10, true), (4 << 10, false), (32 << 10, false)] {
            let recode = Recode::lossy(source, target, Lossy::Saturate);
            let runs = [1, 2].map(|threads| runs(COLD / threads, len, scatters));
            ways.push(Way {
                name: format!(
                    "{} to {}, {} {} KiB",
                    source.dtype().name(),
                    target.dtype().name(),
                    if scatters { "scatter" } else { "gather" },
                    len >> 10
                ),
                run: Box::new(move |from, to| {
                    let runs = &runs[COLD / from.len() - 1];
                    black_box(recode.copy_runs(from, to, runs, len, Destination::Cold).unwrap());
                }),
            });
        }
    }
    println!("cold to cold, {} MiB in {pages}, median of {ROUNDS} rounds", COLD >> 20);
    for threads in [1, 2] {
        let mut times = vec![Vec::new(); ways.len()];
        for _ in 0..=ROUNDS {
            for (way, times) in ways.iter().zip(&mut times) {
                times.push(timed(way, threads, from, to));
            }
        }
        // The first round warms up.
        let speeds: Vec<f64> =
            times.iter_mut().map(|times| COLD as f64 / median(&mut times[1..]).as_secs_f64() / 1e9).collect();
        let best = speeds[..plain].iter().copied().fold(0.0, f64::max);
        for (way, speed) in ways.iter().zip(&speeds) {
            println!(
                "  {threads} thread(s)  {:40} {speed:6.2} GB/s  {:5.2} of the best plain copy",
                way.name,
                speed / best
            );
        }
    }
}

fn timed(way: &Way, threads: usize, from: &[u8], to: &mut [u8]) -> Duration {
    let share = from.len() / threads;
    let start = Instant::now();
    std::thread::scope(|scope| {
        for (from, to) in from.chunks(share).zip(to.chunks_mut(share)) {
            scope.spawn(|| (way.run)(black_box(from), black_box(to)));
        }
    });
    start.elapsed()
}

fn median(times: &mut [Duration]) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

fn tile(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("recode a hot tile of 1 MiB in place");
    group.throughput(Throughput::Bytes(TILE as u64));
    let (mut source, mut copy) = (elements(TILE), elements(TILE));
    let (source, copy) = (source.bytes(), copy.bytes());
    group.bench_function("memcpy", |bencher| {
        bencher.iter(|| black_box(&mut *copy).copy_from_slice(black_box(&*source)));
    });
    for (from, to) in PAIRS {
        let recode = Recode::lossy(from, to, Lossy::Saturate);
        let mut bytes = elements(TILE);
        let bytes = bytes.bytes();
        let name = format!("{} to {}", from.dtype().name(), to.dtype().name());
        group.bench_function(BenchmarkId::from_parameter(name), |bencher| {
            bencher.iter(|| recode.in_place(black_box(&mut *bytes)).unwrap());
        });
    }
    group.finish();
}

criterion_group! {
    name = tiles;
    config = Criterion::default().sample_size(10).measurement_time(Duration::from_secs(1))
        .warm_up_time(Duration::from_millis(300));
    targets = tile
}
