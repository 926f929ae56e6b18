//! What a user of the pool relies on.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::Duration;

use kv_memory::{BUFFER_ALIGNMENT, ErrorKind, HostBuf, HugePages, StagingPool};

fn pool(parts: usize) -> StagingPool {
    StagingPool::new(HugePages::allocate(2 << 20).unwrap(), (2 << 20) / parts).unwrap()
}

#[tokio::test]
async fn buffers_are_aligned_disjoint_and_come_back() {
    let pool = pool(8);
    let mut all = pool.acquire_many(8).await;
    for (index, buffer) in all.iter_mut().enumerate() {
        assert_eq!(buffer.as_ptr().align_offset(BUFFER_ALIGNMENT), 0);
        buffer.fill(u8::try_from(index).unwrap());
        let start = pool.region().base().as_ptr().addr();
        assert!((start..start + pool.region().len()).contains(&buffer.as_ptr().addr()));
    }
    for (index, buffer) in all.iter().enumerate() {
        assert!(
            buffer.iter().all(|&byte| usize::from(byte) == index),
            "buffer {index} was overwritten by another"
        );
    }
    assert!(pool.try_acquire().is_none());
    drop(all);
    let usage = pool.usage();
    assert_eq!((usage.bytes_lent, usage.bytes_high_water, usage.bytes_total), (0, 2 << 20, 2 << 20));
}

#[tokio::test]
async fn an_empty_pool_makes_callers_wait_and_a_dropped_wait_leaves_nothing() {
    let pool = pool(2);
    let held = pool.acquire_many(2).await;
    assert!(tokio::time::timeout(Duration::from_millis(1), pool.acquire()).await.is_err());
    let waiting = tokio::spawn({
        let pool = pool.clone();
        async move { pool.acquire_many(2).await.len() }
    });
    drop(held);
    assert_eq!(waiting.await.unwrap(), 2);
    assert_eq!(pool.usage().bytes_lent, 0);
}

#[tokio::test]
async fn asking_for_more_than_there_is_gives_all_and_does_not_hang() {
    let pool = pool(2);
    assert_eq!(pool.acquire_many(100).await.len(), 2);
}

#[test]
fn a_buffer_outlives_its_pool() {
    let pool = pool(2);
    let mut buffer = pool.try_acquire().unwrap();
    drop(pool);
    buffer.fill(7);
    assert!(buffer.iter().all(|&byte| byte == 7));
}

#[test]
fn lengths_are_checked() {
    let mut buffer = HostBuf::copy_of(b"abc").unwrap();
    assert_eq!(&buffer[..], b"abc");
    let too_long = buffer.capacity() + 1;
    assert_eq!(buffer.set_len(too_long).unwrap_err().kind(), ErrorKind::Invalid);
}

#[test]
fn senseless_sizes_are_refused() {
    assert_eq!(HugePages::allocate(0).unwrap_err().kind(), ErrorKind::Invalid);
    for part in [0, 100, 4 << 20] {
        let region = HugePages::allocate(2 << 20).unwrap();
        assert_eq!(
            StagingPool::new(region, part).unwrap_err().kind(),
            ErrorKind::Invalid,
            "part of {part} bytes"
        );
    }
    let huge = HugePages::allocate(usize::MAX / 4).unwrap_err();
    assert_eq!(huge.kind(), ErrorKind::OutOfMemory);
}
