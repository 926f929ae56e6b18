//! The two stores without files.

use kv_format::RecordName;
use kv_memory::HostBuf;
use kv_storage::{ErrorKind, KvStore, MAX_RECORD_BYTES, MemoryStore, NullStore, Publication};

use super::{faulty, name, part, publish, read};

//= SEMANTICS.md#null-swallows
//= SEMANTICS.md#null-misses
//= SEMANTICS.md#null-checks
#[tokio::test]
async fn null_swallows_writes_misses_reads_and_checks_sizes() {
    let store = NullStore;
    for _ in 0..2 {
        assert_eq!(publish(&store, &name(1), b"gone").await.unwrap(), Publication::Published);
    }
    assert_eq!(read(&store, vec![part(0, 4)]).await.unwrap(), None);
    assert_eq!(store.head(&name(1)).await.unwrap(), None);
    assert_eq!(store.list(&name(1).namespace, None, 10).await.unwrap(), []);
    let record = RecordName::request("r", 0);
    let version = store.create_record(&record, b"gone").await.unwrap().unwrap();
    assert_eq!(store.read_record(&record).await.unwrap(), None);
    assert_eq!(store.replace_record(&record, &version, b"gone").await.unwrap(), None);

    let long = vec![0; MAX_RECORD_BYTES + 1];
    let too_long = store.create_record(&record, &long).await.unwrap_err();
    let upload = store.begin(&name(1), 3).await.unwrap();
    let behind = upload.write(0, HostBuf::copy_of(b"four").unwrap()).await.1.unwrap_err();
    let incomplete = upload.commit().await.unwrap_err();
    for error in [too_long, behind, incomplete] {
        assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
    }
}

//= SEMANTICS.md#memory-full
#[tokio::test]
async fn memory_refuses_what_cannot_be_held() {
    let store = MemoryStore::new();
    for len in [u64::MAX, 1 << 62] {
        let error = store.begin(&name(1), len).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NoSpace, "{error}");
    }
}

//= SEMANTICS.md#memory-volatile
#[tokio::test]
async fn memory_lives_as_long_as_a_handle() {
    let (store, fault, bytes) = faulty().await;
    drop(store);
    assert_eq!(read(&fault, vec![part(0, 100)]).await.unwrap().unwrap(), [bytes]);
    drop(fault);
    assert_eq!(MemoryStore::new().head(&name(1)).await.unwrap(), None);
}
