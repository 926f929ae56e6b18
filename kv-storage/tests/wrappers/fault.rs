//! What `Fault` does to calls.

use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Waker};

use kv_memory::{HostBuf, HugePages, StagingPool};
use kv_storage::fault::{Injection, When};
use kv_storage::{ErrorKind, Fault, KvStore, MemoryStore, Operation, Publication, ReadPart, Retry};

use super::{DEADLINE, faulty, name, part, publish, read};

#[tokio::test]
async fn reads_are_damaged_where_the_script_says() {
    let (_, fault, mut bytes) = faulty().await;
    fault.inject(When::nth(Operation::Read, 2), Injection::Flip { at: 41, bit: 3 });
    fault.inject(When::nth(Operation::Read, 3), Injection::Zero(38..42));
    let halves = || vec![part(40, 60), part(0, 40)];
    let whole = |bytes: &[u8]| Some(vec![bytes[40..].to_vec(), bytes[..40].to_vec()]);
    assert_eq!(read(&fault, halves()).await.unwrap(), whole(&bytes));
    bytes[41] ^= 8;
    assert_eq!(read(&fault, halves()).await.unwrap(), whole(&bytes));
    bytes[41] ^= 8;
    bytes[38..42].fill(0);
    assert_eq!(read(&fault, halves()).await.unwrap(), whole(&bytes));
    assert_eq!((fault.fired(), fault.calls(Operation::Read)), (2, 3));
}

#[tokio::test]
async fn objects_seem_shorter_longer_or_gone() {
    let (_, fault, bytes) = faulty().await;
    fault.inject(When::always(), Injection::Truncate(50));
    assert_eq!(fault.head(&name(1)).await.unwrap().unwrap().len, 50);
    assert_eq!(read(&fault, vec![part(10, 40)]).await.unwrap().unwrap(), [&bytes[10..50]]);
    assert_eq!(read(&fault, vec![part(10, 41)]).await.unwrap_err().kind(), ErrorKind::OutOfRange);
    fault.clear();

    fault.inject(When::always(), Injection::Extend(20));
    assert_eq!(fault.head(&name(1)).await.unwrap().unwrap().len, 120);
    let mut longer = bytes.clone();
    longer.resize(120, 0);
    let parts = vec![part(0, 50), part(90, 30), part(110, 10), part(120, 0)];
    let found = read(&fault, parts).await.unwrap().unwrap();
    assert_eq!(found, [&longer[..50], &longer[90..], &longer[110..], &[]]);
    assert_eq!(read(&fault, vec![part(0, 121)]).await.unwrap_err().kind(), ErrorKind::OutOfRange);
    fault.clear();

    fault.inject(When::always(), Injection::Vanish);
    assert_eq!(fault.head(&name(1)).await.unwrap(), None);
    assert_eq!(read(&fault, vec![part(0, 1)]).await.unwrap(), None);
    let before = fault.fired();
    assert_eq!(fault.list(&name(1).namespace, None, 10).await.unwrap().len(), 1);
    assert_eq!(fault.fired(), before, "a listing cannot vanish, and must not count as a fault");
}

#[tokio::test]
async fn calls_fail_before_or_after_their_effect() {
    let (store, fault, _) = faulty().await;
    fault.inject(When::next(Operation::Commit), Injection::Fail(ErrorKind::Unavailable));
    fault.inject(When::nth(Operation::Commit, 2), Injection::FailAfter(ErrorKind::Backend));
    let error = publish(&fault, &name(2), b"x").await.unwrap_err();
    assert_eq!((error.kind(), error.retry()), (ErrorKind::Unavailable, Retry::Later));
    assert_eq!(store.head(&name(2)).await.unwrap(), None);
    assert_eq!(publish(&fault, &name(2), b"x").await.unwrap_err().kind(), ErrorKind::Backend);
    assert!(store.head(&name(2)).await.unwrap().is_some(), "published, and the answer was lost");
    assert_eq!(publish(&fault, &name(2), b"x").await.unwrap(), Publication::AlreadyExists);

    // A failed write gives its buffer back and may be made again.
    fault.inject(When::next(Operation::Write), Injection::Fail(ErrorKind::NoSpace));
    let upload = fault.begin(&name(3), 4).await.unwrap();
    let (buffer, result) = upload.write(0, HostBuf::copy_of(b"four").unwrap()).await;
    assert_eq!(result.unwrap_err().kind(), ErrorKind::NoSpace);
    assert_eq!(&*buffer, b"four");
    upload.write(0, buffer).await.1.unwrap();
    assert_eq!(upload.commit().await.unwrap(), Publication::Published);
}

