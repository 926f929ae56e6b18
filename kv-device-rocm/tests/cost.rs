//! What a transfer costs: calls, whatever the layout, and time on the link by the model.
#![expect(clippy::unwrap_used, reason = "a test ends where it goes wrong")]

#[path = "support/scene.rs"]
mod scene;
mod support;

use std::sync::Arc;

use kv_device::emulation::own_copy_without;
use kv_device::{Device as _, HostFence};
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

/// 64 chunks of 10 MiB at 50 GB/s, with 10 us for each call: on a virtual clock, so that the figure depends on the calls alone. Each
/// chunk is checksummed by the host while the next ones move; the time of that is charged to the thread that does it.
#[tokio::test]
async fn gathers_keep_the_link_busy() {
    const CHUNKS: u64 = 64;
    const CHUNK: u64 = 10 << 20;
    /// Nanoseconds of a CRC-64 of 10 MiB at 49 GB/s by one thread, of which two take turns.
    const CHECKSUM: u64 = CHUNK / 49;
    let fake = FakeHip::new(&["set skip-kernels 1"]);
    let engine = fake.engine_with(fake.options().queue_depth(64)).unwrap();
    // 40 sections of 256 KiB.
    let scene = Arc::new(Scene::new(&engine, 20, 128, 64).unwrap());
    let transfer = scene.transfer(1024);
    assert_eq!(scene.bytes(&transfer) as u64, CHUNK);
    // The first one makes the buffers, so that the others are alike.
    let (staging, outcome) = scene.registered.gather(scene.request(&transfer, 0).await).await;
    outcome.unwrap();
    drop(staging);
    fake.tell("clear");
    fake.tell("model d2h=50 h2d=50 device=4000 call=10000");
    // What a kernel reads and writes.
    fake.tell(&format!("set kernel-bytes {}", 2 * CHUNK));
    // Everything is queued before the device's thread takes the first, so that no real time enters the reckoning.
    let start = HostFence::new(&"engine");
    let mut gathers = tokio::task::JoinSet::new();
    for _ in 0..CHUNKS {
        let request = scene.request_after(&transfer, 0, Arc::<HostFence>::clone(&start)).await;
        let registered = Arc::clone(&scene.registered);
        gathers.spawn(async move { registered.gather(request).await.1 });
        tokio::task::yield_now().await;
    }
    start.signal();
    while let Some(outcome) = gathers.join_next().await {
        outcome.unwrap().unwrap();
    }
    let copies = fake.tell("copies");
    let ends: Vec<(u64, u64)> = copies
        .lines()
        .map(|line| {
            let mut words = line.split(' ').skip(2).map(|word| word.parse().unwrap());
            (words.next().unwrap(), words.next().unwrap())
        })
        .collect();
    assert_eq!(ends.len() as u64, CHUNKS);
    let mut threads = [0; 2];
    let mut checked = Vec::new();
    for (index, (_, end)) in ends.iter().enumerate() {
        let thread = &mut threads[index % 2];
        *thread = end.max(thread) + CHECKSUM;
        checked.push(*thread);
    }
    // A buffer is free again when its checksum is known: of four, one always was in time, so four would have done.
    for (checked, (start, _)) in checked.iter().zip(ends.iter().skip(4)) {
        assert!(
            checked <= start,
            "a gather would have waited for its buffer until {checked}, but began at {start}"
        );
    }
    let (first, last) = (ends[0].0, ends[ends.len() - 1].1);
    let (took, ideal) = (last - first, CHUNKS * CHUNK / 50);
    assert!(ideal * 100 >= took * 97, "{took} ns for what the link can do in {ideal} ns");
    println!("{} thousandths of the link", ideal * 1000 / took);
    scene.registered.close().await.unwrap();
    assert_eq!(engine.device.capabilities().concurrency, 3);
}
