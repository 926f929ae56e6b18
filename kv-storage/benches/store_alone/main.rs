//! How close the posix store comes to the best plain loop over the same bytes: what a store costs when nothing is gathered, copied or
//! checked above it, and the buffers are in staging already.
//!
//! ```text
//! cargo bench -p kv-storage --all-features --bench store_alone -- [PLACE ...] [--quick | --rounds N] [--mib N ...] [--threads N ...]
//! ```
//!
//! Places: `huge-tmpfs` and `tmpfs` (need root, and vanish with the process), `disk` (O_DIRECT) and `disk-cached` (through the page cache),
//! both in the temporary directory. The best plain loop is found first; then everything of a line is measured in turns, there and back, round
//! after round, so that what disturbs the machine disturbs all of it; the first round is dropped; figures are medians with the least and the
//! most. Nobody flushes: the flush of a publication costs the same with any store. Files that are read were written in the same turn,
//! so through the page cache they are warm, and with O_DIRECT they come from the disk.
//!
//! The plain loop does less than a store must. Its file has its name before it has its bytes: so it runs a second time with a temporary name
//! and a link, and `x published` is the ratio to that. And it blocks whoever asks it: so it runs a third time, publishing, on tokio's blocking
//! threads, one call of `spawn_blocking` for an object, and `x asked` is the ratio to that: it tells what not blocking an executor costs from
//! what the store costs. `x` stays the ratio to the loop that promises nothing.
//!
//! Measured on two cores of a shared Sapphire Rapids guest (2026-12-01; medians of runs that differ by 0.05 and more; ADR 34): the store reaches
//! 0.94 to 1.06 of the plain loop on a tmpfs and a disk (4 MiB once 0.90), and 0.93 to 1.05 of loads on a huge tmpfs. There, where 4 MiB take
//! half a millisecond, saves of 4 MiB have 0.89 to 0.93 (one thread) and 0.78 to 0.88 (two), of 10 MiB 0.90 to 0.93 and 0.79 to 0.93. The loop
//! that is asked has 0.93 to 1.02 there, so that it is not the hand-overs: the store reaches 0.85 to 0.94 of it. The bytes take the same time
//! (pwrite of 2 MiB: 284 us in the store, 287 in the loop); what lies beside them is system calls and code that come out of a cold cache
//! after each copy. One call for a whole object instead of three (tried) gives 2 to 4 % of a save of 4 MiB and nothing of 10.
//!
//! The peer writes as many different bytes as the store: from the same 10 MiB again and again it was a tenth faster than any plain loop with cold ones.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a benchmark stops at the first error")]
#![expect(clippy::print_stdout, reason = "a benchmark's output is the terminal's")]
#![expect(clippy::cast_precision_loss, reason = "counts of bytes and nanoseconds far below 2^52")]

mod asked;
mod figures;
mod peer;
mod places;
mod plain;
mod ring;
mod stores;

use std::path::Path;
use std::time::Duration;

use asked::Asked;
use figures::{Spread, ratio};
use kv_memory::{HugePages, StagingPool};
use kv_storage::posix::IoEngine;
use places::Place;
use plain::Plain;
use rustix::time::{ClockId, clock_gettime};

/// Bytes of a staging buffer, and of one write or read of the store.
const PART: usize = 2 << 20;
/// Bytes that each thread moves in a turn, at least two objects of them.
const TURN: usize = 160 << 20;

/// What one measurement moves: `objects` of `len` bytes on `threads` threads.
#[derive(Debug, Clone, Copy)]
struct Load {
    len: usize,
    objects: usize,
    threads: usize,
}

impl Load {
    fn new(mib: usize, threads: usize) -> Self {
        let len = mib << 20;
        Self { len, objects: (TURN / len).max(2) * threads, threads }
    }

    /// Objects under way at once: while one waits to be told that it is done, a thread has another.
    fn lanes(&self) -> usize {
        2 * self.threads
    }

    /// GB/s by the clock, and GB per second of processor time.
    fn rates(&self, took: Took) -> [f64; 2] {
        [took.wall, took.processor].map(|time| (self.len * self.objects) as f64 / time.as_secs_f64() / 1e9)
    }
}

