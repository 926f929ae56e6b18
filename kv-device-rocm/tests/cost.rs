//! What a transfer costs: calls, whatever the layout, and time on the link by the model.
#![expect(clippy::unwrap_used, reason = "a test ends where it goes wrong")]

#[path = "support/scene.rs"]
mod scene;
mod support;

use std::sync::Arc;

use kv_device::HostFence;
use kv_device::emulation::own_copy_without;
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

const CHUNKS: u64 = 64;
const CHUNK: u64 = 10 << 20;
/// Nanoseconds of a CRC-64 of 10 MiB at 49 GB/s by one thread, of which two take turns.
const CHECKSUM: u64 = CHUNK / 49;

/// When each copy of a direction began and ended, by the model.
struct Link(Vec<(u64, u64)>);

impl Link {
    fn of(fake: &FakeHip, direction: &str) -> Self {
        let copies = fake.tell("copies");
        let times = copies.lines().filter_map(|line| line.strip_prefix(direction)).map(|line| {
            let mut words = line.split_whitespace().skip(1).map(|word| word.parse().unwrap());
            (words.next().unwrap(), words.next().unwrap())
        });
        Self(times.collect())
    }

    /// Thousandths of what the link can do from the first copy's start to the last one's end.
    fn used(&self) -> u64 {
        let took = self.0[self.0.len() - 1].1 - self.0[0].0;
        1000 * self.0.len() as u64 * CHUNK / 50 / took
    }

    /// A buffer is free again when its checksum is known: whether that was in time for the fourth gather after it.
    fn four_buffers_would_do(&self) -> bool {
        let mut threads = [0; 2];
        let mut checked = Vec::new();
        for (index, (_, end)) in self.0.iter().enumerate() {
            let thread = &mut threads[index % 2];
            *thread = end.max(thread) + CHECKSUM;
            checked.push(*thread);
        }
        checked.iter().zip(self.0.iter().skip(4)).all(|(checked, (start, _))| checked <= start)
    }
}

/// Chunks of 10 MiB at 50 GB/s per direction, with 10 us for each call: on a virtual clock, so that the figures depend on the calls
/// alone. Each chunk that was gathered is checksummed by the host while the next ones move, and its time is charged.
async fn reckon(gathers: u64, scatters: u64) -> (Link, Link) {
    let fake = FakeHip::new(&["set skip-kernels 1"]);
    let engine = fake.engine_with(fake.options().queue_depth(64)).unwrap();
    // 40 sections of 256 KiB.
    let scene = Scene::new(&engine, 20, 128, usize::try_from(gathers + scatters).unwrap()).unwrap();
    let transfer = scene.transfer(1024);
    assert_eq!(scene.bytes(&transfer) as u64, CHUNK);
    // The first ones make the buffers, so that the others are alike.
    drop(scene.registered.gather(scene.request(&transfer, 0).await).await);
    drop(scene.registered.scatter(scene.request(&transfer, 0).await).await);
    fake.tell("clear");
    fake.tell("model d2h=50 h2d=50 device=4000 call=10000");
    // What a kernel reads and writes.
    fake.tell(&format!("set kernel-bytes {}", 2 * CHUNK));
    // Everything is queued before the device's threads take the first, so that no real time enters the reckoning.
    let start = HostFence::new(&"engine");
    let mut moves = tokio::task::JoinSet::new();
    for index in 0..gathers + scatters {
        let request = scene.request_after(&transfer, 0, Arc::<HostFence>::clone(&start)).await;
        let registered = Arc::clone(&scene.registered);
        moves.spawn(async move {
            match index < gathers {
                true => registered.gather(request).await.1,
                false => registered.scatter(request).await.1,
            }
        });
        tokio::task::yield_now().await;
    }
    start.signal();
    while let Some(outcome) = moves.join_next().await {
        outcome.unwrap().unwrap();
    }
    scene.registered.close().await.unwrap();
    (Link::of(&fake, "DeviceToHost"), Link::of(&fake, "HostToDevice"))
}

#[tokio::test]
async fn gathers_keep_the_link_busy() {
    let (gathered, _) = reckon(CHUNKS, 0).await;
    assert_eq!(gathered.0.len() as u64, CHUNKS);
    assert!(gathered.used() >= 970, "{} thousandths of the link", gathered.used());
    assert!(gathered.four_buffers_would_do());
    println!("gather: {} thousandths of the link", gathered.used());
}

#[tokio::test]
async fn saves_and_loads_keep_both_directions_busy() {
    let (gathered, scattered) = reckon(CHUNKS / 2, CHUNKS / 2).await;
    assert_eq!((gathered.0.len(), scattered.0.len()), (32, 32));
    let both = u64::midpoint(gathered.used(), scattered.used());
    assert!(both >= 950 && gathered.four_buffers_would_do(), "{both} thousandths of both directions");
    println!("both: {} and {} thousandths", gathered.used(), scattered.used());
}
