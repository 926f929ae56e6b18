//! The S3 store on a server of somebody else, named by `KVBRIDGE_S3_URL`: `cargo xtask s3-lab` starts SeaweedFS and runs this.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "the functions that tests share are test code too"
)]

#[path = "remote_store/process.rs"]
mod process;
#[path = "remote_store/mod.rs"]
mod remote_store;

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use kv_format::{ChunkKey, NamespaceDigest, ObjectName};
use kv_memory::{HostBuf, HugePages, StagingPool};
use kv_storage::s3::{Deadlines, S3Options, S3Store};
use kv_storage::{ErrorKind, KvStore, Publication, ReadPart, Result, Upload, conformance};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::timeout;

use process::{Process, announce};
use remote_store::RemoteStore;
use remote_store::agent::{Served, serve};

const URL: &str = "KVBRIDGE_S3_URL";
/// The process of a server that a test may kill.
const VICTIM: &str = "KVBRIDGE_S3_VICTIM";

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

async fn written(store: &S3Store, name: &ObjectName, len: usize) -> Result<Box<dyn Upload>> {
    let upload = store.begin(name, len as u64).await?;
    upload.write(0, HostBuf::copy_of(&vec![name.key.0[0]; len]).unwrap()).await.1?;
    Ok(upload)
}

async fn publish(store: &S3Store, name: &ObjectName, len: usize) -> Result<Publication> {
    written(store, name, len).await?.commit().await
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

/// The suite with its writer here and its reader in another process, and the other way round.
#[tokio::test(flavor = "multi_thread")]
async fn conformance_with_a_writer_and_a_reader_in_two_processes() {
    let Some(url) = from_environment(URL) else { return };
    let agent = Process::start("serves_another_process");
    let here: Arc<dyn KvStore> = Arc::new(open(&url).await);
    let there: Arc<dyn KvStore> = Arc::new(RemoteStore::open(&agent.address, &url).await.unwrap());
    for (writer, reader) in [(&here, &there), (&there, &here)] {
        if let Err(failure) = conformance::run(Arc::clone(writer), Arc::clone(reader)).await {
            panic!("{writer} and {reader}: {failure}");
        }
    }
    there.idle().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a child process of `conformance_with_a_writer_and_a_reader_in_two_processes`"]
async fn serves_another_process() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    announce(listener.local_addr().unwrap());
    serve(
        listener,
        |url| async move { Ok(Served { store: Arc::new(open(&url).await), warnings: Vec::new() }) },
    )
    .await;
}

/// Three parts through staging for two, published once, and what is left on the way is swept: where the server was found to complete uploads
/// in parts under free names only. Where it was not, the object is refused.
#[tokio::test(flavor = "multi_thread")]
async fn an_object_larger_than_the_staging() {
    const LARGE: usize = 12 << 20;
    let Some(url) = from_environment(URL) else { return };
    drop(open(&url).await); // it is up
    let staging = StagingPool::new(HugePages::allocate(10 << 20).unwrap(), 1 << 20).unwrap();
    let store = S3Store::open(&url, S3Options::default().staging(staging.clone())).await.unwrap();
    let name = name(fresh(), 7);
    println!("{:?}", store.conditions());
    if !store.conditions().parts {
        let error = store.begin(&name, LARGE as u64).await.unwrap_err();
        println!("refused: {error}");
        assert_eq!(error.kind(), ErrorKind::Invalid);
        return;
    }
    assert_eq!(publish(&store, &name, LARGE).await.unwrap(), Publication::Published);
    assert!(read(&store, &name, LARGE).await.unwrap());
    assert_eq!(publish(&store, &name, LARGE).await.unwrap(), Publication::AlreadyExists);
    store.idle().await;
    assert_eq!(staging.usage().bytes_lent, 0);
    assert_eq!(store.sweep(Duration::ZERO).await.unwrap(), 0, "nothing was left on the way");
    // As a process leaves it that is killed: the upload is never dropped.
    let _killed = std::mem::ManuallyDrop::new(store.begin(&name, LARGE as u64).await.unwrap());
    assert_eq!(store.sweep(Duration::from_secs(24 * 3600)).await.unwrap(), 0, "young ones are spared");
    assert_eq!(store.sweep(Duration::ZERO).await.unwrap(), 1);
}

/// Kills a process and waits until none of its threads runs any more.
fn kill(victim: &str) {
    let killed = Command::new("kill").args(["-9", victim]).status().unwrap();
    assert!(killed.success(), "process {victim} cannot be killed");
    // Its parent may not have noticed yet: a zombie answers nobody.
    while let Ok(stat) = std::fs::read_to_string(format!("/proc/{victim}/stat")) {
        if stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('Z')) {
            return;
        }
        std::thread::yield_now();
    }
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

/// A commit, as the test sees it.
#[derive(Debug, Default)]
struct Commit {
    begun: AtomicBool,
    answered: AtomicBool,
}

impl Commit {
    fn in_flight(&self) -> bool {
        self.begun.load(Ordering::SeqCst) && !self.answered.load(Ordering::SeqCst)
    }
}

/// Saves an object and notes its commit.
async fn save(store: S3Store, name: ObjectName, commit: Arc<Commit>) -> (ObjectName, Option<Publication>) {
    let saved = timeout(PATIENCE, async {
        let upload = written(&store, &name, LEN).await?;
        commit.begun.store(true, Ordering::SeqCst);
        let answer = upload.commit().await;
        commit.answered.store(true, Ordering::SeqCst);
        answer
    });
    (name, expect_told(saved.await))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_server_dies_under_a_save() {
    let (Some(url), mut victim @ Some(_)) = (from_environment(URL), from_environment(VICTIM)) else { return };
    let (store, namespace) = (open(&url).await, fresh());
    let commits: Vec<Arc<Commit>> = (0..OBJECTS).map(|_| Arc::default()).collect();
    let mut saves = JoinSet::new();
    for (number, commit) in (0..OBJECTS).zip(&commits) {
        saves.spawn(save(store.clone(), name(namespace, number), Arc::clone(commit)));
    }
    let mut published = Vec::new();
    while let Some(saved) = saves.join_next().await {
        let (name, answer) = saved.unwrap();
        if let Some(answer) = answer {
            assert_eq!(answer, Publication::Published);
            published.push(name);
        }
        if published.len() == usize::from(OBJECTS / 4)
            && let Some(victim) = victim.take()
        {
            let before: Vec<&Arc<Commit>> = commits.iter().filter(|commit| commit.in_flight()).collect();
            let requests = store.health().in_flight;
            kill(&victim);
            let met = before.iter().filter(|commit| commit.in_flight()).count();
            println!(
                "{requests} requests were in flight when the server was killed, {met} uploads unanswered when it was dead"
            );
            assert!(requests > 0 && met > 0, "the kill met no save");
        }
    }
    assert!(victim.is_none(), "the server was killed");
    println!("{} of {OBJECTS} saves, {} of them with all servers alive", published.len(), OBJECTS / 4);
    for name in published {
        read_in_the_end(&store, &name).await;
    }
}
