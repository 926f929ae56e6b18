//! Engines' layouts to sections and back, cold to cold.

use std::time::Duration;

use kv_format::kernels::Destination;
use kv_memory::HostBuf;

use crate::Options;
use crate::plain::{self, Plain};
use crate::scene::{Engine, Scene};
use crate::spread::{Spread, both};

/// Which way bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Gather,
    Scatter,
}

/// One kernel and the ratios that it must reach: for one head with one and two threads, and for eight.
struct Kernel {
    name: &'static str,
    engine: Engine,
    way: Way,
    targets: [[f64; 2]; 2],
}

const KERNELS: [Kernel; 7] = [
    kernel("NHD -> canonical", Engine::TokenMajor, Way::Gather, [[0.54, 0.68], [0.72, 0.79]]),
    kernel("HND -> canonical", Engine::HeadMajor, Way::Gather, [[0.43, 0.58], [0.74, 0.73]]),
    kernel("packed K and V -> canonical", Engine::Packed, Way::Gather, [[0.43, 0.59], [0.85, 0.79]]),
    kernel(
        "ROCm x-packed K, transposed V -> canonical",
        Engine::Rocm,
        Way::Gather,
        [[0.36, 0.46], [0.43, 0.55]],
    ),
    kernel("AITER shuffle -> canonical", Engine::Shuffled, Way::Gather, [[0.37, 0.50], [0.50, 0.60]]),
    kernel("canonical -> Gaudi block 128", Engine::Gaudi, Way::Scatter, [[0.87, 0.87], [0.88, 0.83]]),
    kernel("canonical -> ROCm", Engine::Rocm, Way::Scatter, [[0.34, 0.42], [0.63, 0.58]]),
];

const fn kernel(name: &'static str, engine: Engine, way: Way, targets: [[f64; 2]; 2]) -> Kernel {
    Kernel { name, engine, way, targets }
}

/// What is measured in turns.
struct Row<'a> {
    kernel: &'a Kernel,
    scene: &'a Scene,
    heads: u32,
    threads: usize,
    target: f64,
    took: Vec<f64>,
    /// Of each plain copy.
    plain: Vec<Vec<f64>>,
}

/// Measures every kernel and prints the table.
pub(crate) fn run(options: &Options) {
    let kernels: Vec<&Kernel> = KERNELS.iter().filter(|kernel| options.wants(kernel.name)).collect();
    if kernels.is_empty() {
        return;
    }
    let scenes: Vec<[Scene; 2]> = kernels
        .iter()
        .map(|kernel| [1, 8].map(|heads| Scene::new(kernel.engine, heads, options.bytes)))
        .collect();
    let plain = plain::all();
    let mut rows = Vec::new();
    for (kernel, scenes) in kernels.into_iter().zip(&scenes) {
        for ((heads, scene), targets) in [1, 8].into_iter().zip(scenes).zip(kernel.targets) {
            for (threads, target) in [1, 2].into_iter().zip(targets) {
                let plain = vec![Vec::new(); plain.len()];
                rows.push(Row { kernel, scene, heads, threads, target, took: Vec::new(), plain });
            }
        }
    }
    let mut memory = Memory::new(options.bytes);
    for round in 0..=options.rounds {
        for row in &mut rows {
            let (way, threads) = (row.kernel.way, row.threads);
            let plain: Vec<f64> =
                plain.iter().map(|(_, copy)| memory.plain(*copy, way, threads).as_secs_f64()).collect();
            let took = memory.relayout(options, row.scene, way, threads).as_secs_f64();
            if round > 0 {
                row.took.push(took);
                row.plain.iter_mut().zip(plain).for_each(|(all, took)| all.push(took));
            }
        }
    }
    println!(
        "\n| cold to cold, {} MiB | heads | threads | GB/s | best plain copy, GB/s | ratio | target | |",
        memory.bytes() >> 20
    );
    println!("|---|---|---|---|---|---|---|---|");
    rows.iter().for_each(|row| row.print(&plain, memory.bytes()));
    println!("{}", memory.pages());
}

