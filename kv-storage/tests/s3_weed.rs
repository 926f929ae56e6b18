//! The S3 store on a server of somebody else, named by `KVBRIDGE_S3_URL`: `cargo xtask s3-lab` starts SeaweedFS and runs this.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "the functions that tests share are test code too"
)]

use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use kv_format::{ChunkKey, NamespaceDigest, ObjectName, RecordName};
use kv_memory::HostBuf;
use kv_storage::s3::{Deadlines, S3Options, S3Store};
use kv_storage::{ErrorKind, KvStore, Publication, ReadPart, Result, conformance};
use tokio::task::JoinSet;
use tokio::time::timeout;

const URL: &str = "KVBRIDGE_S3_URL";
/// The process of a server that a test may kill.
const VICTIM: &str = "KVBRIDGE_S3_VICTIM";
/// The namespace in which two processes meet.
const MEETING: &str = "KVBRIDGE_S3_MEETING";

const OBJECTS: u8 = 24;
const LEN: usize = 4 << 20;
/// A server that lost a part of itself is given so long to notice.
const PATIENCE: Duration = Duration::from_secs(90);

fn from_environment(variable: &str) -> Option<String> {
    let value = std::env::var(variable).ok();
    if value.is_none() {
        println!("SKIPPED: {variable} is not set; cargo xtask s3-lab sets it");
    }
    value
}

/// Opens a store as soon as the server is up.
async fn open(url: &str) -> S3Store {
    let second = Duration::from_secs(1);
    let options = S3Options::default().deadlines(Deadlines {
        connect: second,
        first_byte: 5 * second,
        whole: 20 * second,
    });
    let opened = timeout(PATIENCE, async {
        loop {
            match S3Store::open(url, options.clone()).await {
                Ok(store) => return store,
                Err(error) if error.kind() == ErrorKind::Unavailable => tokio::time::sleep(second / 5).await,
                Err(error) => panic!("{error}"),
            }
        }
    });
    opened.await.unwrap_or_else(|_| panic!("{url} does not answer within {PATIENCE:?}"))
}

fn name(namespace: [u8; 32], number: u8) -> ObjectName {
    ObjectName {
        namespace: NamespaceDigest(namespace),
        key: ChunkKey([number; 32]),
        chunk_index: 0,
        slice: 0,
    }
}

/// A namespace that no other run uses.
fn fresh() -> [u8; 32] {
    let mut namespace = [0; 32];
    getrandom::fill(&mut namespace).unwrap();
    namespace
}

async fn publish(store: &S3Store, name: &ObjectName, len: usize) -> Result<Publication> {
    let upload = store.begin(name, len as u64).await?;
    upload.write(0, HostBuf::copy_of(&vec![name.key.0[0]; len]).unwrap()).await.1?;
    upload.commit().await
}

/// The object if it is there, checked byte by byte.
async fn read(store: &S3Store, name: &ObjectName, len: usize) -> Result<bool> {
    let mut buffer = HostBuf::allocate(len).unwrap();
    buffer.set_len(len).unwrap();
    buffer.fill(!name.key.0[0]);
    let outcome = store.read(name, vec![ReadPart { offset: 0, buffer }]).await;
    let found = outcome.result?.is_some();
    let wrong = outcome.buffers[0].iter().position(|byte| *byte != name.key.0[0]);
    assert!(!found || wrong.is_none(), "byte {wrong:?} of {name} is wrong");
    Ok(found)
}

#[tokio::test(flavor = "multi_thread")]
async fn conformance_with_two_independent_handles() {
    let Some(url) = from_environment(URL) else { return };
    let (writer, reader) = (open(&url).await, open(&url).await);
    assert!(writer.conditions().create && writer.conditions().replace, "{:?}", writer.conditions());
    if let Err(failure) = conformance::run(Arc::new(writer), Arc::new(reader)).await {
        panic!("{failure}");
    }
}

