//! `Striped`: where bytes lie, that an object appears and goes as one, and what a sweep removes.

use std::sync::Arc;
use std::time::Duration;

use kv_format::ObjectName;
use kv_memory::HostBuf;
use kv_storage::fault::{Injection, When};
use kv_storage::striped::STRIPES_NAMESPACE;
use kv_storage::{ErrorKind, Fault, KvStore, MemoryStore, Operation, Publication, ReadPart, Striped};

use super::{name, publish};

/// Three spans, the last one short.
const LEN: usize = 3 * 4096 - 100;
const DAY: Duration = Duration::from_secs(24 * 3600);

struct Scene {
    members: Vec<Fault>,
    store: Striped,
}

fn scene() -> Scene {
    let members: Vec<Fault> = (0..3).map(|_| Fault::new(Arc::new(MemoryStore::new()))).collect();
    let stores = members.iter().map(|member| Arc::new(member.clone()) as Arc<dyn KvStore>).collect();
    Scene { members, store: Striped::new(stores).unwrap() }
}

fn bytes(seed: u8) -> Vec<u8> {
    (0..LEN).map(|at| u8::try_from(at % 251).unwrap() ^ seed).collect()
}

async fn read(store: &dyn KvStore, name: &ObjectName) -> kv_storage::Result<Option<Vec<u8>>> {
    let cut = [(0, 1000), (1000, 4000), (5000, LEN - 5000)];
    let parts =
        cut.map(|(offset, len)| ReadPart { offset, buffer: HostBuf::copy_of(&vec![0xee; len]).unwrap() });
    let outcome = store.read(name, parts.into()).await;
    Ok(outcome.result?.map(|_| outcome.buffers.iter().flat_map(|buffer| buffer.to_vec()).collect()))
}

/// How many spans each member holds.
async fn spans(members: &[Fault]) -> Vec<usize> {
    let mut found = Vec::new();
    for member in members {
        found.push(member.list(&STRIPES_NAMESPACE, None, 1000).await.unwrap().len());
    }
    found
}

//= SEMANTICS.md#striped-spread
#[tokio::test]
async fn every_member_holds_a_span_and_a_small_object_lies_in_one() {
    let Scene { members, store } = scene();
    publish(&store, &name(1), &bytes(1)).await.unwrap();
    assert_eq!(spans(&members).await, [1, 1, 1]);
    assert_eq!(read(&store, &name(1)).await.unwrap().unwrap(), bytes(1));
    for member in &members {
        let listed = member.list(&STRIPES_NAMESPACE, None, 10).await.unwrap();
        assert!(listed[0].len <= 4096 + 256, "{listed:?}");
    }
    for n in 2..60 {
        publish(&store, &name(n), &[n; 10]).await.unwrap();
    }
    let spread = spans(&members).await;
    assert_eq!(spread.iter().sum::<usize>(), 3 + 58);
    assert!(spread.iter().all(|spans| *spans > 8), "{spread:?}");
}

/// Each call of an upload to each member fails, before or after it had its effect.
//= SEMANTICS.md#striped-whole
#[tokio::test]
async fn an_object_is_there_whole_or_not_at_all_whatever_call_fails() {
    let mut failed = 0;
    for member in 0..3 {
        for operation in [Operation::Begin, Operation::Write, Operation::Commit] {
            for nth in 1..=3 {
                for lost in [false, true] {
                    let Scene { members, store } = scene();
                    let kind = ErrorKind::Unavailable;
                    let injection = if lost { Injection::FailAfter(kind) } else { Injection::Fail(kind) };
                    members[member].inject(When::nth(operation, nth), injection);
                    let published = publish(&store, &name(1), &bytes(1)).await;
                    failed += u32::from(published.is_err());
                    let case = format!("{operation} {nth} of member {member}, lost: {lost}");
                    members.iter().for_each(Fault::clear);
                    match published {
                        Ok(answer) => assert_eq!(answer, Publication::Published, "{case}"),
                        Err(_) => assert_eq!(store.head(&name(1)).await.unwrap(), None, "{case}"),
                    }
                    let found = read(&store, &name(1)).await.unwrap();
                    assert!(found.is_none_or(|found| found == bytes(1)), "{case}");
                    // Whatever is left does not stand in the way of the next save.
                    if store.head(&name(1)).await.unwrap().is_none() {
                        publish(&store, &name(1), &bytes(2)).await.unwrap();
                        assert_eq!(read(&store, &name(1)).await.unwrap().unwrap(), bytes(2), "{case}");
                    }
                    store.sweep(Duration::ZERO).await.unwrap();
                    assert_eq!(spans(&members).await, [1, 1, 1], "{case}: swept");
                    assert!(
                        read(&store, &name(1)).await.unwrap().is_some(),
                        "{case}: what is used is not swept"
                    );
                }
            }
        }
    }
    assert!(failed > 20, "{failed} of 54 cases failed at all");
}