impl Row<'_> {
    fn print(&self, plain: &[(&str, Plain)], bytes: usize) {
        let speed = |times: &[f64]| Spread::of(times.iter().map(|seconds| bytes as f64 / seconds / 1e9));
        let best = (0..plain.len()).max_by(|a, b| {
            let median = |index: &usize| speed(&self.plain[*index]).median;
            median(a).total_cmp(&median(b))
        });
        let best = best.unwrap();
        let ratio = Spread::of(self.plain[best].iter().zip(&self.took).map(|(plain, took)| plain / took));
        println!(
            "| {} | {} | {} | {:.1} | {} {:.1} | {:.2} | {:.2} | {} |",
            self.kernel.name,
            self.heads,
            self.threads,
            speed(&self.took),
            plain[best].0,
            speed(&self.plain[best]),
            ratio,
            self.target,
            if ratio.median >= self.target { "met" } else { "below" }
        );
    }
}

/// An engine's memory and sections, in huge pages, in two halves each.
struct Memory {
    engine: HostBuf,
    sections: HostBuf,
}

impl Memory {
    /// `bytes` of one half's sections; the engine's memory is twice as large.
    fn new(bytes: usize) -> Self {
        let filled = |bytes: usize| {
            let mut memory = HostBuf::allocate(bytes).unwrap();
            memory.chunks_mut(64).enumerate().for_each(|(i, line)| line.fill(i.to_le_bytes()[0]));
            memory
        };
        Self { engine: filled(4 * bytes), sections: filled(2 * bytes) }
    }

    fn bytes(&self) -> usize {
        self.sections.len()
    }

    fn relayout(&mut self, options: &Options, scene: &Scene, way: Way, threads: usize) -> Duration {
        self.halves(threads, |engine, sections| {
            scene.each(|plan, kind, base, place| match way {
                Way::Gather => {
                    let section = &mut sections[place];
                    options.kernels.gather(plan, kind, &engine[base..], section, Destination::Cold);
                }
                Way::Scatter => {
                    let section = &sections[place];
                    options.kernels.scatter(plan, kind, section, &mut engine[base..], Destination::Cold);
                }
            });
        })
    }

    fn plain(&mut self, copy: Plain, way: Way, threads: usize) -> Duration {
        self.halves(threads, |engine, sections| {
            let engine = &mut engine[..sections.len()];
            match way {
                Way::Gather => copy(engine, sections),
                Way::Scatter => copy(sections, engine),
            }
        })
    }

    /// Moves both halves with one thread or two.
    fn halves(&mut self, threads: usize, work: impl Fn(&mut [u8], &mut [u8]) + Sync) -> Duration {
        let (engine, other_engine) = self.engine.split_at_mut(self.sections.len());
        let half = self.sections.len() / 2;
        let (sections, other_sections) = self.sections.split_at_mut(half);
        let halves = [(engine, sections), (other_engine, other_sections)];
        both(threads, halves, |(engine, sections)| work(engine, sections))
    }

    /// How much of it is in huge pages, as the kernel says.
    fn pages(&self) -> String {
        let rollup = std::fs::read_to_string("/proc/self/smaps_rollup").unwrap_or_default();
        let kib = |name: &str| -> Option<u64> {
            rollup.lines().find_map(|line| line.strip_prefix(name)?.split_whitespace().next()?.parse().ok())
        };
        let of = (self.engine.len() + self.sections.len()) >> 20;
        match (kib("AnonHugePages:"), kib("Private_Hugetlb:")) {
            (Some(transparent), Some(reserved)) => {
                format!("{} of {of} MiB were in huge pages", (transparent + reserved) >> 10)
            }
            _ => format!("{of} MiB, of which the system does not say how much is in huge pages"),
        }
    }
}
