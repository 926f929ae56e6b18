//! The memory of uploads and reads: bounded by the pool, however many there are, and nothing the size of an object beside it.

use std::time::Duration;

use hyper::Method;
use kv_memory::{HostBuf, HugePages, StagingPool};
use kv_storage::s3::Deadlines;
use kv_storage::{KvStore, Publication};
use tokio::task::JoinSet;

use crate::s3_server::script::Fault;
use crate::s3_server::{Server, options};
use crate::scene::name;

const PART: usize = 1 << 20;
const OBJECT: usize = 8 << 20;

async fn publish(store: &dyn KvStore, number: u8) -> kv_storage::Result<Publication> {
    let upload = store.begin(&name(number), OBJECT as u64).await?;
    let mut part = HostBuf::allocate(PART).unwrap();
    for offset in (0..OBJECT).step_by(PART) {
        part.fill(number);
        let written;
        (part, written) = upload.write(offset as u64, part).await;
        written?;
    }
    upload.commit().await
}

/// 64 uploads of 8 MiB at a time through staging for four of them.
//= SEMANTICS.md#s3-staging
#[tokio::test(flavor = "multi_thread")]
async fn sixty_four_uploads_in_flight_hold_no_more_than_the_pool() {
    let server = Server::start();
    let pool = StagingPool::new(HugePages::allocate(4 * OBJECT).unwrap(), PART).unwrap();
    let store = server.open(options().staging(pool.clone())).await.unwrap();
    let mut uploads = JoinSet::new();
    for number in 0..64 {
        let store = store.clone();
        uploads.spawn(async move { publish(&store, number).await });
    }
    while let Some(published) = uploads.join_next().await {
        assert_eq!(published.unwrap().unwrap(), Publication::Published);
    }
    store.idle().await;
    assert_eq!(pool.usage().bytes_high_water, 4 * OBJECT, "all of the pool was used, and no more");
    assert_eq!(pool.usage().bytes_lent, 0);
    for number in 0..64 {
        let mut buffer = HostBuf::allocate(OBJECT).unwrap();
        buffer.fill(0xff);
        let read = store.read(&name(number), vec![kv_storage::ReadPart { offset: 0, buffer }]).await;
        read.result.unwrap().unwrap();
        assert!(read.buffers[0].iter().all(|byte| *byte == number), "object {number} is another");
    }
}

/// More than the kernel's buffers take is stuck in the connection, which nobody waits for any more.
//= SEMANTICS.md#s3-stalled
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_stops_reading_keeps_no_staging() {
    let server = Server::start();
    let pool = StagingPool::new(HugePages::allocate(OBJECT).unwrap(), PART).unwrap();
    let second = Duration::from_secs(1);
    let impatient = Deadlines { first_byte: second, whole: second, ..Deadlines::default() };
    let store = server.open(options().staging(pool.clone()).deadlines(impatient)).await.unwrap();
    server.script.inject(Method::PUT, 1, Fault::Hang);
    let left = tokio::time::timeout(second / 2, publish(&store, 1)).await;
    assert!(left.is_err(), "the server hangs");
    tokio::time::timeout(30 * second, store.idle()).await.unwrap(); // the connection is given up
    assert_eq!(pool.usage().bytes_lent, 0);
    assert_eq!(publish(&store, 2).await.unwrap(), Publication::Published);
}
