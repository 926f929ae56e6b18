//! Servers that keep less than AWS does: found out at open, told, and handled.

use std::sync::atomic::{AtomicBool, Ordering};

use kv_format::RecordName;
use kv_storage::{ErrorKind, KvStore, Publication};

use crate::s3_server::backend::Faults;
use crate::s3_server::{Server, options};
use crate::scene::{bytes, name, publish, read};

fn server_with(fault: impl Fn(&Faults) -> &AtomicBool) -> Server {
    let server = Server::start();
    fault(&server.backend.faults).store(true, Ordering::Relaxed);
    server
}

/// Row 38: names are digests of what is stored, so that a second upload of one name is the same again.
//= SEMANTICS.md#s3-ignores-create
#[tokio::test]
async fn a_server_that_ignores_if_none_match_is_found_out_and_refuses_new_records() {
    let server = server_with(|faults| &faults.ignores_if_none_match);
    let store = server.open(options()).await.unwrap();
    assert!(!store.conditions().create && store.conditions().replace);
    assert!(!store.capabilities().atomic_create);
    assert_eq!(publish(&store, &name(1), &bytes(1)).await.unwrap(), Publication::Published);
    assert_eq!(publish(&store, &name(1), &bytes(2)).await.unwrap(), Publication::AlreadyExists);
    assert_eq!(read(&store, &name(1)).await.unwrap().unwrap().0, bytes(1));
    let error = store.create_record(&RecordName::request("id", 0), b"one").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.to_string().contains("the server ignores If-None-Match"), "{error}");
    assert!(server.keys().iter().all(|key| !key.starts_with("probe/")), "{:?}", server.keys());
}

//= SEMANTICS.md#s3-ignores-replace
#[tokio::test]
async fn a_server_that_ignores_if_match_refuses_to_replace_records() {
    let server = server_with(|faults| &faults.ignores_if_match);
    let store = server.open(options()).await.unwrap();
    assert!(store.conditions().create && !store.conditions().replace);
    let record = RecordName::request("id", 0);
    let version = store.create_record(&record, b"one").await.unwrap().unwrap();
    let error = store.replace_record(&record, &version, b"two").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert_eq!(store.read_record(&record).await.unwrap().unwrap().body, b"one");
}

//= SEMANTICS.md#s3-probe
#[tokio::test]
async fn a_server_that_drops_metadata_is_refused_and_one_without_checksums_is_not() {
    let server = server_with(|faults| &faults.drops_metadata);
    let error = server.open(options()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    assert!(error.to_string().contains("does not keep metadata"), "{error}");
    let server = server_with(|faults| &faults.knows_no_checksum);
    let store = server.open(options()).await.unwrap();
    assert_eq!(publish(&store, &name(1), &bytes(1)).await.unwrap(), Publication::Published);
    assert!(server.keys().iter().all(|key| !key.starts_with("probe/")), "{:?}", server.keys());
}

/// Without a mark the version is what S3 knows: an object of another program can be read, and quarantined.
//= SEMANTICS.md#s3-quarantine
#[tokio::test]
async fn quarantine_keeps_the_object_and_takes_those_of_other_programs_too() {
    let server = Server::start();
    let store = server.open(options()).await.unwrap();
    publish(&store, &name(1), &bytes(1)).await.unwrap();
    for object in server.backend.objects.lock().unwrap().values_mut() {
        object.metadata = None;
    }
    let (read_bytes, meta) = read(&store, &name(1)).await.unwrap().unwrap();
    assert_eq!(read_bytes, bytes(1));
    assert!(store.quarantine(&name(1), &meta.version).await.unwrap());
    assert!(store.head(&name(1)).await.unwrap().is_none());
    let keys = server.keys();
    assert!(keys.len() == 1 && keys[0].starts_with("quarantine/"), "{keys:?}");
}
