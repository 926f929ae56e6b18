//! What the posix store promises beyond the contract of every store.
#![expect(clippy::unwrap_used, reason = "the functions that tests share are test code too")]

use std::path::{Path, PathBuf};
use std::time::Duration;

use kv_format::{ChunkKey, NamespaceDigest, ObjectName, RecordName};
use kv_memory::HostBuf;
use kv_storage::env::{Entropy, Environment};
use kv_storage::posix::FsyncPolicy;
use kv_storage::{ErrorKind, KvStore, PosixOptions, PosixStore, Publication, ReadPart};

/// A new directory, in memory where there is a tmpfs: a disk takes a tenth of a second for the 256 directories of a namespace.
fn folder() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

fn name(n: u8) -> ObjectName {
    ObjectName { namespace: NamespaceDigest([1; 32]), key: ChunkKey([n; 32]), chunk_index: 0, slice: 0 }
}

async fn open(root: &Path, fsync: FsyncPolicy) -> PosixStore {
    PosixStore::open(root, PosixOptions::default().fsync(fsync).format_if_empty(true)).await.unwrap()
}

async fn publish(store: &PosixStore, name: &ObjectName) {
    let upload = store.begin(name, 4).await.unwrap();
    upload.write(0, HostBuf::copy_of(b"body").unwrap()).await.1.unwrap();
    assert_eq!(upload.commit().await.unwrap(), Publication::Published);
}

/// Everything in the directory of an object.
fn beside(root: &Path, name: &ObjectName) -> Vec<PathBuf> {
    let path = root.join(name.to_string());
    path.parent().unwrap().read_dir().unwrap().map(|entry| entry.unwrap().path()).collect()
}

//= SEMANTICS.md#posix-durable
//= SEMANTICS.md#posix-delete-unflushed
#[tokio::test]
async fn durable_flushes_file_and_directory_of_every_publication() {
    let root = folder();
    let store = open(root.path(), FsyncPolicy::default()).await;
    publish(&store, &name(1)).await; // makes the directories
    let before = store.flushes();
    publish(&store, &name(1).next_chunk()).await;
    assert_eq!(store.flushes() - before, 2, "the file and its directory");
    let record = RecordName::request("r", 0);
    let version = store.create_record(&record, b"one").await.unwrap().unwrap();
    let before = store.flushes();
    store.replace_record(&record, &version, b"two").await.unwrap().unwrap();
    assert_eq!(store.flushes() - before, 2, "the record and its directory");
    let before = store.flushes();
    assert!(store.delete(&name(1)).await.unwrap());
    assert_eq!(store.flushes(), before, "a deletion was flushed");
}

/// The neighbour in the same directory.
trait NextChunk {
    fn next_chunk(self) -> Self;
}

impl NextChunk for ObjectName {
    fn next_chunk(mut self) -> Self {
        self.chunk_index += 1;
        self
    }
}

//= SEMANTICS.md#posix-durable-above
#[tokio::test]
async fn the_directories_above_are_flushed_once_by_every_process() {
    let root = folder();
    let maker = open(root.path(), FsyncPolicy::default()).await;
    publish(&maker, &name(1)).await;
    // Another process's: the maker may not have come to its flush yet when these directories are seen.
    let store = open(root.path(), FsyncPolicy::default()).await;
    for (chunk, expected) in [(1, 5), (2, 2)] {
        let before = store.flushes();
        publish(&store, &ObjectName { chunk_index: chunk, ..name(1) }).await;
        assert_eq!(store.flushes() - before, expected, "the file, its directory, and once the three above");
    }
    let before = store.flushes();
    publish(&store, &name(2)).await;
    assert_eq!(store.flushes() - before, 2, "the fan-out is known, whichever of its directories");
}

//= SEMANTICS.md#posix-close-to-open
//= SEMANTICS.md#posix-unflushed
#[tokio::test]
async fn the_other_policies_flush_nothing_on_a_local_file_system() {
    for policy in [FsyncPolicy::CloseToOpen, FsyncPolicy::None] {
        let root = folder();
        let store = open(root.path(), policy).await;
        assert!(!store.is_network(), "this test needs a local temporary directory");
        publish(&store, &name(1)).await;
        store.create_record(&RecordName::request("r", 0), b"r").await.unwrap().unwrap();
        assert_eq!(store.flushes(), 0, "{policy:?}");
    }
}

//= SEMANTICS.md#posix-dropped-upload
#[tokio::test]
async fn a_dropped_upload_takes_its_temporary_file_with_it() {
    let root = folder();
    let store = open(root.path(), FsyncPolicy::None).await;
    let upload = store.begin(&name(1), 4).await.unwrap();
    upload.write(0, HostBuf::copy_of(b"body").unwrap()).await.1.unwrap();
    assert_eq!(beside(root.path(), &name(1)).len(), 1);
    drop(upload);
    store.idle().await;
    assert_eq!(beside(root.path(), &name(1)), Vec::<PathBuf>::new());

    let upload = store.begin(&name(1), 4).await.unwrap();
    let error = upload.commit().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    store.idle().await;
    assert_eq!(beside(root.path(), &name(1)), Vec::<PathBuf>::new());
}

