//! Two mounts of a SeaweedFS tree and its S3 endpoint as one store, named by the environment: `cargo xtask s3-lab` starts them and runs this.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "the functions that tests share are test code too"
)]

use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use kv_format::{ChunkKey, NamespaceDigest, ObjectName};
use kv_memory::HostBuf;
use kv_storage::conformance::Subject;
use kv_storage::vast::Clusters;
use kv_storage::{
    ErrorKind, GateOptions, KvStore, Publication, ReadPart, Result, Vast, VastOptions, conformance,
};

/// The clusters as JSON, of which `weed` is by two mounts and an S3 endpoint.
const CLUSTERS: &str = "KVBRIDGE_VAST_WEED";
/// The process that serves the second mount.
const MOUNT: &str = "KVBRIDGE_VAST_MOUNT";
const URL: &str = "vast://weed/kv-cache";
const LEN: usize = 2 << 20;

async fn clusters() -> Option<Clusters> {
    let Ok(text) = std::env::var(CLUSTERS) else {
        println!("SKIPPED: {CLUSTERS} is not set; cargo xtask s3-lab sets it");
        return None;
    };
    let clusters = Clusters::from_json(&text).unwrap();
    clusters.format(URL).await.unwrap();
    Some(clusters)
}

async fn open(clusters: &Clusters, gate: GateOptions) -> Vast {
    let opened = clusters.open(URL, VastOptions::default().gate(gate)).await.unwrap();
    assert!(opened.left_out.is_empty(), "{:?}", opened.left_out);
    assert_eq!(opened.store.paths().len(), 3);
    opened.store
}

fn name(number: u8) -> ObjectName {
    ObjectName { namespace: NamespaceDigest([3; 32]), key: ChunkKey([number; 32]), chunk_index: 0, slice: 0 }
}

async fn publish(store: &dyn KvStore, name: &ObjectName) -> Result<Publication> {
    let upload = store.begin(name, LEN as u64).await?;
    upload.write(0, HostBuf::copy_of(&vec![name.key.0[0]; LEN]).unwrap()).await.1?;
    upload.commit().await
}

/// The object if it is there, checked byte by byte.
async fn read(store: &dyn KvStore, name: &ObjectName) -> Result<bool> {
    let mut buffer = HostBuf::allocate(LEN).unwrap();
    buffer.set_len(LEN).unwrap();
    buffer.fill(!name.key.0[0]);
    let outcome = store.read(name, vec![ReadPart { offset: 0, buffer }]).await;
    let found = outcome.result?.is_some();
    let wrong = found.then(|| outcome.buffers[0].iter().position(|byte| *byte != name.key.0[0])).flatten();
    assert_eq!(wrong, None, "a byte of {name} is wrong");
    Ok(found)
}

/// Every check of the suite that is about objects. Records are left out: SeaweedFS's mounts keep lengths and link counts of files that are
/// replaced by others, which NFS with close-to-open consistency does not.
//= SEMANTICS.md#vast-one-namespace
//= SEMANTICS.md#vast-kinds
#[tokio::test(flavor = "multi_thread")]
async fn the_suites_objects_over_two_mounts_and_an_endpoint_of_one_tree() {
    let Some(clusters) = clusters().await else { return };
    let store = open(&clusters, GateOptions::default()).await;
    let writer: Arc<dyn KvStore> = Arc::new(store.clone());
    let reader: Arc<dyn KvStore> = Arc::new(open(&clusters, GateOptions::default()).await);
    let subject = |seed| Subject::new(Arc::clone(&writer), Arc::clone(&reader), seed).unwrap();
    macro_rules! hold {
        ($($check:ident),+ $(,)?) => {
            $(
                let seed = rand();
                if let Err(failure) = conformance::$check(&subject(seed)).await {
                    panic!("{} (seed {seed:#x}): {failure}", stringify!($check));
                }
            )+
        };
    }
    hold!(
        buffers_come_back,
        missing_is_none,
        invisible_before_the_commit,
        sizes_and_write_orders,
        create_only_under_a_race,
        whole_under_concurrent_reads,
        incomplete_commits_are_refused,
        writes_behind_the_end_are_refused,
        abort_and_drop_leave_nothing,
        ranges_are_exact,
        ranges_behind_the_end_are_refused,
        streamed_reads_are_exact,
        streamed_reads_miss_and_refuse,
        writes_from_a_source,
        dropped_calls_keep_their_buffers,
        list_in_order_and_in_pages,
        delete_frees_the_name,
        quarantine_checks_the_version,
    );
    let moved: Vec<u64> = store.paths().iter().map(|path| path.moved_bytes).collect();
    println!("bytes by each path of the writer: {moved:?}");
    assert!(moved.iter().all(|moved| *moved > 0), "{moved:?}");
}