/// What another process publishes is seen here, whole, from the moment that it says so.
#[tokio::test(flavor = "multi_thread")]
async fn a_writer_and_a_reader_in_two_processes() {
    let Some(url) = from_environment(URL) else { return };
    let namespace = fresh();
    let reader = open(&url).await;
    let mut writer = Command::new(std::env::current_exe().unwrap());
    writer.args(["--exact", "writes_for_another_process", "--ignored", "--nocapture"]);
    writer.env(MEETING, namespace.map(|byte| format!("{byte:02x}")).concat());
    let writing = tokio::task::spawn_blocking(move || writer.status().unwrap());
    // Until it has ended every look finds nothing or the whole.
    while !writing.is_finished() {
        for number in 0..OBJECTS {
            read(&reader, &name(namespace, number), LEN / 8).await.unwrap();
        }
    }
    assert!(writing.await.unwrap().success(), "the writer failed");
    for number in 0..OBJECTS {
        assert!(
            read(&reader, &name(namespace, number), LEN / 8).await.unwrap(),
            "object {number} is missing"
        );
        let again = publish(&reader, &name(namespace, number), 10).await.unwrap();
        assert_eq!(again, Publication::AlreadyExists);
    }
    let listed = reader.list(&NamespaceDigest(namespace), None, 1000).await.unwrap();
    assert_eq!(listed.len(), usize::from(OBJECTS));
    let record =
        RecordName::request("meeting", u32::from_le_bytes([namespace[0], namespace[1], namespace[2], 0]));
    let read = reader.read_record(&record).await.unwrap().expect("the writer's record");
    assert_eq!(read.body, b"second");
    assert!(reader.replace_record(&record, &read.version, b"third").await.unwrap().is_some());
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a child process of `a_writer_and_a_reader_in_two_processes`"]
async fn writes_for_another_process() {
    let (Ok(url), Ok(meeting)) = (std::env::var(URL), std::env::var(MEETING)) else {
        panic!("this is run by `a_writer_and_a_reader_in_two_processes` only");
    };
    let namespace = NamespaceDigest::from_hex(&meeting).unwrap().0;
    let writer = open(&url).await;
    for number in 0..OBJECTS {
        let published = publish(&writer, &name(namespace, number), LEN / 8).await.unwrap();
        assert_eq!(published, Publication::Published);
    }
    let record =
        RecordName::request("meeting", u32::from_le_bytes([namespace[0], namespace[1], namespace[2], 0]));
    let version = writer.create_record(&record, b"first").await.unwrap().expect("a free name");
    writer.replace_record(&record, &version, b"second").await.unwrap().expect("our version");
}

fn kill(victim: &str) {
    let killed = Command::new("kill").args(["-9", victim]).status().unwrap();
    assert!(killed.success(), "process {victim} cannot be killed");
}

/// Reads an object until its replica answers.
async fn read_in_the_end(store: &S3Store, name: &ObjectName) {
    let read = timeout(PATIENCE, async {
        loop {
            match read(store, name, LEN).await {
                Ok(true) => return,
                Ok(false) => panic!("{name} was published and is gone"),
                Err(error) => println!("not yet: {error}"),
            }
        }
    });
    read.await.unwrap_or_else(|_| panic!("{name} cannot be read within {PATIENCE:?}"));
}

/// Every call answers before its caller loses patience: with the right bytes, or with an error that says that it may be tried again.
fn expect_told<T>(answer: Result<Result<T>, tokio::time::error::Elapsed>) -> Option<T> {
    match answer.expect("a call hangs") {
        Ok(answer) => Some(answer),
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
            println!("told: {error}");
            None
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_server_dies_under_a_load() {
    let (Some(url), Some(victim)) = (from_environment(URL), from_environment(VICTIM)) else { return };
    let (store, namespace) = (open(&url).await, fresh());
    for number in 0..OBJECTS {
        publish(&store, &name(namespace, number), LEN).await.unwrap();
    }
    let mut loads = JoinSet::new();
    for round in 0..4 * OBJECTS {
        let (store, name) = (store.clone(), name(namespace, round % OBJECTS));
        loads.spawn(async move { timeout(PATIENCE, read(&store, &name, LEN)).await });
    }
    let (mut done, mut right) = (0, 0);
    while let Some(load) = loads.join_next().await {
        if let Some(found) = expect_told(load.unwrap()) {
            assert!(found, "a published object is missing");
            right += 1;
        }
        done += 1;
        if done == OBJECTS {
            kill(&victim);
        }
    }
    println!("{right} of {done} loads, {} of them begun with all servers alive", OBJECTS);
    for number in 0..OBJECTS {
        read_in_the_end(&store, &name(namespace, number)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_server_dies_under_a_save() {
    let (Some(url), mut victim @ Some(_)) = (from_environment(URL), from_environment(VICTIM)) else { return };
    let (store, namespace) = (open(&url).await, fresh());
    let mut saves = JoinSet::new();
    for number in 0..OBJECTS {
        let (store, name) = (store.clone(), name(namespace, number));
        saves.spawn(async move { (name, timeout(PATIENCE, publish(&store, &name, LEN)).await) });
    }
    let mut published = Vec::new();
    while let Some(save) = saves.join_next().await {
        let (name, answer) = save.unwrap();
        if let Some(answer) = expect_told(answer) {
            assert_eq!(answer, Publication::Published);
            published.push(name);
        }
        if published.len() == usize::from(OBJECTS / 4)
            && let Some(victim) = victim.take()
        {
            kill(&victim);
        }
    }
    assert!(victim.is_none(), "the server was killed");
    println!("{} of {OBJECTS} saves, {} of them with all servers alive", published.len(), OBJECTS / 4);
    for name in published {
        read_in_the_end(&store, &name).await;
    }
}
