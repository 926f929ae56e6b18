//! Objects that are larger than the staging: uploaded in parts, published whole and once, and swept if nobody completes them.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use hyper::Method;
use kv_format::ObjectName;
use kv_memory::{HostBuf, HugePages, StagingPool};
use kv_storage::s3::{Deadlines, S3Store};
use kv_storage::{ByteRange, ErrorKind, KvStore, Publication, ReadPart, Result, Upload, WriteSource};
use tokio::task::JoinSet;

use crate::s3_server::script::Fault;
use crate::s3_server::uploads::Begun;
use crate::s3_server::{Server, options};
use crate::scene::name;

const MIB: usize = 1 << 20;
const PART: usize = MIB;
/// Two windows of the fewest bytes that S3 takes as a part.
const STAGING: usize = 2 * WINDOW;
const WINDOW: usize = 5 * MIB;
/// Three windows, the last of them short.
const LEN: usize = 12 * MIB + 3;
/// What the completion's path and query contain, and no other POST's.
const COMPLETION: &str = "uploadId=";

fn pool(bytes: usize) -> StagingPool {
    StagingPool::new(HugePages::allocate(bytes).unwrap(), PART).unwrap()
}

async fn open(server: &Server) -> (S3Store, StagingPool) {
    let staging = pool(STAGING);
    // A server that hangs is left soon.
    let first_byte = Duration::from_secs(2);
    let options =
        options().sweep_older_than(None).deadlines(Deadlines { first_byte, ..Deadlines::default() });
    let store = server.open(options.staging(staging.clone())).await.unwrap();
    assert!(store.conditions().parts);
    server.script.clear();
    (store, staging)
}

fn byte(at: usize, seed: u8) -> u8 {
    u8::try_from(at % 251).unwrap() ^ u8::try_from(at / PART % 256).unwrap() ^ seed
}

fn contents(seed: u8) -> Vec<u8> {
    (0..LEN).map(|at| byte(at, seed)).collect()
}

/// Ranges as the pipeline writes them: of odd lengths, the first last.
fn header_last() -> Vec<ByteRange> {
    let step = PART - 4096 + 7;
    let mut ranges: Vec<ByteRange> = (0..LEN)
        .step_by(step)
        .map(|offset| ByteRange { offset: offset as u64, len: step.min(LEN - offset) })
        .collect();
    ranges.rotate_left(1);
    ranges
}

async fn written(store: &S3Store, name: &ObjectName, bytes: &[u8]) -> Result<Box<dyn Upload>> {
    let upload = store.begin(name, bytes.len() as u64).await?;
    let mut buffer = HostBuf::allocate(PART).unwrap();
    for range in header_last() {
        let start = usize::try_from(range.offset).unwrap();
        buffer.set_len(range.len).unwrap();
        buffer.copy_from_slice(&bytes[start..start + range.len]);
        let result;
        (buffer, result) = upload.write(range.offset, buffer).await;
        result?;
    }
    Ok(upload)
}

async fn publish(store: &S3Store, name: &ObjectName, bytes: &[u8]) -> Result<Publication> {
    written(store, name, bytes).await?.commit().await
}

async fn read(store: &S3Store, name: &ObjectName) -> Result<Option<Vec<u8>>> {
    let mut buffer = HostBuf::allocate(LEN).unwrap();
    buffer.fill(0xee);
    buffer.set_len(LEN).unwrap();
    let read = store.read(name, vec![ReadPart { offset: 0, buffer }]).await;
    Ok(read.result?.map(|_| read.buffers[0].to_vec()))
}

/// Nothing of an upload is left anywhere.
async fn expect_nothing_left(server: &Server, store: &S3Store, staging: &StagingPool) {
    tokio::time::timeout(Duration::from_secs(30), store.idle()).await.unwrap(); // the clean-up ends
    assert!(server.backend.uploads.lock().unwrap().begun.is_empty(), "an upload was left on the server");
    assert_eq!(staging.usage().bytes_lent, 0, "staging was kept");
}