/// Time by the clock, and what all threads of this process had of a processor meanwhile: the part that busy neighbours change least.
#[derive(Debug, Clone, Copy)]
struct Took {
    wall: Duration,
    processor: Duration,
}

impl Took {
    /// Of `work`, which says what it took by the clock.
    fn of(work: impl FnOnce() -> Duration) -> Self {
        let now = || Duration::try_from(clock_gettime(ClockId::ProcessCPUTime)).unwrap();
        let before = now();
        let wall = work();
        Self { wall, processor: now() - before }
    }
}

/// What measures: saves all objects, then loads them.
type Measure<'a> = Box<dyn FnMut() -> [Took; 2] + 'a>;

struct Arguments {
    places: Vec<Place>,
    rounds: usize,
    mib: Vec<usize>,
    threads: Vec<usize>,
}

impl Arguments {
    fn parse() -> Self {
        let mut parsed = Self { places: Vec::new(), rounds: 7, mib: Vec::new(), threads: Vec::new() };
        let mut words = std::env::args().skip(1).filter(|word| word != "--bench");
        while let Some(word) = words.next() {
            let mut number = || words.next().and_then(|n| n.parse().ok()).filter(|n| *n > 0).unwrap();
            match word.as_str() {
                "--quick" => parsed.rounds = 2,
                "--rounds" => parsed.rounds = number(),
                "--mib" => parsed.mib.push(number()),
                "--threads" => parsed.threads.push(number()),
                place => match Place::named(place) {
                    Some(place) => parsed.places.push(place),
                    None => panic!(
                        "{place:?}: expected --rounds N, --mib N, --threads N, or a place: {:?}",
                        Place::ALL
                    ),
                },
            }
        }
        let or =
            |given: Vec<usize>, default: &[usize]| if given.is_empty() { default.to_vec() } else { given };
        parsed.mib = or(parsed.mib, &[4, 10, 80]);
        parsed.threads = or(parsed.threads, &[1, 2]);
        if parsed.places.is_empty() {
            parsed.places = Place::ALL.to_vec();
        }
        parsed
    }
}

fn main() {
    // Under `cargo test` cargo does not pass this flag, and nothing is to be measured.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    let arguments = Arguments::parse();
    let most = arguments
        .mib
        .iter()
        .zip(std::iter::repeat(&arguments.threads))
        .flat_map(|(mib, threads)| threads.iter().map(move |threads| Load::new(*mib, *threads)));
    let staging = most.map(|load| load.lanes() * load.len.next_multiple_of(PART)).max().unwrap();
    let staging = StagingPool::new(HugePages::allocate(staging).unwrap(), PART).unwrap();
    println!(
        "GB/s, median (least-most) of {} rounds; x: that by the plain loop's, of the same rounds; x published: by that of the plain loop that publishes; x asked: by that of the one that also is asked by tasks",
        arguments.rounds
    );
    let way = |way: &str| format!("{:<20} {:<18} {:<18} {:<18}", way, "x", "x processor", "x asked");
    println!(
        "place        object  T  what             {} {:<18} {}",
        way("save"),
        "x published",
        way("load")
    );
    for place in &arguments.places {
        match place.open() {
            Ok(mounted) => {
                for (mib, threads) in
                    arguments.mib.iter().flat_map(|mib| arguments.threads.iter().map(move |t| (*mib, *t)))
                {
                    line(*place, &mounted, &staging, Load::new(mib, threads), arguments.rounds);
                }
            }
            Err(why) => println!("{:<12} SKIPPED: {why}", place.name()),
        }
    }
}

