//! What `Metered` counts.

use std::sync::Arc;
use std::task::{Context, Waker};

use kv_format::RecordName;
use kv_storage::fault::{Injection, When};
use kv_storage::{ErrorKind, KvStore, MAX_RECORD_BYTES, Metered, Operation};

use super::{DEADLINE, faulty, name, part, publish, read};

//= SEMANTICS.md#metered-counts
#[tokio::test]
async fn metered_counts_calls_bytes_errors_and_what_is_in_flight() {
    let (_, fault, _) = faulty().await;
    let metered = Metered::new(Arc::new(fault.clone()));
    publish(&metered, &name(2), &[0; 70]).await.unwrap();
    read(&metered, vec![part(0, 30), part(50, 50)]).await.unwrap().unwrap();
    metered.create_record(&RecordName::request("r", 0), &[0; 5]).await.unwrap();
    metered.create_record(&RecordName::request("s", 0), &[0; MAX_RECORD_BYTES + 1]).await.unwrap_err();
    // What a failed write did not write does not count.
    fault.inject(When::next(Operation::Write), Injection::Fail(ErrorKind::NoSpace));
    publish(&metered, &name(3), &[0; 30]).await.unwrap_err();
    let hold = fault.hang(When::every(Operation::Read));
    let calls: Vec<_> = (0..3).map(|_| (name(1), vec![part(0, 10)])).collect();
    let mut running: Vec<_> = calls
        .into_iter()
        .map(|(name, parts)| {
            let metered = metered.clone();
            Box::pin(async move { metered.read(&name, parts).await })
        })
        .collect();
    for call in &mut running {
        assert!(call.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    }
    assert_eq!(metered.snapshot().in_flight, 3);
    running.pop();
    hold.release();
    for call in running {
        tokio::time::timeout(DEADLINE, call).await.unwrap().result.unwrap();
    }
    let snapshot = metered.snapshot();
    let of = |operation| {
        let metrics = snapshot.of(operation);
        (metrics.calls, metrics.errors, metrics.dropped, metrics.bytes)
    };
    assert_eq!(of(Operation::Write), (2, 1, 0, 70));
    assert_eq!(of(Operation::Commit), (1, 0, 0, 0));
    assert_eq!(of(Operation::Read), (4, 0, 1, 80 + 20));
    assert_eq!(of(Operation::CreateRecord), (2, 1, 0, 5));
    assert_eq!(of(Operation::Head), (0, 0, 0, 0));
    assert_eq!((snapshot.in_flight, snapshot.in_flight_high_water), (0, 3));
    assert_eq!(metered.to_string(), "fault(memory)");
}
