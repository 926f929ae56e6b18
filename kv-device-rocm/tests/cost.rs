//! What a transfer costs: calls, whatever the layout, and time on the link by the model.
#![expect(clippy::unwrap_used, reason = "a test ends where it goes wrong")]

#[path = "support/scene.rs"]
mod scene;
mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use kv_device::emulation::{Checksums, NotBefore, own_copy_without};
use kv_format::Transfer;
use scene::Scene;
use support::{FakeHip, HipEngine, fake_file};

/// The functions that were called since `clear`, with how often.
fn counts(fake: &FakeHip) -> Vec<(String, u64)> {
    let line = |line: &str| {
        let (symbol, count) = line.split_once(' ').unwrap();
        (symbol.to_owned(), count.parse().unwrap())
    };
    fake.tell("counts").lines().map(line).collect()
}

/// One gather and one scatter of `tokens`, after others that made buffers.
async fn calls(
    fake: &FakeHip,
    engine: &HipEngine,
    block_tokens: u32,
    tokens: u32,
    gap: u64,
) -> Vec<(String, u64)> {
    let scene = Scene::new(engine, 3, block_tokens, 1).unwrap();
    let transfer = scene.transfer_with(tokens, gap);
    for round in 0..2 {
        if round == 1 {
            fake.tell("clear");
        }
        let (staging, outcome) = scene.registered.gather(scene.request(&transfer, 0).await).await;
        outcome.unwrap();
        drop(staging);
        let (staging, outcome) = scene.registered.scatter(scene.request(&transfer, 0).await).await;
        outcome.unwrap();
        drop(staging);
    }
    let counts = counts(fake);
    scene.registered.close().await.unwrap();
    counts
}

fn expected(copies: &str, count: u64) -> Vec<(String, u64)> {
    let mut all = vec![
        (copies, count),
        ("hipEventRecord", 2),
        ("hipEventSynchronize", 2),
        ("hipModuleLaunchKernel", 2),
    ];
    all.sort_unstable();
    all.into_iter().map(|(symbol, count)| (symbol.to_owned(), count)).collect()
}

#[tokio::test]
async fn a_save_is_one_launch_and_one_copy_whatever_the_block_size() {
    let fake = FakeHip::new(&["set strict 1"]);
    let engine = fake.engine();
    for (block_tokens, tokens) in [(8, 64), (16, 128), (64, 300), (128, 1000), (128, 1)] {
        let found = calls(&fake, &engine, block_tokens, tokens, 0).await;
        assert_eq!(found, expected("hipMemcpyAsync", 2), "{tokens} tokens in blocks of {block_tokens}");
    }
}

#[tokio::test]
async fn sections_with_gaps_are_one_batch_or_where_there_is_none_a_copy_each() {
    let fake = FakeHip::new(&["set strict 1"]);
    assert_eq!(calls(&fake, &fake.engine(), 16, 100, 64).await, expected("hipMemcpyBatchAsync", 2));
    let old = own_copy_without(&fake_file(), &["hipMemcpyBatchAsync"]).unwrap();
    let fake = FakeHip::of(old, &["set strict 1", "set hip-version 60300000"]);
    assert_eq!(calls(&fake, &fake.engine(), 16, 100, 64).await, expected("hipMemcpyAsync", 2 * 5));
}

const CHUNKS: usize = 64;
const CHUNK: u64 = 10 << 20;
/// GB/s of a CRC-64 by one host thread, of which each direction has two.
const CHECKSUM: u64 = 49;

/// When each copy of a direction began and ended, by the model.
fn copies(fake: &FakeHip, direction: &str) -> Vec<(u64, u64)> {
    let copies = fake.tell("copies");
    let lines = copies.lines().filter_map(|line| line.strip_prefix(direction));
    let times = lines.map(|line| {
        let mut words = line.split_whitespace().skip(1).map(|word| word.parse().unwrap());
        (words.next().unwrap(), words.next().unwrap())
    });
    times.collect()
}

