//! `Tiered`: what is served from the tier, what is not, and how large it gets.

use std::sync::Arc;
use std::time::Duration;

use kv_format::RecordName;
use kv_memory::HostBuf;
use kv_storage::fault::{Injection, When};
use kv_storage::{
    ByteRange, ErrorKind, Fault, KvStore, MemoryStore, Next, ObjectMeta, Operation, Publication, ReadPart,
    ReadSink, Setback, Tiered, TieredOptions,
};

use super::{name, part, publish};

struct Scene {
    front: Fault,
    back: Fault,
    shared: MemoryStore,
    store: Tiered,
}

fn scene(options: TieredOptions) -> Scene {
    let shared = MemoryStore::new();
    let (front, back) = (Fault::new(Arc::new(MemoryStore::new())), Fault::new(Arc::new(shared.clone())));
    let store = Tiered::new(Arc::new(front.clone()), Arc::new(back.clone()), options);
    Scene { front, back, shared, store }
}

fn roomy() -> Scene {
    scene(TieredOptions::new(1000))
}

/// The whole object of 100 bytes.
async fn read(store: &dyn KvStore, n: u8) -> kv_storage::Result<Option<Vec<u8>>> {
    let outcome = store.read(&name(n), vec![part(0, 40), part(40, 60)]).await;
    Ok(outcome.result?.map(|_| outcome.buffers.iter().flat_map(|buffer| buffer.to_vec()).collect()))
}

//= SEMANTICS.md#tiered-through
//= SEMANTICS.md#tiered-checked
#[tokio::test]
async fn what_was_saved_or_loaded_here_is_read_here_while_it_is_what_is_stored() {
    let Scene { back, shared, store, .. } = roomy();
    assert_eq!(publish(&store, &name(1), &[1; 100]).await.unwrap(), Publication::Published);
    assert!(shared.head(&name(1)).await.unwrap().is_some(), "it is in the store behind");
    publish(&shared, &name(2), &[2; 100]).await.unwrap();
    assert_eq!(read(&store, 2).await.unwrap().unwrap(), [2; 100]);
    let reads = back.calls(Operation::Read);
    for n in [1, 2] {
        assert_eq!(read(&store, n).await.unwrap().unwrap(), [n; 100]);
        let meta = store.read(&name(n), vec![part(10, 5)]).await.result.unwrap();
        assert_eq!(meta, shared.head(&name(n)).await.unwrap());
    }
    assert_eq!(back.calls(Operation::Read), reads, "no byte came from behind");
    let state = store.state();
    assert_eq!((state.hits, state.misses, state.objects, state.bytes), (4, 1, 2, 200));
    // Another host deletes one, and replaces the other.
    shared.delete(&name(1)).await.unwrap();
    shared.delete(&name(2)).await.unwrap();
    publish(&shared, &name(2), &[9; 100]).await.unwrap();
    assert_eq!(read(&store, 1).await.unwrap(), None);
    assert_eq!(read(&store, 2).await.unwrap().unwrap(), [9; 100]);
    assert_eq!(store.state().stale, 2);
    // Only what was saved by this call is kept: another's object of the name is not ours.
    assert_eq!(publish(&store, &name(2), &[7; 100]).await.unwrap(), Publication::AlreadyExists);
    assert_eq!(read(&store, 2).await.unwrap().unwrap(), [9; 100]);
}

//= SEMANTICS.md#tiered-checked
#[tokio::test]
async fn a_store_behind_that_does_not_answer_is_an_error_and_no_hit() {
    let Scene { back, store, .. } = roomy();
    publish(&store, &name(1), &[1; 100]).await.unwrap();
    back.inject(When::next(Operation::Head), Injection::Fail(ErrorKind::Unavailable));
    assert_eq!(read(&store, 1).await.unwrap_err().kind(), ErrorKind::Unavailable);
    assert_eq!(read(&store, 1).await.unwrap().unwrap(), [1; 100]);
}

