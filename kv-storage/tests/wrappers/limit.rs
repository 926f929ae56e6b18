//! `Limit`: never more at a time, in turn, and nothing is lost when callers leave.

use std::sync::Arc;

use kv_memory::HostBuf;
use kv_storage::fault::When;
use kv_storage::{Fault, KvStore, Limit, Operation, ReadOutcome};

use super::{faulty, is_pending, name, part, waiting};

const PAGE: usize = 4096;

/// A store of which every read hangs, behind a limit.
async fn limited(operations: usize, bytes: usize) -> (Fault, kv_storage::fault::Hold, Limit) {
    let (_, fault, _) = faulty().await;
    let hold = fault.hang(When::every(Operation::Read));
    let limit = Limit::new(Arc::new(fault.clone()), operations, bytes as u64);
    (fault, hold, limit)
}

fn reading(limit: &Limit, bytes: usize) -> std::pin::Pin<Box<dyn Future<Output = ReadOutcome> + Send>> {
    let limit = limit.clone();
    let mut part = part(0, bytes.max(100));
    part.buffer.set_len(bytes).unwrap();
    waiting(async move { limit.read(&name(1), vec![part]).await })
}

//= SEMANTICS.md#limit-in-flight
#[tokio::test]
async fn never_more_calls_and_bytes_at_a_time_than_allowed() {
    let (fault, hold, limit) = limited(3, 4 * PAGE).await;
    assert_eq!(limit.capabilities().concurrency, 3);
    let mut calls: Vec<_> = (0..10).map(|_| reading(&limit, 10)).collect();
    assert_eq!(fault.calls(Operation::Read), 3);
    fault.clear();
    hold.release();
    for (number, call) in calls.drain(..).enumerate() {
        assert!(call.await.result.is_ok(), "call {number}");
    }
    assert_eq!(fault.calls(Operation::Read), 10);

    let (fault, _hold, limit) = limited(100, 4 * PAGE).await;
    let calls: Vec<_> = (0..5).map(|_| reading(&limit, 2 * PAGE)).collect();
    assert_eq!(fault.calls(Operation::Read), 2);
    drop(calls);
    // What is larger than the limit passes alone, instead of never.
    let _large = reading(&limit, 100 * PAGE);
    assert_eq!(fault.calls(Operation::Read), 3);
    let _next = reading(&limit, 1);
    assert_eq!(fault.calls(Operation::Read), 3);
    // What moves no bytes does not wait for those that do.
    limit.head(&name(1)).await.unwrap();
}

//= SEMANTICS.md#limit-fair
#[tokio::test]
async fn a_large_call_is_not_overtaken_by_small_ones() {
    let (fault, _hold, limit) = limited(100, 4 * PAGE).await;
    let first = reading(&limit, 3 * PAGE);
    let mut large = reading(&limit, 4 * PAGE);
    let mut small = reading(&limit, PAGE);
    assert_eq!(
        fault.calls(Operation::Read),
        1,
        "the small call overtook the large one, for which it would fit"
    );
    drop(first);
    assert!(is_pending(&mut small));
    assert_eq!(fault.calls(Operation::Read), 1);
    assert!(is_pending(&mut large));
    assert_eq!(fault.calls(Operation::Read), 2, "it is the large one's turn");
    drop(large);
    assert!(is_pending(&mut small));
    assert_eq!(fault.calls(Operation::Read), 3);
}

//= SEMANTICS.md#limit-leave
#[tokio::test]
async fn callers_who_leave_give_their_places_and_buffers_back() {
    let (fault, hold, limit) = limited(1, PAGE).await;
    for round in 1..=20 {
        let running = reading(&limit, 10);
        let waiting = reading(&limit, 10);
        assert_eq!(fault.calls(Operation::Read), round, "one of two passes");
        if round % 2 == 0 {
            drop((running, waiting));
        } else {
            drop((waiting, running));
        }
    }
    assert_eq!(limit.health().stranded, 20, "a call that hangs does not block the others");
    // A write that waits has not begun: the upload can still be committed.
    let upload = limit.begin(&name(2), 4).await.unwrap();
    let running = reading(&limit, 10);
    drop(waiting(upload.write(0, HostBuf::copy_of(b"left").unwrap())));
    drop(running);
    upload.write(0, HostBuf::copy_of(b"four").unwrap()).await.1.unwrap();
    upload.commit().await.unwrap();
    hold.release();
    tokio::time::timeout(super::DEADLINE, limit.idle()).await.unwrap();
}