/// What is written by one path alone is read by each of the others alone.
//= SEMANTICS.md#vast-one-namespace
#[tokio::test(flavor = "multi_thread")]
async fn what_one_path_wrote_every_other_reads() {
    let Some(clusters) = clusters().await else { return };
    let mut alone: Vec<Arc<dyn KvStore>> = Vec::new();
    for url in clusters.urls(URL).unwrap() {
        alone.push(kv_storage::open(&url).await.unwrap());
    }
    for (number, writer) in (100..).zip(&alone) {
        assert_eq!(publish(&**writer, &name(number)).await.unwrap(), Publication::Published);
        for reader in &alone {
            assert!(
                read(&**reader, &name(number)).await.unwrap(),
                "{reader} does not see what {writer} wrote"
            );
            assert_eq!(publish(&**reader, &name(number)).await.unwrap(), Publication::AlreadyExists);
        }
        assert!(writer.delete(&name(number)).await.unwrap());
    }
}

fn rand() -> u64 {
    kv_storage::env::Environment::default().entropy.next_u64()
}

/// A process that was stopped; dropped, it goes on, since whoever waits for a stopped mount waits for ever.
struct Stopped(String);

impl Drop for Stopped {
    fn drop(&mut self) {
        signal(&self.0, "-CONT");
    }
}

fn signal(process: &str, signal: &str) {
    assert!(
        Command::new("kill").args([signal, process]).status().unwrap().success(),
        "kill {signal} {process}"
    );
}

//= SEMANTICS.md#vast-hang
//= SEMANTICS.md#vast-readmission
#[tokio::test(flavor = "multi_thread")]
async fn a_mount_whose_server_stops_hangs_nobody_and_is_used_again_when_it_goes_on() {
    let (Some(clusters), Ok(mount)) = (clusters().await, std::env::var(MOUNT)) else { return };
    let second = Duration::from_secs(1);
    let gate = GateOptions::default()
        .deadline(Some(second))
        .failures(2)
        .probe_deadline(second)
        .intervals(second / 4, second);
    let store = open(&clusters, gate).await;
    for number in 0..24 {
        publish(&store, &name(number)).await.unwrap();
    }
    let mut stopped = None;
    for number in 0..48 {
        if number == 8 {
            signal(&mount, "-STOP");
            stopped = Some(Stopped(mount.clone()));
        }
        assert!(read(&store, &name(number % 24)).await.unwrap(), "object {number}");
    }
    // An upload that has its path already fails and is begun again by another.
    for number in 24..40 {
        let mut published = publish(&store, &name(number)).await;
        while let Err(error) = published {
            assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
            assert!(store.another_way(&name(number), kv_storage::Setback::Upload), "{error}");
            published = publish(&store, &name(number)).await;
        }
    }
    let down: Vec<bool> = store.paths().iter().map(|path| path.health.down).collect();
    assert_eq!(down, [false, true, false]);
    drop(stopped);
    let back = async {
        while store.paths().iter().any(|path| path.health.down) {
            tokio::time::sleep(second / 10).await;
        }
    };
    tokio::time::timeout(60 * second, back).await.expect("the mount works again and is not used");
    store.idle().await;
    for number in 0..40 {
        assert!(read(&store, &name(number)).await.unwrap());
        store.delete(&name(number)).await.unwrap();
    }
}