#[tokio::test]
async fn predicates_choose_by_object_and_the_hook_sees_every_call() {
    let (_, fault, _) = faulty().await;
    let seen = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&seen);
    fault.on_call(move |call| log.lock().unwrap().push((call.operation, call.number, call.total)));
    let about_two = When::every(Operation::Head).matching(|call| call.object == Some(name(2)));
    fault.inject(about_two, Injection::Fail(ErrorKind::PermissionDenied));
    fault.head(&name(1)).await.unwrap();
    let error = fault.head(&name(2)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PermissionDenied);
    assert_eq!(error.to_string(), "fault(memory): injected fault in head");
    fault.delete(&name(1)).await.unwrap();
    let expected = [(Operation::Head, 1, 1), (Operation::Head, 2, 2), (Operation::Delete, 1, 3)];
    assert_eq!(*seen.lock().unwrap(), expected);
    assert_eq!(fault.total_calls(), 3);
}

//= SEMANTICS.md#hung-stranded
#[tokio::test]
async fn hung_calls_are_stranded_keep_their_buffers_and_mark_the_store_down() {
    let pool = StagingPool::new(HugePages::allocate(4 << 20).unwrap(), 1 << 20).unwrap();
    let store = MemoryStore::new();
    publish(&store, &name(1), &[1; 100]).await.unwrap();
    let fault = Fault::with_stranded_bound(Arc::new(store.clone()), 3);
    let hold = fault.hang(When::every(Operation::Read));
    for stranded in 1..=3 {
        let mut buffer = pool.acquire().await;
        buffer.set_len(100).unwrap();
        let object = name(1);
        let mut call = fault.read(&object, vec![ReadPart { offset: 0, buffer }]);
        let polled = call.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        assert!(polled.is_pending());
        assert_eq!(fault.health().in_flight, 1);
        drop(call);
        let health = fault.health();
        assert_eq!((health.in_flight, health.stranded), (0, stranded));
        assert_eq!(health.down, stranded == 3);
        assert_eq!(pool.usage().bytes_lent, stranded << 20, "the dropped call gave its buffer back");
    }
    let error = fault.head(&name(1)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.to_string().contains("3 operations hang"), "{error}");

    hold.release();
    tokio::time::timeout(DEADLINE, fault.idle()).await.unwrap();
    assert_eq!(pool.usage().bytes_lent, 0, "idle, and buffers are missing");
    assert!(!fault.health().down);
    assert_eq!(read(&fault, vec![part(0, 100)]).await.unwrap().unwrap(), [[1; 100]]);
}

#[tokio::test]
async fn a_released_call_answers_its_caller_who_waited() {
    let (_, fault, bytes) = faulty().await;
    let hold = fault.hang(When::next(Operation::Read));
    let mut call = pin!(read(&fault, vec![part(0, 100)]));
    assert!(call.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    drop(hold);
    let answer = tokio::time::timeout(DEADLINE, call).await.unwrap();
    assert_eq!(answer.unwrap().unwrap(), [bytes]);
    assert_eq!(fault.health(), kv_storage::StoreHealth::default());
}

#[tokio::test]
async fn an_upload_of_which_a_hung_write_was_dropped_cannot_be_committed() {
    let (store, fault, _) = faulty().await;
    let hold = fault.hang(When::next(Operation::Write));
    let upload = fault.begin(&name(2), 4).await.unwrap();
    let mut write = upload.write(0, HostBuf::copy_of(b"hung").unwrap());
    assert!(write.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    drop(write);
    hold.release();
    tokio::time::timeout(DEADLINE, fault.idle()).await.unwrap();
    assert_eq!(upload.commit().await.unwrap_err().kind(), ErrorKind::Invalid);
    assert_eq!(store.head(&name(2)).await.unwrap(), None);
}

#[tokio::test]
async fn the_hook_may_act_on_the_store() {
    let (store, fault, _) = faulty().await;
    let deletions = Arc::new(AtomicU64::new(0));
    let (inner, count) = (store.clone(), Arc::clone(&deletions));
    fault.on_call(move |call| {
        if call.operation == Operation::Read {
            let object = call.object.unwrap();
            let mut delete = pin!(inner.delete(&object));
            assert!(delete.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready());
            count.fetch_add(1, Ordering::Relaxed);
        }
    });
    assert_eq!(read(&fault, vec![part(0, 1)]).await.unwrap(), None, "deleted between lookup and read");
    assert_eq!(deletions.load(Ordering::Relaxed), 1);
}
