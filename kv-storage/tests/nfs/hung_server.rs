//! A server that does not answer.

use std::time::Duration;

use kv_storage::{DownReason, ErrorKind, KvStore, PosixOptions, StoreHealth};

use crate::lab::{DEADLINE, Mounted, TwoHosts, contents, control, new_name, publish, read};

const BOUND: usize = 4;

/// Lets the server go on, also when the test fails.
struct Resume;

impl Drop for Resume {
    fn drop(&mut self) {
        control("resume-server");
    }
}

//= SEMANTICS.md#nfs-hung
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs two hosts: cargo xtask nfs-lab"]
async fn callers_leave_at_their_deadlines_and_the_store_comes_back_with_the_server() {
    let hosts = TwoHosts::with(Mounted::Recommended, PosixOptions::default().stranded_bound(BOUND)).await;
    let store = &hosts.here;
    let (name, bytes) = (new_name(), contents(1, 100_000));
    publish(store, &name, &bytes).await;
    assert_eq!(read(store, &name, bytes.len()).await.unwrap().as_ref(), Some(&bytes));
    store.idle().await;

    control("stop-server");
    let resume = Resume;
    for stranded in 1..=BOUND {
        let late = tokio::time::timeout(Duration::from_millis(300), read(store, &name, bytes.len())).await;
        assert!(late.is_err(), "a stopped server answered: {late:?}");
        let down = stranded == BOUND;
        let reason = down.then_some(DownReason::Stranded);
        let health = StoreHealth { in_flight: 0, stranded, down, reason };
        assert_eq!(store.health(), health);
    }
    // At the bound nobody waits any more, and no more is stranded.
    for _ in 0..20 {
        let refused = tokio::time::timeout(DEADLINE, store.head(&name)).await.expect("it waits");
        assert_eq!(refused.unwrap_err().kind(), ErrorKind::Unavailable);
        let refused = tokio::time::timeout(DEADLINE, store.begin(&name, 1)).await.expect("it waits");
        assert_eq!(refused.unwrap_err().kind(), ErrorKind::Unavailable);
    }
    assert_eq!(store.health().stranded, BOUND);

    drop(resume);
    tokio::time::timeout(DEADLINE, store.idle())
        .await
        .expect("the server goes on, and a call does not come back");
    assert_eq!(store.health(), StoreHealth::default());
    assert_eq!(read(store, &name, bytes.len()).await.unwrap().as_ref(), Some(&bytes));
    publish(store, &new_name(), &bytes).await;
}