//= SEMANTICS.md#tiered-trust
#[tokio::test(start_paused = true)]
async fn a_deleted_object_is_served_for_no_longer_than_was_allowed() {
    let trusted = Duration::from_secs(5);
    let Scene { back, shared, store, .. } = scene(TieredOptions::new(1000).trust_for(trusted));
    publish(&store, &name(1), &[1; 100]).await.unwrap();
    let heads = back.calls(Operation::Head);
    shared.delete(&name(1)).await.unwrap();
    tokio::time::sleep(Duration::from_millis(4999)).await;
    assert_eq!(read(&store, 1).await.unwrap().unwrap(), [1; 100]);
    assert_eq!(back.calls(Operation::Head), heads, "nobody was asked");
    tokio::time::sleep(Duration::from_millis(1)).await;
    assert_eq!(read(&store, 1).await.unwrap(), None);
    // What this handle itself deletes or quarantines is not served at all.
    for quarantined in [false, true] {
        publish(&store, &name(1), &[2; 100]).await.unwrap();
        assert_eq!(read(&store, 1).await.unwrap().unwrap(), [2; 100]);
        let version = store.head(&name(1)).await.unwrap().unwrap().version;
        match quarantined {
            true => assert!(store.quarantine(&name(1), &version).await.unwrap()),
            false => assert!(store.delete(&name(1)).await.unwrap()),
        }
        assert_eq!(read(&store, 1).await.unwrap(), None);
    }
}

//= SEMANTICS.md#tiered-bounded
#[tokio::test]
async fn the_tier_holds_no_more_than_it_may_and_lets_the_least_used_go() {
    let Scene { front, store, shared, .. } = scene(TieredOptions::new(250));
    let front_bytes = async || {
        let listed = front.list(&name(1).namespace, None, 100).await.unwrap();
        listed.iter().map(|meta| meta.len).sum::<u64>()
    };
    publish(&store, &name(1), &[1; 100]).await.unwrap();
    publish(&store, &name(2), &[2; 100]).await.unwrap();
    read(&store, 1).await.unwrap().unwrap();
    publish(&store, &name(3), &[3; 100]).await.unwrap();
    assert_eq!((front_bytes().await, store.state().evicted), (200, 1));
    let misses = store.state().misses;
    read(&store, 1).await.unwrap().unwrap();
    assert_eq!(store.state().misses, misses, "the one that was used stayed");
    read(&store, 2).await.unwrap().unwrap();
    assert_eq!(store.state().misses, misses + 1);
    // One that is larger than the tier is only stored behind.
    publish(&store, &name(4), &[4; 251]).await.unwrap();
    assert!(shared.head(&name(4)).await.unwrap().is_some());
    assert!(front.head(&name(4)).await.unwrap().is_none());
    // Uploads on their way count: the third finds no room, and those that are dropped give it back.
    let uploads = [store.begin(&name(5), 100).await.unwrap(), store.begin(&name(6), 100).await.unwrap()];
    publish(&store, &name(7), &[7; 100]).await.unwrap();
    assert!(front.head(&name(7)).await.unwrap().is_none());
    assert!(front_bytes().await <= 250 && store.state().bytes <= 250);
    drop(uploads);
    assert_eq!(store.state().bytes, 0);
    publish(&store, &name(8), &[8; 100]).await.unwrap();
    assert_eq!((store.state().bytes, front_bytes().await), (100, 100));
}

//= SEMANTICS.md#tiered-front-fails
#[tokio::test]
async fn a_tier_that_fails_makes_nothing_fail() {
    for operation in
        [Operation::Begin, Operation::Write, Operation::Commit, Operation::Read, Operation::Delete]
    {
        for kind in [ErrorKind::NoSpace, ErrorKind::Backend] {
            let Scene { front, store, .. } = roomy();
            front.inject(When::every(operation), Injection::Fail(kind));
            for n in [1, 2] {
                assert_eq!(publish(&store, &name(n), &[n; 100]).await.unwrap(), Publication::Published);
                for _ in 0..2 {
                    assert_eq!(read(&store, n).await.unwrap().unwrap(), [n; 100], "{operation} {kind:?}");
                }
            }
            assert!(store.delete(&name(1)).await.unwrap());
            assert_eq!(read(&store, 1).await.unwrap(), None);
        }
    }
}