#[tokio::test]
async fn an_upload_that_outlives_its_store_still_cleans_up() {
    let root = folder();
    let store = open(root.path(), FsyncPolicy::None).await;
    let other = store.clone();
    let upload = store.begin(&name(1), 4).await.unwrap();
    drop(store);
    drop(upload);
    other.idle().await;
    assert_eq!(beside(root.path(), &name(1)), Vec::<PathBuf>::new());
}

//= SEMANTICS.md#posix-list-skips
#[tokio::test]
async fn listings_skip_what_is_no_object() {
    let root = folder();
    let store = open(root.path(), FsyncPolicy::None).await;
    publish(&store, &name(1)).await;
    let path = root.path().join(name(1).to_string());
    let directory = path.parent().unwrap();
    let file = path.file_name().unwrap().to_str().unwrap();
    for foreign in
        [".nfs000000000000002a00000001", "README", &format!("{file}.tmp"), &file.replace(".0.0", ".00.0")]
    {
        std::fs::write(directory.join(foreign), "").unwrap();
    }
    let upload = store.begin(&name(1).next_chunk(), 4).await.unwrap();
    for limit in [1, 2, 10] {
        let listed = store.list(&name(1).namespace, None, limit).await.unwrap();
        let names: Vec<_> = listed.iter().map(|meta| meta.name).collect();
        assert_eq!(names, [name(1)], "limit {limit}");
    }
    drop(upload);
}

//= SEMANTICS.md#posix-quarantine
#[tokio::test]
async fn a_quarantined_object_is_kept_beside_the_store() {
    let root = folder();
    let store = open(root.path(), FsyncPolicy::Durable).await;
    for _ in 0..2 {
        publish(&store, &name(1)).await;
        let version = store.head(&name(1)).await.unwrap().unwrap().version;
        assert!(store.quarantine(&name(1), &version).await.unwrap());
    }
    let kept: Vec<_> = root.path().join("quarantine").read_dir().unwrap().collect();
    assert_eq!(kept.len(), 2);
    for entry in kept {
        let entry = entry.unwrap();
        assert_eq!(std::fs::read(entry.path()).unwrap(), b"body");
        let file = entry.file_name().into_string().unwrap();
        assert!(file.starts_with(&format!("{}.{}", name(1).namespace, name(1).key)), "{file}");
    }
}

//= SEMANTICS.md#posix-version
#[tokio::test]
async fn versions_differ_even_where_the_file_system_reuses_inodes() {
    use std::os::unix::fs::MetadataExt;
    let root = folder();
    let store = open(root.path(), FsyncPolicy::None).await;
    let (mut versions, mut inodes) = (std::collections::HashSet::new(), std::collections::HashSet::new());
    for round in 0..200 {
        publish(&store, &name(1)).await;
        inodes.insert(root.path().join(name(1).to_string()).metadata().unwrap().ino());
        let version = store.head(&name(1)).await.unwrap().unwrap().version;
        assert!(versions.insert(version), "round {round}");
        assert!(store.delete(&name(1)).await.unwrap());
    }
    println!("{} inodes for 200 objects", inodes.len());
}

/// Randomness that repeats itself.
#[derive(Debug)]
struct Fixed(u64);

impl Entropy for Fixed {
    fn next_u64(&self) -> u64 {
        self.0
    }
}

// What the test above cannot show where the kernel's clock is fine enough: the mark does not depend on it.
//= SEMANTICS.md#posix-version
#[tokio::test]
async fn the_nanoseconds_of_a_publication_are_random() {
    use std::os::unix::fs::MetadataExt;
    let root = folder();
    for (n, random, nanoseconds) in [(1, 123_456_789, 123_456_789), (2, u64::MAX, 709_551_615)] {
        let environment =
            Environment { entropy: std::sync::Arc::new(Fixed(random)), ..Environment::default() };
        let options = PosixOptions::default().environment(environment).format_if_empty(true);
        let store = PosixStore::open(root.path(), options).await.unwrap();
        publish(&store, &name(n)).await;
        let metadata = root.path().join(name(n).to_string()).metadata().unwrap();
        assert_eq!(metadata.mtime_nsec(), nanoseconds);
    }
}

//= SEMANTICS.md#posix-truncated
#[tokio::test]
async fn a_file_that_somebody_truncated_is_out_of_range_and_no_short_read() {
    let root = folder();
    let store = open(root.path(), FsyncPolicy::None).await;
    publish(&store, &name(1)).await;
    let file = std::fs::File::options().write(true).open(root.path().join(name(1).to_string()));
    file.unwrap().set_len(3).unwrap();
    let buffer = HostBuf::copy_of(b"....").unwrap();
    let outcome = store.read(&name(1), vec![ReadPart { offset: 0, buffer }]).await;
    assert_eq!(outcome.result.unwrap_err().kind(), ErrorKind::OutOfRange);
    assert_eq!(outcome.buffers[0].len(), 4);
}

