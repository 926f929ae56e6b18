//! Full and read-only disks.

use std::path::{Path, PathBuf};

use kv_format::RecordName;
use kv_storage::{ErrorKind, KvStore, PosixOptions, PosixStore, Publication};
use rustix::mount::{MountFlags, UnmountFlags, mount, mount_remount, unmount};

use crate::require::skip;
use crate::{files_in, name, open, publish, read_byte};

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
            Err(error) => skip(&format!("a tmpfs cannot be mounted here ({error}); run as root")),
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
