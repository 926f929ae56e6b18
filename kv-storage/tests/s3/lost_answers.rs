//! Servers that have too much to do, fail, or lose the answer: what is true afterwards.

use hyper::Method;
use kv_format::RecordName;
use kv_storage::s3::Retries;
use kv_storage::{ErrorKind, KvStore, Publication, Retry};

use crate::s3_server::script::Fault;
use crate::s3_server::{Server, options};
use crate::scene::{bytes, name, publish, read};

//= SEMANTICS.md#s3-throttled
#[tokio::test]
async fn slow_down_503_and_429_are_retried_by_fewer_requests() {
    for (status, code) in [(503, "SlowDown"), (429, "TooManyRequests")] {
        let server = Server::start();
        let store = server.open(options().concurrency(16)).await.unwrap();
        server.script.inject(Method::PUT, 2, Fault::Answer(status, code));
        assert_eq!(publish(&store, &name(1), &bytes(1)).await.unwrap(), Publication::Published);
        assert_eq!(store.request_limit(), 4, "two refusals halve the requests in flight twice");
        server.script.inject(Method::GET, 1, Fault::Answer(status, code));
        assert_eq!(read(&store, &name(1)).await.unwrap().unwrap().0, bytes(1));
        assert_eq!(store.request_limit(), 2);
    }
}

//= SEMANTICS.md#s3-retry-budget
#[tokio::test]
async fn retries_of_all_callers_end_with_the_budget() {
    let server = Server::start();
    let retries = Retries { budget: 3, ..options().retries };
    let store = server.open(options().retries(retries)).await.unwrap();
    server.script.inject(Method::HEAD, usize::MAX, Fault::Answer(503, "SlowDown"));
    for _ in 0..10 {
        let error = store.head(&name(1)).await.unwrap_err();
        assert_eq!((error.kind(), error.retry()), (ErrorKind::Unavailable, Retry::Later));
    }
    let asked = server.script.count(&Method::HEAD);
    assert_eq!(asked, 10 + 3, "ten calls have three retries between them, not four each");
}

/// Row 35: the server stored the object and answered 500, or nothing; the repetition is refused, by itself.
//= SEMANTICS.md#s3-lost-answer
#[tokio::test]
async fn an_error_500_or_a_reset_after_the_object_was_stored_is_published_once() {
    let server = Server::start();
    let store = server.open(options()).await.unwrap();
    let faults = [
        Fault::DoneThenAnswer(500, "InternalError"),
        Fault::DoneThenAnswer(503, "SlowDown"),
        Fault::DoneThenReset,
    ];
    for (number, fault) in (1..).zip(faults) {
        server.script.inject(Method::PUT, 1, fault);
        assert_eq!(publish(&store, &name(number), &bytes(number)).await.unwrap(), Publication::Published);
        assert_eq!(read(&store, &name(number)).await.unwrap().unwrap().0, bytes(number));
        let again = publish(&store, &name(number), &bytes(9)).await.unwrap();
        assert_eq!(again, Publication::AlreadyExists, "and the next one is refused");
    }
}

