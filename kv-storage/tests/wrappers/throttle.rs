//! `Throttle` in virtual time: how long calls take, to the millisecond of tokio's timers.

use std::sync::Arc;
use std::time::Duration;

use kv_format::RecordName;
use kv_memory::HostBuf;
use kv_storage::{KvStore, MemoryStore, Throttle, ThrottleOptions};
use tokio::time::Instant;

use super::{name, part, publish, read, waiting};

const KB: usize = 1000;

async fn throttled(options: ThrottleOptions) -> Throttle {
    let store = MemoryStore::new();
    publish(&store, &name(1), &vec![7; 10 * KB]).await.unwrap();
    Throttle::new(Arc::new(store), options)
}

/// The virtual milliseconds that something takes.
async fn millis(what: impl Future) -> u128 {
    let began = Instant::now();
    what.await;
    began.elapsed().as_millis()
}

fn near(found: u128, expected: u128) {
    assert!((expected..=expected + 2).contains(&found), "expected {expected} ms, found {found} ms");
}

//= SEMANTICS.md#throttle-rate
#[tokio::test(start_paused = true)]
async fn bytes_take_their_time_each_way_one_call_after_the_other() {
    let options = ThrottleOptions::default().read_bytes_per_second(10_000).write_bytes_per_second(1000);
    let store = throttled(options).await;
    near(millis(async { read(&store, vec![part(0, 4 * KB), part(0, KB)]).await.unwrap() }).await, 500);
    // Two calls at once share the rate.
    let two =
        async { tokio::join!(read(&store, vec![part(0, 10 * KB)]), read(&store, vec![part(0, 10 * KB)])) };
    near(millis(two).await, 2000);
    // The other way has a rate of its own, and what moves no bytes does not wait.
    near(millis(async { publish(&store, &name(2), &[0; 500]).await.unwrap() }).await, 500);
    near(millis(async { store.head(&name(1)).await.unwrap() }).await, 0);
    let record = RecordName::request("r", 0);
    near(millis(async { store.create_record(&record, &[0; 250]).await.unwrap() }).await, 250);
    // Nobody knows how long a record is before it is read: the next call waits for it.
    near(millis(async { store.read_record(&record).await.unwrap() }).await, 0);
    near(millis(async { read(&store, vec![part(0, 0)]).await.unwrap() }).await, 25);
}

//= SEMANTICS.md#throttle-rate
#[tokio::test(start_paused = true)]
async fn no_more_passes_in_any_time_than_the_rate_and_the_burst() {
    let options = ThrottleOptions::default().read_bytes_per_second(1000).burst_bytes(3000);
    let store = throttled(options).await;
    for _ in 0..3 {
        // A long pause saves up no more than the burst.
        tokio::time::advance(Duration::from_secs(100)).await;
        near(millis(async { read(&store, vec![part(0, 3 * KB)]).await.unwrap() }).await, 0);
        near(millis(async { read(&store, vec![part(0, 2 * KB)]).await.unwrap() }).await, 2000);
        near(millis(async { read(&store, vec![part(0, 500)]).await.unwrap() }).await, 500);
    }
}

//= SEMANTICS.md#throttle-latency
#[tokio::test(start_paused = true)]
async fn every_call_takes_the_latency_longer_side_by_side() {
    let store = throttled(ThrottleOptions::default().latency(Duration::from_millis(30))).await;
    let (one, two) = (name(1), name(2));
    near(millis(async { tokio::join!(store.head(&one), store.head(&two), store.delete(&two)) }).await, 30);
    // Begin, write and commit.
    near(millis(async { publish(&store, &name(3), b"x").await.unwrap() }).await, 90);
}

//= SEMANTICS.md#throttle-leave
#[tokio::test(start_paused = true)]
async fn a_caller_who_leaves_gives_the_turn_to_the_next_and_keeps_the_buffer() {
    let store = throttled(ThrottleOptions::default().write_bytes_per_second(1000)).await;
    let upload = store.begin(&name(2), 2000).await.unwrap();
    let write = waiting(upload.write(0, HostBuf::copy_of(&[1; 2000]).unwrap()));
    drop(write);
    near(millis(async { publish(&store, &name(3), &[0; 100]).await.unwrap() }).await, 100);
}