//= SEMANTICS.md#striped-deleted
#[tokio::test]
async fn a_deletion_takes_the_index_first_and_then_the_spans() {
    let Scene { members, store } = scene();
    publish(&store, &name(1), &bytes(1)).await.unwrap();
    members.iter().for_each(|member| {
        // The first deletion of whichever member is that of the index or of a span.
        member.inject(
            When::every(Operation::Delete)
                .matching(|call| call.object.is_some_and(|name| name.namespace == STRIPES_NAMESPACE)),
            Injection::Fail(ErrorKind::Unavailable),
        );
    });
    assert!(store.delete(&name(1)).await.unwrap());
    assert_eq!(read(&store, &name(1)).await.unwrap(), None);
    assert_eq!(spans(&members).await, [1, 1, 1], "they could not be removed");
    members.iter().for_each(Fault::clear);
    // Another object of the name is not touched by what is left.
    publish(&store, &name(1), &bytes(2)).await.unwrap();
    assert_eq!(store.sweep(DAY).await.unwrap(), 0, "an upload on its way looks the same");
    assert_eq!(store.sweep(Duration::ZERO).await.unwrap(), 3);
    assert_eq!(spans(&members).await, [1, 1, 1]);
    assert_eq!(read(&store, &name(1)).await.unwrap().unwrap(), bytes(2));
    assert!(store.delete(&name(1)).await.unwrap());
    assert_eq!(spans(&members).await, [0, 0, 0]);
}

//= SEMANTICS.md#striped-quarantine
#[tokio::test]
async fn quarantine_takes_index_and_spans_of_that_version() {
    let Scene { members, store } = scene();
    publish(&store, &name(1), &bytes(1)).await.unwrap();
    let version = store.head(&name(1)).await.unwrap().unwrap().version;
    store.delete(&name(1)).await.unwrap();
    publish(&store, &name(1), &bytes(2)).await.unwrap();
    assert!(!store.quarantine(&name(1), &version).await.unwrap());
    assert_eq!(read(&store, &name(1)).await.unwrap().unwrap(), bytes(2));
    let version = store.head(&name(1)).await.unwrap().unwrap().version;
    assert!(store.quarantine(&name(1), &version).await.unwrap());
    assert_eq!(read(&store, &name(1)).await.unwrap(), None);
    assert_eq!(spans(&members).await, [0, 0, 0]);
}

//= SEMANTICS.md#striped-lost
//= SEMANTICS.md#striped-member-down
#[tokio::test]
async fn an_object_that_lost_a_span_or_a_member_is_an_error_and_no_miss() {
    let Scene { members, store } = scene();
    publish(&store, &name(1), &bytes(1)).await.unwrap();
    for member in &members {
        member.inject(When::every(Operation::Read), Injection::Fail(ErrorKind::Unavailable));
        assert_eq!(read(&store, &name(1)).await.unwrap_err().kind(), ErrorKind::Unavailable);
        member.clear();
    }
    let lost = members[0].list(&STRIPES_NAMESPACE, None, 1).await.unwrap()[0].name;
    members[0].delete(&lost).await.unwrap();
    let error = read(&store, &name(1)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Backend);
    assert!(error.to_string().contains("has lost span"), "{error}");
    // The advice of the message works.
    assert!(store.delete(&name(1)).await.unwrap());
    publish(&store, &name(1), &bytes(2)).await.unwrap();
    assert_eq!(read(&store, &name(1)).await.unwrap().unwrap(), bytes(2));
}

//= SEMANTICS.md#striped-index
#[tokio::test]
async fn what_other_members_wrote_is_refused() {
    let Scene { members, store } = scene();
    publish(&store, &name(1), &bytes(1)).await.unwrap();
    let home = members.iter().find(|member| member.calls(Operation::Commit) == 2).unwrap();
    let two: Vec<Arc<dyn KvStore>> = vec![Arc::new(home.clone()), Arc::new(home.clone())];
    let error = Striped::new(two).unwrap().head(&name(1)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Backend);
    assert!(error.to_string().contains("lies over 3 members: expected 2"), "{error}");
    for planted in [&[1_u8; 10][..], &[0; 72]] {
        home.delete(&name(1)).await.unwrap();
        publish(home, &name(1), planted).await.unwrap();
        let error = store.head(&name(1)).await.unwrap_err();
        assert!(error.to_string().contains("something else than this store wrote it"), "{error}");
    }
    assert!(store.delete(&name(1)).await.unwrap());
    assert_eq!(store.head(&name(1)).await.unwrap(), None);
    assert_eq!(Striped::new(vec![]).unwrap_err().kind(), ErrorKind::Invalid);
}