//= SEMANTICS.md#s3-parts
//= SEMANTICS.md#s3-staging
#[tokio::test(flavor = "multi_thread")]
async fn an_object_larger_than_the_staging_is_published_whole_and_once() {
    let server = Server::start();
    let (store, staging) = open(&server).await;
    let upload = written(&store, &name(1), &contents(1)).await.unwrap();
    assert!(store.head(&name(1)).await.unwrap().is_none(), "visible before its commit");
    assert_eq!(upload.commit().await.unwrap(), Publication::Published);
    assert!(read(&store, &name(1)).await.unwrap().unwrap() == contents(1), "other bytes");
    assert_eq!(server.script.count_on(&Method::PUT, "partNumber="), 3);
    assert_eq!(staging.usage().bytes_high_water, STAGING);
    let again = publish(&store, &name(1), &contents(2)).await.unwrap();
    assert_eq!(again, Publication::AlreadyExists);
    assert!(read(&store, &name(1)).await.unwrap().unwrap() == contents(1), "replaced");
    expect_nothing_left(&server, &store, &staging).await;
    // What fits the staging takes one request, and of two uploads in a row each has a version of its own.
    server.script.clear();
    let upload = store.begin(&name(2), 10).await.unwrap();
    upload.write(0, HostBuf::copy_of(&[7; 10]).unwrap()).await.1.unwrap();
    assert_eq!(upload.commit().await.unwrap(), Publication::Published);
    assert_eq!((server.script.count(&Method::PUT), server.script.count(&Method::POST)), (1, 0));
    let before = store.head(&name(1)).await.unwrap().unwrap();
    assert!(store.delete(&name(1)).await.unwrap());
    assert_eq!(publish(&store, &name(1), &contents(1)).await.unwrap(), Publication::Published);
    let after = store.head(&name(1)).await.unwrap().unwrap();
    assert_eq!((before.len, after.len), (LEN as u64, LEN as u64));
    assert_ne!(before.version, after.version, "the same bytes again are another object");
}

/// Fills a range with what the object has there.
struct Contents(Vec<ByteRange>, u8);

impl WriteSource for Contents {
    fn fill(&self, index: usize, buffer: &mut HostBuf) -> bool {
        let start = usize::try_from(self.0[index].offset).unwrap();
        for (inside, place) in buffer.iter_mut().enumerate() {
            *place = byte(start + inside, self.1);
        }
        true
    }
}

//= SEMANTICS.md#s3-parts
#[tokio::test(flavor = "multi_thread")]
async fn a_source_fills_windows_in_place_and_across_their_edges() {
    let server = Server::start();
    let (store, staging) = open(&server).await;
    let upload = store.begin(&name(1), LEN as u64).await.unwrap();
    let source = Arc::new(Contents(header_last(), 5));
    let (_, result) = upload.write_from(header_last(), HostBuf::allocate(PART).unwrap(), source).await;
    result.unwrap();
    assert_eq!(upload.commit().await.unwrap(), Publication::Published);
    assert!(read(&store, &name(1)).await.unwrap().unwrap() == contents(5), "other bytes");
    expect_nothing_left(&server, &store, &staging).await;
}

//= SEMANTICS.md#s3-parts
#[tokio::test(flavor = "multi_thread")]
async fn of_racing_uploads_in_parts_one_publishes() {
    let server = Server::start();
    let mut racers = JoinSet::new();
    for seed in 0..4 {
        let (store, _) = open(&server).await;
        let upload = written(&store, &name(1), &contents(seed)).await.unwrap();
        racers.spawn(async move { (seed, upload.commit().await.unwrap(), store) });
    }
    let mut winner = None;
    while let Some(raced) = racers.join_next().await {
        let (seed, publication, store) = raced.unwrap();
        store.idle().await;
        if publication == Publication::Published {
            assert!(winner.replace(seed).is_none(), "two published");
        }
    }
    let (store, staging) = open(&server).await;
    assert!(read(&store, &name(1)).await.unwrap().unwrap() == contents(winner.unwrap()), "the loser's bytes");
    expect_nothing_left(&server, &store, &staging).await;
}

//= SEMANTICS.md#s3-parts-order
#[tokio::test]
async fn writes_that_need_more_windows_than_there_are_are_refused() {
    let server = Server::start();
    let (store, staging) = open(&server).await;
    let write = async |upload: &dyn Upload, window: usize| {
        let part = HostBuf::copy_of(&[1; 100]).unwrap();
        upload.write((window * WINDOW) as u64, part).await.1
    };
    let upload = store.begin(&name(1), LEN as u64).await.unwrap();
    write(&*upload, 0).await.unwrap();
    write(&*upload, 1).await.unwrap();
    let error = write(&*upload, 2).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
    assert!(error.to_string().contains("from front to back"), "{error}");
    drop(upload);
    // A byte that was sent cannot be written again.
    let upload = written(&store, &name(1), &contents(1)).await.unwrap();
    let error = write(&*upload, 0).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
    assert!(error.to_string().contains("write each byte once"), "{error}");
    upload.abort().await.unwrap();
    expect_nothing_left(&server, &store, &staging).await;
}