// Row 22. What a load makes of it: kv-pipeline/tests/stored_files.rs.
//= SEMANTICS.md#posix-over-long
#[tokio::test]
async fn a_file_that_somebody_lengthened_says_so() {
    let root = folder();
    let store = open(root.path(), FsyncPolicy::None).await;
    publish(&store, &name(1)).await;
    let file = std::fs::File::options().write(true).open(root.path().join(name(1).to_string()));
    file.unwrap().set_len(5).unwrap();
    assert_eq!(store.head(&name(1)).await.unwrap().unwrap().len, 5);
    let buffer = HostBuf::copy_of(b"....").unwrap();
    let outcome = store.read(&name(1), vec![ReadPart { offset: 0, buffer }]).await;
    assert_eq!(outcome.result.unwrap().unwrap().len, 5);
}

//= SEMANTICS.md#posix-temporary-names
#[tokio::test]
async fn a_temporary_file_says_whose_it_is() {
    let root = folder();
    let store = open(root.path(), FsyncPolicy::None).await;
    let first = store.begin(&name(1), 4).await.unwrap();
    let second = store.begin(&name(1), 4).await.unwrap();
    let mut names: Vec<_> = beside(root.path(), &name(1))
        .into_iter()
        .map(|path| path.file_name().unwrap().to_str().unwrap().to_owned())
        .collect();
    names.dedup();
    assert_eq!(names.len(), 2, "{names:?}");
    let host = rustix::system::uname().nodename().to_str().unwrap().to_owned();
    for name in names {
        let words: Vec<&str> = name.trim_start_matches(".kv-tmp.").split('.').collect();
        let [named, process, random] = words[..] else { panic!("{name}") };
        assert!(host.replace(['.', '_'], "").starts_with(named), "{name} on {host}");
        assert_eq!(process, std::process::id().to_string());
        assert!(random.len() == 16 && random.bytes().all(|byte| byte.is_ascii_hexdigit()), "{name}");
    }
    first.abort().await.unwrap();
    second.abort().await.unwrap();
}

//= SEMANTICS.md#posix-sweeps
#[tokio::test(flavor = "multi_thread")]
async fn sweeps_at_once_beside_writers_harm_nobody() {
    let root = folder();
    let store = open(root.path(), FsyncPolicy::None).await;
    publish(&store, &name(1)).await;
    let directory = root.path().join(name(1).to_string()).parent().unwrap().to_owned();
    let old = std::time::UNIX_EPOCH + Duration::from_secs(1_000_000);
    for n in 0..200 {
        let file = std::fs::File::create(directory.join(format!(".kv-tmp.host.1.{n:016x}"))).unwrap();
        file.set_modified(old).unwrap();
    }
    // A fan-out whose maker died, and one that is not a fan-out: the store made nothing like it.
    for (name, inside) in
        [(".kv-tmp.host.1.00000000000000aa", "0f"), (".kv-tmp.host.1.00000000000000bb", "stranger")]
    {
        std::fs::create_dir_all(root.path().join("v1").join(name).join(inside)).unwrap();
        std::fs::File::open(root.path().join("v1").join(name)).unwrap().set_modified(old).unwrap();
    }
    let sweeps: Vec<_> = (0..4)
        .map(|_| {
            let root = root.path().to_owned();
            tokio::spawn(async move {
                let store = open(&root, FsyncPolicy::None).await;
                store.sweep(Duration::from_secs(3600)).await.unwrap()
            })
        })
        .collect();
    for chunk in 1..=50 {
        publish(&store, &ObjectName { chunk_index: chunk, ..name(1) }).await;
    }
    let mut swept = 0;
    for sweep in sweeps {
        swept += sweep.await.unwrap();
    }
    // The sweeps at open took part.
    assert!(swept <= 201, "{swept} of 201 were swept");
    store.idle().await;
    assert_eq!(store.sweep(Duration::from_secs(3600)).await.unwrap(), 0);
    assert_eq!(beside(root.path(), &name(1)).len(), 51, "the objects, and nothing beside them");
    let left = root.path().join("v1/.kv-tmp.host.1.00000000000000bb/stranger");
    assert!(left.is_dir(), "a directory that has something in it was emptied");
}

#[tokio::test]
async fn a_store_sweeps_the_dead_at_open_and_spares_the_living() {
    let root = folder();
    let store = open(root.path(), FsyncPolicy::None).await;
    let living = store.begin(&name(1), 4).await.unwrap();
    let directory = beside(root.path(), &name(1))[0].parent().unwrap().to_owned();
    let dead = directory.join(".kv-tmp.1.0123456789abcdef");
    let file = std::fs::File::create(&dead).unwrap();
    file.set_modified(std::time::UNIX_EPOCH + Duration::from_secs(1_000_000)).unwrap();
    open(root.path(), FsyncPolicy::None).await.idle().await;
    assert!(!dead.exists(), "the sweep at open left a dead temporary file");
    living.write(0, HostBuf::copy_of(b"body").unwrap()).await.1.unwrap();
    assert_eq!(living.commit().await.unwrap(), Publication::Published);
}

#[tokio::test]
async fn a_relative_root_is_refused() {
    let error = PosixStore::open(Path::new("."), PosixOptions::default()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
}
