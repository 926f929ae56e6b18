//! What the checksum of a section costs when it is taken while the section is gathered into a buffer that stays in the cache.

use std::hint::black_box;
use std::time::Duration;

use kv_format::kernels::Destination;
use kv_format::{LayerPlan, TensorKind};
use kv_memory::HostBuf;

use crate::Options;
use crate::scene::{Engine, Scene};
use crate::spread::{Spread, both};

/// A tile of the pipeline: it stays in a core's second-level cache.
const TILE: usize = 1 << 20;

/// Layouts, and the most time in percent that the checksum may add for one head and for eight.
const LAYOUTS: [(&str, Engine, [f64; 2]); 5] = [
    ("CRC fused, NHD", Engine::TokenMajor, [25.0, 30.0]),
    ("CRC fused, HND", Engine::HeadMajor, [25.0, 25.0]),
    ("CRC fused, packed K and V", Engine::Packed, [25.0, 25.0]),
    ("CRC fused, ROCm", Engine::Rocm, [25.0, 25.0]),
    ("CRC fused, AITER shuffle", Engine::Shuffled, [25.0, 25.0]),
];

struct Row<'a> {
    name: &'a str,
    scene: Scene,
    heads: u32,
    threads: usize,
    most: f64,
    added: Vec<f64>,
    speed: Vec<f64>,
}

/// Measures every layout with and without checksum in turns and prints the table.
pub(crate) fn run(options: &Options) {
    let mut rows = Vec::new();
    for (name, engine, most) in LAYOUTS.iter().filter(|(name, ..)| options.wants(name)) {
        for (heads, most) in [1, 8].into_iter().zip(most) {
            for threads in [1, 2] {
                let scene = Scene::new(*engine, heads, options.bytes);
                rows.push(Row { name, scene, heads, threads, most: *most, added: vec![], speed: vec![] });
            }
        }
    }
    if rows.is_empty() {
        return;
    }
    let mut engine = HostBuf::allocate(4 * options.bytes).unwrap();
    engine.chunks_mut(64).enumerate().for_each(|(i, line)| line.fill(i.to_le_bytes()[0]));
    let mut tiles = [HostBuf::allocate(TILE).unwrap(), HostBuf::allocate(TILE).unwrap()];
    for round in 0..=options.rounds {
        for row in &mut rows {
            let plain = gather(&engine, &mut tiles, row, |plan, kind, memory, section| {
                options.kernels.gather(plan, kind, memory, section, Destination::Hot);
            });
            let fused = gather(&engine, &mut tiles, row, |plan, kind, memory, section| {
                black_box(options.kernels.gather_with_checksum(plan, kind, memory, section));
            });
            if round > 0 {
                row.added.push(100.0 * (fused.as_secs_f64() / plain.as_secs_f64() - 1.0));
                row.speed.push(2.0 * options.bytes as f64 / fused.as_secs_f64() / 1e9);
            }
        }
    }
    println!(
        "\n| cold to a hot tile of 1 MiB | heads | threads | GB/s with checksum | time added, % | at most | |"
    );
    println!("|---|---|---|---|---|---|---|");
    for row in rows {
        let (added, speed) = (Spread::of(row.added), Spread::of(row.speed));
        let verdict = if added.median <= row.most { "met" } else { "above" };
        let Row { name, heads, threads, most, .. } = row;
        println!("| {name} | {heads} | {threads} | {speed:.1} | {added:.0} | {most} | {verdict} |");
    }
}

/// Gathers both halves, section after section into the same tile.
fn gather(
    engine: &[u8],
    tiles: &mut [HostBuf; 2],
    row: &Row<'_>,
    gather: impl Fn(&LayerPlan, TensorKind, &[u8], &mut [u8]) + Sync,
) -> Duration {
    let (first, second) = engine.split_at(engine.len() / 2);
    let [tile, other] = tiles;
    both(row.threads, [(first, tile), (second, other)], |(half, tile)| {
        row.scene.each(|plan, kind, base, place| {
            let start = place.start % TILE;
            gather(plan, kind, &half[base..], &mut tile[start..start + place.len()]);
        });
    })
}
