//! Writers that race for one name on a posix store.
#![expect(clippy::unwrap_used, reason = "the functions that tests share are test code too")]

use std::path::Path;
use std::sync::Arc;

use kv_format::{ChunkKey, NamespaceDigest, ObjectName, RecordName};
use kv_memory::HostBuf;
use kv_storage::posix::FsyncPolicy;
use kv_storage::{KvStore, PosixOptions, PosixStore, Publication, ReadPart, Upload};
use tokio::sync::Barrier;

const ROUNDS: u32 = 1000;
const PART: usize = 5000;
const WRITERS: u8 = 2;

fn name(round: u32) -> ObjectName {
    ObjectName { namespace: NamespaceDigest([1; 32]), key: ChunkKey([2; 32]), chunk_index: round, slice: 0 }
}

/// A handle of its own, as another process would have it.
async fn open(root: &Path) -> PosixStore {
    let options = PosixOptions::default().fsync(FsyncPolicy::None).format_if_empty(true);
    PosixStore::open(root, options).await.unwrap()
}

/// An upload that lacks nothing but its commit; every byte says whose it is.
async fn upload(store: &PosixStore, round: u32, writer: u8) -> Box<dyn Upload> {
    let upload = store.begin(&name(round), 2 * PART as u64).await.unwrap();
    for part in [PART as u64, 0] {
        upload.write(part, HostBuf::copy_of(&[writer; PART]).unwrap()).await.1.unwrap();
    }
    upload
}

// Rows 46 and 47; what the pipeline makes of it: kv-pipeline/tests/races.rs.
//= SEMANTICS.md#posix-race
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_writers_of_one_key_one_publishes_in_each_of_1000_rounds() {
    let root = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
    let start = Arc::new(Barrier::new(usize::from(WRITERS)));
    let mut tasks = Vec::new();
    for writer in 0..WRITERS {
        let store = open(root.path()).await;
        let start = Arc::clone(&start);
        tasks.push(tokio::spawn(async move {
            let mut won = Vec::new();
            for round in 0..ROUNDS {
                let upload = upload(&store, round, writer).await;
                start.wait().await;
                won.push(upload.commit().await.unwrap() == Publication::Published);
            }
            won
        }));
    }
    let mut won = Vec::new();
    for task in tasks {
        won.push(task.await.unwrap());
    }
    let store = open(root.path()).await;
    for round in 0..ROUNDS {
        let winners: Vec<u8> =
            (0..WRITERS).filter(|writer| won[usize::from(*writer)][round as usize]).collect();
        assert_eq!(winners.len(), 1, "round {round}: {winners:?} were told that they published");
        let buffer = HostBuf::copy_of(&[0xff; 2 * PART]).unwrap();
        let read = store.read(&name(round), vec![ReadPart { offset: 0, buffer }]).await;
        assert_eq!(read.result.unwrap().unwrap().len, 2 * PART as u64);
        assert!(
            read.buffers[0].iter().all(|byte| *byte == winners[0]),
            "round {round}: not the winner's object"
        );
    }
    let listed = store.list(&name(0).namespace, None, usize::MAX).await.unwrap();
    assert_eq!(listed.len(), ROUNDS as usize);
    let directory = root.path().join(name(0).to_string());
    let files = directory.parent().unwrap().read_dir().unwrap().count();
    assert_eq!(files, ROUNDS as usize, "the losers left something");
    let first = won[0].iter().filter(|won| **won).count();
    println!("writer 0 won {first} of {ROUNDS}");
}

//= SEMANTICS.md#posix-race
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_creators_of_one_record_one_succeeds_in_each_of_1000_rounds() {
    let root = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
    let stores = [open(root.path()).await, open(root.path()).await];
    for round in 0..ROUNDS {
        let record = RecordName::request("race", round);
        let (one, other) = tokio::join!(
            stores[0].create_record(&record, b"writer 0"),
            stores[1].create_record(&record, b"writer 1")
        );
        let body = match (one.unwrap(), other.unwrap()) {
            (Some(_), None) => b"writer 0",
            (None, Some(_)) => b"writer 1",
            both => unreachable!("round {round}: {both:?}"),
        };
        assert_eq!(stores[0].read_record(&record).await.unwrap().unwrap().body, body, "round {round}");
    }
}