/// The best plain ways to save and to load, and the best to save and publish: tried before anything is measured, since the best of several
/// medians of one's own noise is better than any of them.
fn chosen(place: Place, path: &Path, staging: &StagingPool, load: Load) -> [Plain; 3] {
    const TRIALS: usize = 4;
    let ways = Plain::all(place);
    let mut samples = vec![[vec![], vec![]]; ways.len()];
    for trial in 0..=TRIALS {
        for (way, samples) in ways.iter().zip(&mut samples) {
            let took = way.measure(path, staging, load);
            let kept = samples.iter_mut().zip(took).filter(|_| trial > 0);
            kept.for_each(|(samples, took)| samples.push(load.rates(took)[0]));
        }
    }
    [(false, 0), (false, 1), (true, 0)].map(|(publishes, direction)| {
        let rate = |(_, samples): &(&Plain, &[Vec<f64>; 2])| Spread::of(&samples[direction]).median;
        let tried = ways.iter().zip(&samples).filter(|(way, _)| way.publishes == publishes);
        *tried.max_by(|a, b| rate(a).total_cmp(&rate(b))).unwrap().0
    })
}

/// Measures one place with one load, and prints a line for each thing.
fn line(place: Place, mounted: &places::Mounted, staging: &StagingPool, load: Load, rounds: usize) {
    let path = mounted.path();
    let plain = chosen(place, path, staging, load);
    let mut things: Vec<(String, Measure<'_>)> = Vec::new();
    for plain in plain {
        things.push((plain.to_string(), Box::new(move || plain.measure(path, staging, load))));
    }
    let asked = Asked::new([plain[2], plain[1]], load);
    if place != Place::Disk {
        things.push(("plain, asked".into(), Box::new(move || asked.measure(path, staging, load))));
    }
    let engine = if place == Place::Disk { IoEngine::IoUring } else { IoEngine::Threads };
    let store = stores::Store::open(path, staging, load, engine);
    things.push((format!("store, {engine}"), Box::new(move || store.measure(staging, load))));
    if place != Place::Disk {
        let peer = peer::Peer::open(path, load);
        things.push(("object_store".into(), Box::new(move || peer.measure(load))));
    }
    // Of each thing: saves and loads, by the clock and of the processor.
    let mut samples = vec![[[vec![], vec![]], [vec![], vec![]]]; things.len()];
    for round in 0..=rounds {
        let mut turns: Vec<_> = things.iter_mut().zip(&mut samples).collect();
        // There and back: what one leaves behind (dirty pages, freed blocks, caches) is not always the same one's to bear.
        if round % 2 == 1 {
            turns.reverse();
        }
        for ((_, measure), samples) in turns {
            let took = measure();
            for (samples, took) in samples.iter_mut().zip(took).filter(|_| round > 0) {
                samples.iter_mut().zip(load.rates(took)).for_each(|(samples, rate)| samples.push(rate));
            }
        }
    }
    // Which thing is the measure: of saves, of loads; of saves that publish; of what is asked by tasks, through the page cache.
    let (best, published, asked) = ([0, 1], 2, (place != Place::Disk).then_some(3));
    let cells = |thing: [usize; 2]| {
        let [saved, loaded] = [0, 1].map(|way| {
            let [wall, processor] = &samples[thing[way]][way];
            let [best_wall, best_processor] = &samples[best[way]][way];
            let asked =
                asked.map_or_else(|| "-".into(), |asked| ratio(wall, &samples[asked][way][0]).to_string());
            format!(
                "{:<20} {:<18} {:<18} {asked:<18}",
                Spread::of(wall).to_string(),
                ratio(wall, best_wall).to_string(),
                ratio(processor, best_processor).to_string()
            )
        });
        let whole = ratio(&samples[thing[0]][0][0], &samples[published][0][0]);
        [format!("{saved} {:<18}", whole.to_string()), loaded]
    };
    let row = |what: &str, [save, loaded]: [String; 2]| {
        let (mib, threads) = (load.len >> 20, load.threads);
        println!("{:<11} {mib:>3} MiB {threads:>2}  {what:<16} {save} {loaded}", place.name());
    };
    row("plain loop", cells(best));
    row("plain, published", cells([published; 2]));
    println!("{:>23}: {} | {}", "save | load by", things[best[0]].0, things[best[1]].0);
    for (thing, (what, _)) in things.iter().enumerate().skip(plain.len()) {
        row(what, cells([thing; 2]));
    }
}
