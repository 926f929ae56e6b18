//! Faults that the system makes: full disks, read-only mounts, and things that stand where files should be.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stderr,
    reason = "the functions that tests share are test code too"
)]

use std::path::{Path, PathBuf};
use std::time::Duration;

use kv_format::{ChunkKey, NamespaceDigest, ObjectName, RecordName};
use kv_memory::HostBuf;
use kv_storage::{ErrorKind, KvStore, PosixOptions, PosixStore, Publication, ReadPart};
use rustix::fs::{CWD, FileType, Mode, mknodat};
use rustix::mount::{MountFlags, UnmountFlags, mount, mount_remount, unmount};

fn name(n: u8) -> ObjectName {
    ObjectName { namespace: NamespaceDigest([1; 32]), key: ChunkKey([n; 32]), chunk_index: 0, slice: 0 }
}

/// A tmpfs of one MiB for one test.
struct SmallDisk {
    directory: tempfile::TempDir,
}

impl SmallDisk {
    /// `None`, with a word on stderr, where mounting is not permitted.
    fn mount() -> Option<Self> {
        let directory = tempfile::tempdir().unwrap();
        let mounted =
            mount("tmpfs", directory.path(), "tmpfs", MountFlags::empty(), Some(c"size=1m,mode=700"));
        match mounted {
            Ok(()) => Some(Self { directory }),
            Err(error) => {
                eprintln!("SKIPPED: a tmpfs cannot be mounted here ({error}); run as root");
                None
            }
        }
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = unmount(self.directory.path(), UnmountFlags::DETACH);
    }
}

async fn open(root: &Path) -> PosixStore {
    PosixStore::open(root, PosixOptions::default().format_if_empty(true)).await.unwrap()
}

async fn publish(store: &PosixStore, name: &ObjectName, bytes: &[u8]) -> kv_storage::Result<Publication> {
    let upload = store.begin(name, bytes.len() as u64).await?;
    upload.write(0, HostBuf::copy_of(bytes).unwrap()).await.1?;
    upload.commit().await
}

/// A read of one byte that must not block.
async fn read_byte(store: &PosixStore, name: &ObjectName) -> kv_storage::Result<Option<u8>> {
    let parts = vec![ReadPart { offset: 0, buffer: HostBuf::copy_of(&[0]).unwrap() }];
    let read = tokio::time::timeout(Duration::from_secs(30), store.read(name, parts));
    let outcome = read.await.expect("the read blocks");
    Ok(outcome.result?.map(|_| outcome.buffers[0][0]))
}

fn files_in(directory: &Path) -> Vec<PathBuf> {
    directory.read_dir().unwrap().map(|entry| entry.unwrap().path()).collect()
}

//= SEMANTICS.md#posix-no-space
//= SEMANTICS.md#posix-probe-full
#[tokio::test]
async fn a_full_disk_is_reported_at_the_begin_and_leaves_nothing() {
    let Some(disk) = SmallDisk::mount() else { return };
    let store = open(disk.path()).await;
    let error = store.begin(&name(1), 2 << 20).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoSpace, "{error}");
    assert!(error.to_string().contains(&name(1).to_string()), "the message names no path: {error}");
    let directory = disk.path().join(name(1).to_string());
    assert_eq!(files_in(directory.parent().unwrap()), Vec::<PathBuf>::new());

    // What the refused upload had reserved is free again.
    let answer = publish(&store, &name(2), &vec![7; 700 << 10]).await.unwrap();
    assert_eq!(answer, Publication::Published);
    let upload = store.begin(&name(3), 200 << 10).await.unwrap();
    let error = store.begin(&name(4), 200 << 10).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoSpace, "a running upload's reservation was given away: {error}");
    drop(upload);
    store.idle().await;
    drop(store.begin(&name(4), 200 << 10).await.unwrap());
    store.idle().await;

    // A record on a disk that is full to the last page.
    let filler = disk.path().join("filler");
    let full = std::fs::write(&filler, vec![0; 2 << 20]).unwrap_err();
    assert_eq!(full.kind(), std::io::ErrorKind::StorageFull);
    let record = RecordName::request("full", 0);
    let error = store.create_record(&record, &[1; 5000]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoSpace, "{error}");
    assert_eq!(store.read_record(&record).await.unwrap(), None);
    // Whoever opens it now can read, and leaves nothing behind.
    let before = files_in(disk.path());
    let late = open(disk.path()).await;
    assert_eq!(read_byte(&late, &name(2)).await.unwrap(), Some(7));
    assert_eq!(files_in(disk.path()), before);
    std::fs::remove_file(filler).unwrap();
    store.create_record(&record, &[1; 5000]).await.unwrap().unwrap();
    assert_eq!(read_byte(&store, &name(2)).await.unwrap(), Some(7));
}