/// Row 35, of the last request of an upload in parts.
//= SEMANTICS.md#s3-parts-lost-answer
#[tokio::test(flavor = "multi_thread")]
async fn a_completion_whose_answer_was_lost_is_published_once() {
    let server = Server::start();
    let (store, staging) = open(&server).await;
    let faults = [
        (1, Fault::DoneThenAnswer(500, "InternalError")),
        (1, Fault::DoneThenReset),
        (5, Fault::DoneThenReset),
    ];
    for (number, (times, fault)) in (1..).zip(faults) {
        server.script.clear();
        server.script.inject_on(Method::POST, COMPLETION, times, fault);
        let published = publish(&store, &name(number), &contents(number)).await.unwrap();
        assert_eq!(published, Publication::Published, "object {number}");
        assert!(read(&store, &name(number)).await.unwrap().unwrap() == contents(number), "other bytes");
    }
    // The answer is lost, and somebody else has the name.
    server.script.clear();
    server.script.inject_on(Method::POST, COMPLETION, 1, Fault::DoneThenReset);
    let again = publish(&store, &name(1), &contents(9)).await.unwrap();
    assert_eq!(again, Publication::AlreadyExists);
    expect_nothing_left(&server, &store, &staging).await;
}

/// Rows 36 and 37, of the last request of an upload in parts.
//= SEMANTICS.md#s3-parts
//= SEMANTICS.md#s3-conflict
#[tokio::test(flavor = "multi_thread")]
async fn a_412_or_409_at_the_completion_is_settled_as_that_of_one_request() {
    let server = Server::start();
    let (store, staging) = open(&server).await;
    server.script.inject_on(Method::POST, COMPLETION, 2, Fault::Answer(409, "ConditionalRequestConflict"));
    assert_eq!(publish(&store, &name(1), &contents(1)).await.unwrap(), Publication::Published);
    server.script.inject_on(Method::POST, COMPLETION, 1, Fault::Answer(412, "PreconditionFailed"));
    assert_eq!(publish(&store, &name(2), &contents(2)).await.unwrap(), Publication::AlreadyExists);
    server.script.inject_on(Method::POST, COMPLETION, 5, Fault::Answer(409, "ConditionalRequestConflict"));
    let error = publish(&store, &name(3), &contents(3)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    assert!(store.head(&name(3)).await.unwrap().is_none());
    expect_nothing_left(&server, &store, &staging).await;
}

//= SEMANTICS.md#s3-parts-failed
#[tokio::test(flavor = "multi_thread")]
async fn a_part_that_fails_is_sent_again_and_one_that_is_lost_publishes_nothing() {
    let server = Server::start();
    let (store, staging) = open(&server).await;
    for fault in [Fault::Reset, Fault::Damage, Fault::DoneThenReset] {
        server.script.inject_on(Method::PUT, "partNumber=2&", 1, fault);
    }
    assert_eq!(publish(&store, &name(1), &contents(1)).await.unwrap(), Publication::Published);
    assert!(read(&store, &name(1)).await.unwrap().unwrap() == contents(1), "other bytes");
    assert_eq!(server.script.count_on(&Method::PUT, "partNumber=2&"), 4);
    // The server takes a part and forgets it.
    server.backend.faults.loses_part.store(3, Ordering::Relaxed);
    let error = publish(&store, &name(2), &contents(2)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    assert!(store.head(&name(2)).await.unwrap().is_none());
    server.backend.faults.loses_part.store(0, Ordering::Relaxed);
    // A part that cannot be sent ends the upload at its next step.
    server.script.inject_on(Method::PUT, "partNumber=2&", 5, Fault::Reset);
    let error = publish(&store, &name(2), &contents(2)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    // Somebody swept the upload under its writer.
    let upload = written(&store, &name(2), &contents(2)).await.unwrap();
    store.sweep(Duration::ZERO).await.unwrap();
    let error = upload.commit().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    expect_nothing_left(&server, &store, &staging).await;
}

//= SEMANTICS.md#s3-parts-failed
#[tokio::test(flavor = "multi_thread")]
async fn an_upload_in_parts_that_its_caller_leaves_is_aborted() {
    let server = Server::start();
    let (store, staging) = open(&server).await;
    drop(store.begin(&name(1), LEN as u64).await.unwrap());
    expect_nothing_left(&server, &store, &staging).await;
    // While a part is on its way, and while the completion is.
    server.script.inject_on(Method::PUT, "partNumber=2&", 1, Fault::Hang);
    let left =
        tokio::time::timeout(Duration::from_millis(300), publish(&store, &name(1), &contents(1))).await;
    assert!(left.is_err(), "a part hangs");
    expect_nothing_left(&server, &store, &staging).await;
    server.script.clear();
    server.script.inject_on(Method::POST, COMPLETION, 1, Fault::Hang);
    let upload = written(&store, &name(1), &contents(1)).await.unwrap();
    let left = tokio::time::timeout(Duration::from_millis(300), upload.commit()).await;
    assert!(left.is_err(), "the completion hangs");
    expect_nothing_left(&server, &store, &staging).await;
    assert!(store.head(&name(1)).await.unwrap().is_none());
    assert_eq!(publish(&store, &name(1), &contents(1)).await.unwrap(), Publication::Published);
}

/// Row 8: what killed processes leave on the server is aborted once it is old, by a sweep at open or by hand; nothing else is.
//= SEMANTICS.md#s3-sweep
#[tokio::test(flavor = "multi_thread")]
async fn abandoned_uploads_are_swept_by_their_age() {
    let server = Server::start();
    let (store, _) = open(&server).await;
    // Five of a process that died, one of which its owner never had the id: their begin was answered to nobody.
    let mut dead = JoinSet::new();
    for number in 1..6 {
        let (store, _) = open(&server).await;
        dead.spawn(async move {
            std::mem::ManuallyDrop::new(store.begin(&name(number), LEN as u64).await.unwrap())
        });
    }
    let dead = dead.join_all().await;
    let foreign = Begun::of_somebody_else("some/prefix/v1/report.pdf");
    let begun = || server.backend.uploads.lock().unwrap().begun.len();
    server.backend.uploads.lock().unwrap().begun.insert("foreign".to_owned(), foreign);
    assert_eq!(begun(), 6);
    let day = Duration::from_secs(24 * 3600);
    assert_eq!(store.sweep(day).await.unwrap(), 0, "young ones are spared");
    let yesterday = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
    for upload in server.backend.uploads.lock().unwrap().begun.values_mut().skip(2) {
        upload.initiated = yesterday(1_000_000);
    }
    assert_eq!(store.sweep(day).await.unwrap(), 4, "old ones are aborted, page by page");
    assert_eq!(begun(), 2, "a young one and somebody else's old one are left");
    for upload in server.backend.uploads.lock().unwrap().begun.values_mut() {
        upload.initiated = yesterday(1_000_000);
    }
    let next = server.open(options()).await.unwrap();
    next.idle().await;
    assert_eq!(begun(), 1, "the sweep at open aborts the rest");
    assert_eq!(store.sweep(day).await.unwrap(), 0);
    drop(dead);
}

//= SEMANTICS.md#s3-too-large
#[tokio::test]
async fn a_server_that_completes_unconditionally_or_knows_no_parts_has_large_objects_refused() {
    let broken =
        [("ignores If-None-Match when an upload in parts is completed", 0), ("no uploads in parts here", 1)];
    for (why, which) in broken {
        let server = Server::start();
        let faults = &server.backend.faults;
        [&faults.completes_always, &faults.knows_no_parts][which].store(true, Ordering::Relaxed);
        let store = server.open(options().staging(pool(STAGING))).await.unwrap();
        assert!(store.conditions().create && !store.conditions().parts);
        let error = store.begin(&name(1), LEN as u64).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
        assert!(error.to_string().contains(why), "{error}");
        assert!(server.keys().is_empty(), "{:?}", server.keys());
    }
    // Too large for anything, and a staging that is too small for windows.
    let server = Server::start();
    let (store, _) = open(&server).await;
    let error = store.begin(&name(1), (5 << 30) + 1).await.unwrap_err();
    assert!(error.to_string().contains("never more than 5368709120"), "{error}");
    let store = server.open(options().staging(pool(9 * MIB))).await.unwrap();
    let error = store.begin(&name(1), LEN as u64).await.unwrap_err();
    assert!(error.to_string().contains("twice the 5242880 bytes of a part"), "{error}");
    // Untried is unproven.
    let store = server.open(options().staging(pool(STAGING)).probe(false)).await.unwrap();
    let error = store.begin(&name(1), LEN as u64).await.unwrap_err();
    assert!(error.to_string().contains("it was not tried at open"), "{error}");
}