/// Thousandths of what the link can do from the first copy's start to the last one's end.
fn used(copies: &[(u64, u64)]) -> u64 {
    let took = copies[copies.len() - 1].1 - copies[0].0;
    1000 * copies.len() as u64 * CHUNK / 50 / took
}

/// One direction's chunks through a few buffers. A gathered buffer is used again when its checksum was taken, a loaded one is scattered when
/// it was verified; both is the work of host threads, whose time is reckoned.
async fn traffic(fake: &FakeHip, scene: &Scene, transfer: &Transfer, chunks: usize, gathers: bool) {
    let direction = if gathers { "DeviceToHost" } else { "HostToDevice" };
    let (number, host) = (Arc::<AtomicUsize>::default(), Checksums::new(2, CHECKSUM));
    let lane = async || {
        let mut free = 0;
        while let Some(index) = Some(number.fetch_add(1, Ordering::AcqRel)).filter(|index| *index < chunks) {
            if !gathers {
                free = host.take(free, CHUNK);
            }
            // The lanes ask for three more at once, of which the last is not queued yet.
            let asked_at_least = if index + 1 < chunks { index + 3 } else { 0 };
            let (control, asked) = (fake.control, Arc::clone(&number));
            let after = Arc::new(NotBefore { control, time: free, asked_at_least, asked });
            let request = scene.request_after(transfer, 0, after).await;
            let (staging, outcome) = match gathers {
                true => scene.registered.gather(request).await,
                false => scene.registered.scatter(request).await,
            };
            outcome.unwrap();
            drop(staging);
            // Transfers of a direction are copied in the order in which they were first polled.
            let end = copies(fake, direction)[index].1;
            free = if gathers { host.take(end, CHUNK) } else { end };
        }
    };
    // One with each buffer: those that the device asks for, and one for each host thread.
    tokio::join!(lane(), lane(), lane(), lane(), lane());
}

/// Chunks of 10 MiB at 50 GB/s per direction, with 10 us for each call, and what a kernel reads and writes at 4 TB/s: on a virtual clock, so
/// that the figures depend on the calls alone.
async fn reckon(gathers: usize, scatters: usize) -> (Vec<(u64, u64)>, Vec<(u64, u64)>) {
    let fake = FakeHip::new(&["set skip-kernels 1"]);
    let engine = fake.engine();
    // 40 sections of 256 KiB.
    let (save, load) = (Scene::new(&engine, 20, 128, 5).unwrap(), Scene::new(&engine, 20, 128, 5).unwrap());
    let transfer = save.transfer(1024);
    assert_eq!(save.bytes(&transfer) as u64, CHUNK);
    // The first ones make the buffers, so that the others are alike.
    drop(save.registered.gather(save.request(&transfer, 0).await).await);
    drop(load.registered.scatter(load.request(&transfer, 0).await).await);
    fake.tell("clear");
    fake.tell("model d2h=50 h2d=50 device=4000 call=10000");
    fake.tell(&format!("set kernel-bytes {}", 2 * CHUNK));
    tokio::join!(
        traffic(&fake, &save, &transfer, gathers, true),
        traffic(&fake, &load, &transfer, scatters, false)
    );
    save.registered.close().await.unwrap();
    load.registered.close().await.unwrap();
    (copies(&fake, "DeviceToHost"), copies(&fake, "HostToDevice"))
}

#[tokio::test]
async fn gathers_keep_the_link_busy() {
    let (gathered, _) = reckon(CHUNKS, 0).await;
    println!("gather: {} thousandths of the link", used(&gathered));
    assert_eq!(gathered.len(), CHUNKS, "one copy for a chunk");
    assert!(used(&gathered) >= 970, "{} thousandths of the link", used(&gathered));
}

#[tokio::test]
async fn saves_and_loads_keep_both_directions_busy() {
    let (gathered, scattered) = reckon(CHUNKS, CHUNKS).await;
    println!("both: {} and {} thousandths", used(&gathered), used(&scattered));
    assert_eq!((gathered.len(), scattered.len()), (CHUNKS, CHUNKS));
    assert!(used(&gathered) >= 950 && used(&scattered) >= 950, "of each link");
}