/// The answer is lost each time: the last word is what the name holds.
//= SEMANTICS.md#s3-lost-answer
#[tokio::test]
async fn when_every_answer_is_lost_the_mark_decides() {
    let server = Server::start();
    let store = server.open(options()).await.unwrap();
    server.script.inject(Method::PUT, 5, Fault::DoneThenAnswer(500, "InternalError"));
    assert_eq!(publish(&store, &name(1), &bytes(1)).await.unwrap(), Publication::Published);
    // Somebody else's object under the name, and an own upload in doubt.
    server.script.clear();
    server.script.inject(Method::PUT, 5, Fault::DoneThenAnswer(500, "InternalError"));
    assert_eq!(publish(&store, &name(1), &bytes(2)).await.unwrap(), Publication::AlreadyExists);
    assert_eq!(read(&store, &name(1)).await.unwrap().unwrap().0, bytes(1));
    // Nothing was stored, and nobody says why.
    server.script.clear();
    server.script.inject(Method::PUT, 5, Fault::Answer(500, "InternalError"));
    let error = publish(&store, &name(3), &bytes(3)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    assert!(error.to_string().contains("InternalError (500)"), "{error}");
    assert!(read(&store, &name(3)).await.unwrap().is_none());
}

//= SEMANTICS.md#s3-lost-answer
#[tokio::test]
async fn records_whose_answer_was_lost_are_created_and_replaced_once() {
    let server = Server::start();
    let store = server.open(options()).await.unwrap();
    let record = RecordName::request("request", 0);
    server.script.inject(Method::PUT, 1, Fault::DoneThenReset);
    let created = store.create_record(&record, b"one").await.unwrap().expect("the name was free");
    server.script.inject(Method::PUT, 1, Fault::DoneThenAnswer(500, "InternalError"));
    let replaced = store.replace_record(&record, &created, b"two").await.unwrap().expect("we own it");
    let read = store.read_record(&record).await.unwrap().unwrap();
    assert_eq!((read.body.as_slice(), &read.version), (b"two".as_slice(), &replaced));
    server.script.inject(Method::PUT, 1, Fault::DoneThenReset);
    assert!(store.create_record(&record, b"three").await.unwrap().is_none(), "it was there before");
    server.script.inject(Method::PUT, 1, Fault::DoneThenReset);
    assert!(store.replace_record(&record, &created, b"three").await.unwrap().is_none(), "it is another");
    assert_eq!(store.read_record(&record).await.unwrap().unwrap().body, b"two");
}

/// Row 36.
//= SEMANTICS.md#s3-taken
#[tokio::test]
async fn a_412_of_somebody_elses_object_is_already_exists_without_another_request() {
    let server = Server::start();
    let (ours, theirs) = (server.open(options()).await.unwrap(), server.open(options()).await.unwrap());
    assert_eq!(publish(&theirs, &name(1), &bytes(1)).await.unwrap(), Publication::Published);
    server.script.clear();
    assert_eq!(publish(&ours, &name(1), &bytes(1)).await.unwrap(), Publication::AlreadyExists);
    assert_eq!((server.script.count(&Method::PUT), server.script.count(&Method::HEAD)), (1, 0));
}

/// Row 37.
//= SEMANTICS.md#s3-conflict
#[tokio::test]
async fn a_409_conflict_is_tried_again_and_settled_by_a_look() {
    let server = Server::start();
    let store = server.open(options()).await.unwrap();
    server.script.inject(Method::PUT, 2, Fault::Answer(409, "ConditionalRequestConflict"));
    assert_eq!(publish(&store, &name(1), &bytes(1)).await.unwrap(), Publication::Published);
    server.script.inject(Method::PUT, 5, Fault::Answer(409, "ConditionalRequestConflict"));
    assert_eq!(publish(&store, &name(1), &bytes(1)).await.unwrap(), Publication::AlreadyExists);
    server.script.clear();
    server.script.inject(Method::PUT, 5, Fault::Answer(409, "ConditionalRequestConflict"));
    let error = publish(&store, &name(2), &bytes(2)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
}

/// Row 44.
//= SEMANTICS.md#s3-listing-lags
#[tokio::test]
async fn a_listing_that_lags_misses_but_never_decides() {
    let server = Server::start();
    let store = server.open(options()).await.unwrap();
    publish(&store, &name(1), &bytes(1)).await.unwrap();
    let now = server.backend.objects.lock().unwrap().clone();
    *server.backend.faults.listing_lags.lock().unwrap() = Some(now);
    publish(&store, &name(2), &bytes(2)).await.unwrap();
    store.delete(&name(1)).await.unwrap();
    let listed = store.list(&name(1).namespace, None, 10).await.unwrap();
    assert!(listed.is_empty(), "what is listed and gone is left out, what is new is missed: {listed:?}");
    assert_eq!(read(&store, &name(2)).await.unwrap().unwrap().0, bytes(2));
    assert!(read(&store, &name(1)).await.unwrap().is_none());
    assert_eq!(publish(&store, &name(2), &bytes(2)).await.unwrap(), Publication::AlreadyExists);
}
