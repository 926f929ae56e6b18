//! The memory of uploads and reads: bounded by the pool, however many there are, and nothing the size of an object beside it.

use kv_memory::{HostBuf, HugePages, StagingPool};
use kv_storage::{ErrorKind, KvStore, Publication};
use tokio::task::JoinSet;

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

//= SEMANTICS.md#s3-too-large
#[tokio::test]
async fn an_object_larger_than_the_staging_is_refused_at_the_begin() {
    let server = Server::start();
    let pool = StagingPool::new(HugePages::allocate(2 * PART).unwrap(), PART).unwrap();
    let store = server.open(options().staging(pool)).await.unwrap();
    let error = store.begin(&name(1), 3 * PART as u64).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(
        error.to_string().contains("3145728 bytes") && error.to_string().contains("staging_mib="),
        "{error}"
    );
}
