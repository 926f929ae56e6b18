//! Bodies that break off, are too short or too long, or never come: never taken for the object.

use std::sync::Arc;
use std::time::Duration;

use hyper::Method;
use kv_memory::HostBuf;
use kv_storage::s3::{Deadlines, S3Options, S3Store};
use kv_storage::{ByteRange, ErrorKind, KvStore, Next, ObjectMeta, Publication, ReadSink};
use object_store::RetryConfig;

use crate::s3_server::script::Fault;
use crate::s3_server::{Server, options};
use crate::scene::{LEN, bytes, name, publish, read};

/// The two ways of a body into its buffers: read straight from its connection, and copied out of what another client read.
async fn both_ways(server: &Server, options: S3Options) -> [S3Store; 2] {
    let none = RetryConfig { max_retries: 0, ..RetryConfig::default() };
    let usual = Arc::new(server.usual_client(none));
    let copied = S3Store::over(usual, "copied", "some/prefix", options.clone()).await.unwrap();
    [server.open(options).await.unwrap(), copied]
}

/// Row 39.
//= SEMANTICS.md#s3-resumed
#[tokio::test]
async fn a_body_that_is_reset_is_asked_for_again_from_where_it_broke_off() {
    let server = Server::start();
    for store in both_ways(&server, options()).await {
        publish(&store, &name(1), &bytes(1)).await.unwrap();
        for cut in [1, 1000, LEN / 2, LEN - 1] {
            server.script.clear();
            server.script.inject(Method::GET, 2, Fault::CutBody(cut));
            assert_eq!(read(&store, &name(1)).await.unwrap().unwrap().0, bytes(1), "{store}, cut at {cut}");
            assert!(server.script.count(&Method::GET) >= 2);
        }
    }
}

//= SEMANTICS.md#s3-resumed
#[tokio::test]
async fn a_body_that_breaks_off_under_a_replacement_is_not_mixed() {
    let server = Server::start();
    let store = server.open(options().deadlines(impatient())).await.unwrap();
    publish(&store, &name(1), &bytes(1)).await.unwrap();
    // The sink is the moment in which the object is replaced: its second range breaks off.
    struct Replaces(Server);
    impl ReadSink for Replaces {
        fn filled(&self, _: &ObjectMeta, index: usize, buffer: HostBuf) -> Next {
            if index == 0 {
                let mut objects = self.0.backend.objects.lock().unwrap();
                let other = objects.values().next().unwrap().clone();
                for object in objects.values_mut() {
                    *object = crate::s3_server::backend::Stored { etag: "other".to_owned(), ..other.clone() };
                }
            }
            Next::Reuse(buffer)
        }
    }
    server.script.inject(Method::GET, 1, Fault::StallBody(200_000));
    let ranges = [0, LEN / 2].map(|offset| ByteRange { offset: offset as u64, len: LEN / 2 });
    let buffers = vec![HostBuf::allocate(LEN).unwrap()];
    let error =
        store.read_into(&name(1), ranges.to_vec(), buffers, Arc::new(Replaces(server))).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    assert!(error.to_string().contains("replaced while it was read"), "{error}");
}

/// Row 40: fewer bytes than the range, with a Content-Length that agrees.
//= SEMANTICS.md#s3-short
#[tokio::test]
async fn a_truncated_answer_is_no_object() {
    let server = Server::start();
    for store in both_ways(&server, options()).await {
        server.script.clear();
        publish(&store, &name(1), &bytes(1)).await.unwrap();
        server.script.inject(Method::GET, 1, Fault::ShortBody(100));
        assert_eq!(read(&store, &name(1)).await.unwrap().unwrap().0, bytes(1), "the rest is asked for");
        server.script.inject(Method::GET, usize::MAX, Fault::ShortBody(1));
        let error = read(&store, &name(1)).await;
        // Each attempt but the last has one byte left to ask for, whose answer is empty.
        let error = error.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    }
}