//= SEMANTICS.md#posix-read-only
#[tokio::test]
async fn a_read_only_mount_refuses_writes_and_serves_reads() {
    let Some(disk) = SmallDisk::mount() else { return };
    let store = open(disk.path()).await;
    publish(&store, &name(1), b"x").await.unwrap();
    store.idle().await;
    mount_remount(disk.path(), MountFlags::RDONLY, c"").unwrap();
    let refused = [
        store.begin(&name(2), 1).await.map(drop),
        store.delete(&name(1)).await.map(drop),
        store.create_record(&RecordName::request("r", 0), b"r").await.map(drop),
        PosixStore::open(disk.path(), PosixOptions::default()).await.map(drop),
    ];
    for answer in refused {
        let error = answer.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error}");
        assert!(error.to_string().contains(disk.path().to_str().unwrap()), "{error}");
    }
    assert_eq!(read_byte(&store, &name(1)).await.unwrap(), Some(b'x'));
}

//= SEMANTICS.md#posix-beneath
#[tokio::test]
async fn what_stands_at_an_objects_name_and_is_no_file_is_refused() {
    let root = tempfile::tempdir().unwrap();
    let store = open(root.path()).await;
    publish(&store, &name(1), b"innocent").await.unwrap();
    let target = root.path().join(name(1).to_string());
    let secret = root.path().join("secret");
    std::fs::write(&secret, "secret").unwrap();
    type Plant<'a> = (&'a str, &'a dyn Fn(&Path));
    let plants: [Plant<'_>; 4] = [
        ("a link to a file outside", &|path| std::os::unix::fs::symlink(&secret, path).unwrap()),
        ("a link to another object", &|path| std::os::unix::fs::symlink(&target, path).unwrap()),
        ("a FIFO", &|path| {
            mknodat(CWD, path, FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
        }),
        ("a directory", &|path| std::fs::create_dir(path).unwrap()),
    ];
    for (n, (what, plant)) in (10..).zip(plants) {
        let planted =
            ObjectName { key: ChunkKey(std::array::from_fn(|i| if i == 0 { 1 } else { n })), ..name(1) };
        plant(&root.path().join(planted.to_string()));
        let refused = |error: kv_storage::Error| {
            let kind = error.kind();
            assert!(matches!(kind, ErrorKind::PermissionDenied | ErrorKind::Backend), "{what}: {error}");
            assert!(error.to_string().contains(&planted.to_string()), "{what}: {error}");
        };
        refused(read_byte(&store, &planted).await.unwrap_err());
        refused(store.head(&planted).await.unwrap_err());
        // It can neither be replaced nor hidden by a save.
        assert_eq!(publish(&store, &planted, b"new").await.unwrap(), Publication::AlreadyExists, "{what}");
        let listed = store.list(&planted.namespace, None, 10).await.unwrap();
        assert_eq!(listed.len(), 1, "{what} is listed: {listed:?}");
    }
    assert_eq!(std::fs::read(&secret).unwrap(), b"secret");
}

#[tokio::test]
async fn a_linked_directory_on_the_way_is_refused_and_nothing_is_made_behind_it() {
    let (root, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let store = open(root.path()).await;
    std::fs::remove_dir_all(root.path().join("v1")).unwrap();
    std::os::unix::fs::symlink(outside.path(), root.path().join("v1")).unwrap();
    store.begin(&name(1), 1).await.map(drop).unwrap_err();
    read_byte(&store, &name(1)).await.unwrap_err();
    store.list(&name(1).namespace, None, 1).await.unwrap_err();
    store.create_record(&RecordName::request("r", 0), b"r").await.unwrap_err();
    assert_eq!(files_in(outside.path()), Vec::<PathBuf>::new());
}

#[tokio::test]
async fn a_file_where_a_directory_should_be_is_an_error_and_no_miss() {
    let root = tempfile::tempdir().unwrap();
    let store = open(root.path()).await;
    std::fs::remove_dir_all(root.path().join("v1")).unwrap();
    std::fs::write(root.path().join("v1"), "").unwrap();
    for answer in [
        read_byte(&store, &name(1)).await.map(drop),
        store.head(&name(1)).await.map(drop),
        store.begin(&name(1), 1).await.map(drop),
        store.list(&name(1).namespace, None, 1).await.map(drop),
    ] {
        let error = answer.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Backend, "{error}");
        assert!(error.to_string().contains("v1/"), "{error}");
    }
}