//= SEMANTICS.md#tiered-garbled
#[tokio::test]
async fn a_copy_that_is_garbled_is_given_up_before_the_object_is_blamed() {
    let Scene { front, back, store, .. } = roomy();
    publish(&store, &name(1), &[1; 100]).await.unwrap();
    front.inject(When::every(Operation::Read), Injection::Flip { at: 50, bit: 0 });
    assert_ne!(read(&store, 1).await.unwrap().unwrap(), [1; 100]);
    assert!(store.another_way(&name(1), Setback::Corrupt));
    assert_eq!(read(&store, 1).await.unwrap().unwrap(), [1; 100]);
    assert_eq!(back.calls(Operation::Read), 1);
    front.clear();
    assert_eq!(read(&store, 1).await.unwrap().unwrap(), [1; 100], "and is copied again");
    assert_eq!(back.calls(Operation::Read), 1);
    assert!(store.delete(&name(1)).await.unwrap());
    assert!(!store.another_way(&name(1), Setback::Corrupt));
}

//= SEMANTICS.md#tiered-records
#[tokio::test]
async fn records_and_listings_are_those_of_the_store_behind() {
    let Scene { front, shared, store, .. } = roomy();
    let record = RecordName::request("r", 0);
    let version = store.create_record(&record, b"one").await.unwrap().unwrap();
    store.replace_record(&record, &version, b"two").await.unwrap().unwrap();
    assert_eq!(shared.read_record(&record).await.unwrap(), store.read_record(&record).await.unwrap());
    publish(&shared, &name(1), &[1; 100]).await.unwrap();
    assert_eq!(store.list(&name(1).namespace, None, 10).await.unwrap().len(), 1);
    assert_eq!(front.total_calls(), 0);
}

/// Keeps bytes.
#[derive(Default)]
struct Kept(std::sync::Mutex<Vec<u8>>);

impl ReadSink for Kept {
    fn filled(&self, _: &ObjectMeta, _: usize, buffer: HostBuf) -> Next {
        self.0.lock().unwrap().extend_from_slice(&buffer);
        Next::Reuse(buffer)
    }
}

//= SEMANTICS.md#tiered-through
#[tokio::test]
async fn a_streamed_read_of_the_whole_object_leaves_a_copy_and_one_of_a_part_none() {
    let Scene { back, shared, store, .. } = roomy();
    let bytes: Vec<u8> = (0..100).collect();
    publish(&shared, &name(1), &bytes).await.unwrap();
    let stream = async |ranges: &[(u64, usize)]| {
        let ranges = ranges.iter().map(|&(offset, len)| ByteRange { offset, len }).collect();
        let kept = Arc::new(Kept::default());
        let sink = Arc::<Kept>::clone(&kept);
        store
            .read_into(&name(1), ranges, vec![HostBuf::copy_of(&[0; 50]).unwrap()], sink)
            .await
            .unwrap()
            .unwrap();
        kept.0.lock().unwrap().clone()
    };
    assert_eq!(stream(&[(10, 50), (60, 20)]).await, bytes[10..80]);
    assert_eq!((store.state().objects, store.state().bytes), (0, 0));
    assert_eq!(stream(&[(0, 50), (50, 20), (70, 30)]).await, bytes);
    assert_eq!((store.state().objects, store.state().bytes), (1, 100));
    let reads = back.calls(Operation::Read);
    assert_eq!(stream(&[(0, 50), (50, 50)]).await, bytes);
    assert_eq!(back.calls(Operation::Read), reads);
    // A range behind the end is the store's to refuse, and costs no copy.
    let error =
        store.read(&name(1), vec![ReadPart { offset: 99, buffer: HostBuf::copy_of(&[0; 2]).unwrap() }]).await;
    assert_eq!(error.result.unwrap_err().kind(), ErrorKind::OutOfRange);
    assert_eq!(store.state().objects, 1);
}