/// Row 40: a wrong Content-Length, larger than the range.
//= SEMANTICS.md#s3-long
#[tokio::test]
async fn more_bytes_than_were_asked_for_are_an_error() {
    let server = Server::start();
    for store in both_ways(&server, options()).await {
        publish(&store, &name(1), &bytes(1)).await.unwrap();
        server.script.inject(Method::GET, 1, Fault::LongBody(10));
        let error = read(&store, &name(1)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Backend, "{error}");
        assert!(error.to_string().contains("more bytes than it was asked for"), "{error}");
    }
}

#[tokio::test]
async fn a_200_for_a_range_is_an_error() {
    let server = Server::start();
    let store = server.open(options()).await.unwrap();
    publish(&store, &name(1), &bytes(1)).await.unwrap();
    server.script.inject(Method::GET, 1, Fault::Answer(200, "Everything"));
    let error = read(&store, &name(1)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Backend, "{error}");
}

fn impatient() -> Deadlines {
    let millis = Duration::from_millis;
    Deadlines { connect: millis(500), first_byte: millis(200), whole: millis(400) }
}

/// Row 41: connections whose other end never answers.
//= SEMANTICS.md#s3-half-open
#[tokio::test]
async fn a_half_open_connection_ends_at_its_deadline_and_another_is_tried() {
    let server = Server::start();
    let [store, copied] = both_ways(&server, options().deadlines(impatient())).await;
    server.script.inject(Method::PUT, 1, Fault::Hang);
    assert_eq!(publish(&store, &name(1), &bytes(1)).await.unwrap(), Publication::Published);
    for fault in [Fault::Hang, Fault::StallBody(0), Fault::StallBody(100_000)] {
        for store in [&store, &copied] {
            server.script.inject(Method::GET, 1, fault.clone());
            assert_eq!(read(store, &name(1)).await.unwrap().unwrap().0, bytes(1));
        }
    }
    server.script.inject(Method::HEAD, 5, Fault::Hang);
    let error = store.head(&name(1)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    assert!(error.to_string().contains("no answer within 200 ms"), "{error}");
}

//= SEMANTICS.md#s3-dropped
#[tokio::test]
async fn a_caller_that_leaves_ends_its_request_and_has_its_staging_back() {
    let server = Server::start();
    let store = server.open(options()).await.unwrap();
    publish(&store, &name(1), &bytes(1)).await.unwrap();
    server.script.inject(Method::GET, 1, Fault::StallBody(1000));
    server.script.inject(Method::PUT, 1, Fault::Hang);
    let patience = Duration::from_millis(50);
    let left = tokio::time::timeout(patience, read(&store, &name(1))).await;
    assert!(left.is_err(), "the body stalls");
    let left = tokio::time::timeout(patience, publish(&store, &name(2), &bytes(2))).await;
    assert!(left.is_err(), "the server hangs");
    tokio::time::timeout(Duration::from_secs(20), store.idle()).await.expect("what callers left has ended");
    assert_eq!(store.health(), kv_storage::StoreHealth::default());
    assert_eq!(publish(&store, &name(2), &bytes(2)).await.unwrap(), Publication::Published);
}

/// A byte that changes on its way up is noticed by the server.
//= SEMANTICS.md#s3-checksum
#[tokio::test]
async fn a_damaged_upload_is_refused_and_sent_again() {
    let server = Server::start();
    let store = server.open(options()).await.unwrap();
    server.script.inject(Method::PUT, 1, Fault::Damage);
    assert_eq!(publish(&store, &name(1), &bytes(1)).await.unwrap(), Publication::Published);
    assert_eq!(read(&store, &name(1)).await.unwrap().unwrap().0, bytes(1));
    assert_eq!(server.script.count(&Method::PUT), 2);
}

/// Row 8: an upload of one request that dies on its way leaves nothing, not even something to sweep.
//= SEMANTICS.md#s3-nothing-to-sweep
#[tokio::test]
async fn an_abandoned_upload_leaves_nothing_on_the_server() {
    let server = Server::start();
    let store = server.open(options()).await.unwrap();
    drop(store.begin(&name(1), 100).await.unwrap());
    server.script.inject(Method::PUT, 5, Fault::Reset);
    let error = publish(&store, &name(1), &bytes(1)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    store.idle().await;
    assert!(server.keys().is_empty(), "{:?}", server.keys());
    assert_eq!(server.script.count(&Method::POST), 0, "nobody began a multipart upload");
}
