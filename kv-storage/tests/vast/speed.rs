//! How much of its paths' speed a store gives: virtual time, each path a `Throttle`, so that the figures are the same on every machine.

use std::sync::atomic::{AtomicU64, Ordering};

use kv_storage::{Throttle, ThrottleOptions};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::slowing::slowing;
use super::*;

/// What one path moves in a hundredth of a second, so that an object takes one.
const UNIT: u64 = 100_000;
/// Enough to be measured.
const OBJECT: usize = 100_000;

/// A path of so many bytes per second each way, from the next call on.
#[derive(Debug)]
struct Link {
    store: MemoryStore,
    fault: Fault,
    rate: u64,
}

impl Link {
    fn new(store: &MemoryStore, rate: u64) -> Self {
        let options = ThrottleOptions::default().read_bytes_per_second(rate).write_bytes_per_second(rate);
        let throttle = Throttle::new(Arc::new(store.clone()), options);
        Self { store: store.clone(), fault: Fault::new(Arc::new(throttle)), rate }
    }

    fn path(&self) -> VastPath {
        VastPath::new("nfs", Arc::new(self.fault.clone()))
    }
}

fn over(links: &[Link]) -> Vast {
    Vast::new("lab", links.iter().map(Link::path).collect(), VastOptions::default()).unwrap()
}

/// Bytes per virtual second of `count` objects that are `moved` eight at a time, and the longest time that one took.
async fn rate<F>(count: u16, moved: impl Fn(ObjectName) -> F) -> (f64, Duration)
where
    F: Future<Output = ()> + Send + 'static,
{
    let began = Instant::now();
    let longest = Arc::new(AtomicU64::new(0));
    let mut running = JoinSet::new();
    for n in 0..count {
        if running.len() == 8 {
            running.join_next().await.unwrap().unwrap();
        }
        let (one, longest) = (moved(name(n)), Arc::clone(&longest));
        running.spawn(async move {
            let began = Instant::now();
            one.await;
            longest.fetch_max(u64::try_from(began.elapsed().as_millis()).unwrap(), Ordering::Relaxed);
        });
    }
    while let Some(ended) = running.join_next().await {
        ended.unwrap();
    }
    let bytes = f64::from(count) * OBJECT as f64;
    (bytes / began.elapsed().as_secs_f64(), Duration::from_millis(longest.load(Ordering::Relaxed)))
}

async fn save(store: &Vast, count: u16) -> f64 {
    let save = |name: ObjectName| {
        let store = store.clone();
        async move {
            assert_eq!(publish(&store, &name, &bytes(&name, OBJECT)).await.unwrap(), Publication::Published);
        }
    };
    rate(count, save).await.0
}

async fn load(store: &Vast, count: u16) -> (f64, Duration) {
    let load = |name: ObjectName| {
        let store = store.clone();
        async move {
            assert!(read(&store, &name, OBJECT).await.unwrap().unwrap() == bytes(&name, OBJECT));
        }
    };
    rate(count, load).await
}

/// Asserts that a rate is at least `part` of `sum`, and that nothing came from nowhere.
fn reaches(rate: f64, part: f64, sum: u64, what: &str) {
    let sum = sum as f64;
    println!("{what}: {:.3} of the sum", rate / sum);
    assert!(rate >= part * sum, "{what}: {:.3} of the sum", rate / sum);
    assert!(rate <= 1.001 * sum, "{what}: {:.3} of the sum", rate / sum);
}

//= SEMANTICS.md#vast-sum
#[tokio::test(start_paused = true)]
async fn two_paths_give_their_sum_also_if_one_is_slower() {
    for rates in [[100 * UNIT, 100 * UNIT], [100 * UNIT, 25 * UNIT], [100 * UNIT, 5 * UNIT]] {
        let memory = MemoryStore::new();
        let store = over(&rates.map(|rate| Link::new(&memory, rate)));
        let sum = rates.iter().sum();
        reaches(save(&store, 600).await, 0.95, sum, &format!("save by {rates:?}"));
        reaches(load(&store, 600).await.0, 0.95, sum, &format!("load by {rates:?}"));
    }
}

//= SEMANTICS.md#vast-sum
#[tokio::test(start_paused = true)]
async fn four_paths_give_nine_tenths_of_their_sum() {
    let memory = MemoryStore::new();
    let store = over(&[50, 50, 50, 50].map(|rate| Link::new(&memory, rate * UNIT)));
    reaches(save(&store, 600).await, 0.9, 200 * UNIT, "save by four");
    reaches(load(&store, 600).await.0, 0.9, 200 * UNIT, "load by four");
}

/// One of two paths becomes twenty times slower, then fails, then hangs, each in the middle of a load and of a save.
//= SEMANTICS.md#vast-sum
//= SEMANTICS.md#vast-fail-over
#[tokio::test(start_paused = true)]
async fn what_remains_is_used_when_a_path_gets_slow_fails_or_hangs_in_the_middle() {
    use kv_storage::fault::{Injection, When};
    for trouble in ["slow", "fails", "hangs"] {
        let memory = MemoryStore::new();
        for n in 0..600 {
            publish(&memory, &name(n), &bytes(&name(n), OBJECT)).await.unwrap();
        }
        let links = [Link::new(&memory, 100 * UNIT), Link::new(&memory, 100 * UNIT)];
        // A slow path is a link behind a slower one.
        let slower = Arc::new(std::sync::atomic::AtomicBool::new(false));
        let gated = slowing(Arc::new(links[1].fault.clone()), 5 * UNIT, &slower);
        let paths = vec![links[0].path(), VastPath::new("nfs", Arc::new(gated))];
        let store = Vast::new("lab", paths, VastOptions::default()).unwrap();
        reaches(load(&store, 200).await.0, 0.95, 200 * UNIT, "before");
        let mut hold = None;
        match trouble {
            "slow" => slower.store(true, Ordering::Relaxed),
            "fails" => links[1].fault.inject(When::always(), Injection::Fail(kv_storage::ErrorKind::Backend)),
            _ => hold = Some(links[1].fault.hang(When::always())),
        }
        let remaining = links[0].rate;
        let (rate, longest) = load(&store, 600).await;
        println!(
            "{trouble}: {:.3} of the remaining path, {longest:?} for the slowest object",
            rate / remaining as f64
        );
        // No object waits for longer than the deadline of its path, and its turn by the other.
        assert!(longest <= 11 * SECOND, "{trouble}: {longest:?}");
        let (rate, _) = if trouble == "hangs" { load(&store, 600).await } else { (rate, longest) };
        assert!(rate >= 0.9 * remaining as f64, "{trouble}: {:.3} of what remains", rate / remaining as f64);
        for n in 0..600 {
            memory.delete(&name(n)).await.unwrap();
        }
        let saved = save(&store, 400).await;
        assert!(
            saved >= 0.9 * remaining as f64,
            "{trouble}: save at {:.3} of what remains",
            saved / remaining as f64
        );
        assert_eq!(links[0].store.list(&name(0).namespace, None, 1000).await.unwrap().len(), 400);
        drop(hold);
    }
}

//= SEMANTICS.md#vast-slow-path
#[tokio::test(start_paused = true)]
async fn a_path_that_was_slow_is_tried_again_after_ten_seconds_without_use() {
    let memory = MemoryStore::new();
    let slower = Arc::new(std::sync::atomic::AtomicBool::new(true));
    let link = || Link::new(&memory, 100 * UNIT);
    let slow = slowing(Arc::new(link().fault), UNIT, &slower);
    let paths = vec![link().path(), VastPath::new("nfs", Arc::new(slow))];
    let store = Vast::new("lab", paths, VastOptions::default()).unwrap();
    save(&store, 200).await;
    let by_slow = || store.paths()[1].moved_bytes;
    let before = by_slow();
    load(&store, 40).await;
    assert!(by_slow() - before <= 2 * UNIT, "a path at a hundredth of the other's speed is hardly used");
    slower.store(false, Ordering::Relaxed);
    tokio::time::sleep(10 * SECOND).await;
    reaches(load(&store, 200).await.0, 0.9, 200 * UNIT, "after it was fast again");
}
