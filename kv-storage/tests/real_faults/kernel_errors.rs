//! Errors and short counts of reads, writes, flushes and closes.

use fuser::Errno;
use kv_format::RecordName;
use kv_storage::posix::FsyncPolicy;
use kv_storage::{ErrorKind, KvStore, PosixOptions, PosixStore, Publication, Retry};

use crate::fuse::{Answer, Call, Mounted};
use crate::{name, open, publish, read_all, temporaries};

/// A new store on a file system that does what it is told.
async fn scene() -> Option<(Mounted, PosixStore)> {
    let disk = Mounted::mount()?;
    let store = open(disk.path()).await;
    // Directories and their flushes are done with.
    publish(&store, &name(0), b"before").await.unwrap();
    store.create_record(&RecordName::request("before", 0), b"before").await.unwrap().unwrap();
    Some((disk, store))
}

/// Nothing is visible or left of a save that failed, what was there before is unharmed, and the next save succeeds.
async fn assert_nothing_happened(disk: &Mounted, store: &PosixStore, context: &str) {
    disk.script.clear();
    store.idle().await;
    assert_eq!(store.head(&name(1)).await.unwrap(), None, "{context}");
    assert_eq!(store.read_record(&RecordName::request("r", 0)).await.unwrap(), None, "{context}");
    assert_eq!(temporaries(disk.path()), Vec::<std::path::PathBuf>::new(), "{context}");
    assert_eq!(read_all(store, &name(0), 6).await.unwrap().as_deref(), Some(&b"before"[..]), "{context}");
    assert_eq!(publish(store, &name(1), b"later").await.unwrap(), Publication::Published, "{context}");
    assert!(store.delete(&name(1)).await.unwrap());
}

/// Makes a call fail once for an object and once for a record, and returns the two errors.
async fn saves_that_fail(
    disk: &Mounted,
    store: &PosixStore,
    call: Call,
    errno: Errno,
) -> [kv_storage::Error; 2] {
    disk.script.next(call, 1, Answer::Fails(errno));
    let object = publish(store, &name(1), &[7; 9000]).await.unwrap_err();
    assert!(object.to_string().contains(&name(1).to_string()), "{object}");
    // The failed save's file is closed in the background: that call is not the one that is to fail.
    store.idle().await;
    disk.script.clear();
    disk.script.next(call, 1, Answer::Fails(errno));
    let record = store.create_record(&RecordName::request("r", 0), b"r").await.unwrap_err();
    assert_nothing_happened(disk, store, &format!("{call:?} {errno:?}")).await;
    [object, record]
}

// Row 23.
//= SEMANTICS.md#posix-no-space
#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_or_quota_found_late_drops_the_save_and_leaves_nothing() {
    let Some((disk, store)) = scene().await else { return };
    for errno in [Errno::ENOSPC, Errno::EDQUOT] {
        for call in [Call::Create, Call::Write, Call::Fsync, Call::Flush, Call::Link] {
            for error in saves_that_fail(&disk, &store, call, errno).await {
                assert_eq!(error.kind(), ErrorKind::NoSpace, "{call:?}: {error}");
                assert_eq!(error.retry(), Retry::Later, "{call:?}: {error}");
                assert!(error.to_string().contains("free space, raise the quota"), "{call:?}: {error}");
            }
        }
    }
}

// Row 24.
//= SEMANTICS.md#posix-write-error
#[tokio::test(flavor = "multi_thread")]
async fn eio_on_a_write_publishes_nothing() {
    let Some((disk, store)) = scene().await else { return };
    for error in saves_that_fail(&disk, &store, Call::Write, Errno::EIO).await {
        assert_eq!((error.kind(), error.retry()), (ErrorKind::Backend, Retry::Never), "{error}");
    }
}

// Row 24.
//= SEMANTICS.md#posix-flush-final
#[tokio::test(flavor = "multi_thread")]
async fn eio_only_at_fsync_publishes_nothing_and_is_final() {
    let Some((disk, store)) = scene().await else { return };
    for error in saves_that_fail(&disk, &store, Call::Fsync, Errno::EIO).await {
        assert_eq!((error.kind(), error.retry()), (ErrorKind::Backend, Retry::Never), "{error}");
    }
    // The kernel answers the second fsync of a file with success, whatever became of its bytes: there is none.
    disk.script.always(Call::Fsync, Answer::Fails(Errno::EIO));
    let (flushes, links) = (disk.script.count(Call::Fsync), disk.script.count(Call::Link));
    publish(&store, &name(1), b"lost").await.unwrap_err();
    assert_eq!(disk.script.count(Call::Fsync) - flushes, 1, "a failed flush was tried again");
    assert_eq!(disk.script.count(Call::Link), links, "a file that was not flushed was published");
}

// Row 24, where the policy flushes nothing: a close still tells.
//= SEMANTICS.md#posix-close-error
#[tokio::test(flavor = "multi_thread")]
async fn eio_at_close_publishes_nothing_under_every_policy() {
    let Some((disk, store)) = scene().await else { return };
    saves_that_fail(&disk, &store, Call::Flush, Errno::EIO).await;
    for policy in [FsyncPolicy::CloseToOpen, FsyncPolicy::None] {
        let store = PosixStore::open(disk.path(), PosixOptions::default().fsync(policy)).await.unwrap();
        let flushes = disk.script.count(Call::Fsync);
        for error in saves_that_fail(&disk, &store, Call::Flush, Errno::EIO).await {
            assert_eq!(error.kind(), ErrorKind::Backend, "{policy:?}: {error}");
            assert!(error.to_string().contains("cannot close"), "{policy:?}: {error}");
        }
        assert_eq!(disk.script.count(Call::Fsync), flushes, "{policy:?} flushes");
    }
}

// Row 5: either state is legal behind the link, and this is the one that a crash would also leave.
//= SEMANTICS.md#posix-directory-flush
#[tokio::test(flavor = "multi_thread")]
async fn eio_at_the_flush_of_a_directory_is_an_error_and_the_object_is_whole() {
    let Some((disk, store)) = scene().await else { return };
    disk.script.next(Call::FsyncDir, 1, Answer::Fails(Errno::EIO));
    // A neighbour of what was published before: nothing else in the tree is flushed.
    let neighbour = kv_format::ObjectName { chunk_index: 1, ..name(0) };
    let error = publish(&store, &neighbour, b"visible").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Backend, "{error}");
    assert!(error.to_string().contains("flush the directory"), "{error}");
    assert_eq!(read_all(&store, &neighbour, 7).await.unwrap().as_deref(), Some(&b"visible"[..]));
    assert_eq!(publish(&store, &neighbour, b"visible").await.unwrap(), Publication::AlreadyExists);
    assert_eq!(temporaries(disk.path()), Vec::<std::path::PathBuf>::new());
}

// Row 25.
//= SEMANTICS.md#posix-read-error
#[tokio::test(flavor = "multi_thread")]
async fn eio_on_a_read_is_an_error_and_no_miss_and_the_next_read_succeeds() {
    let Some((disk, store)) = scene().await else { return };
    disk.script.next(Call::Read, 1, Answer::Fails(Errno::EIO));
    let error = read_all(&store, &name(0), 6).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Backend, "{error}");
    assert!(error.to_string().contains(&name(0).to_string()), "{error}");
    assert_eq!(read_all(&store, &name(0), 6).await.unwrap().as_deref(), Some(&b"before"[..]));
    disk.script.next(Call::Read, 1, Answer::Fails(Errno::EIO));
    store.read_record(&RecordName::request("before", 0)).await.unwrap_err();
    assert!(store.read_record(&RecordName::request("before", 0)).await.unwrap().is_some());
}

// Row 26.
//= SEMANTICS.md#posix-stale
#[tokio::test(flavor = "multi_thread")]
async fn estale_on_a_read_looks_the_name_up_again_and_is_then_a_miss() {
    let Some((disk, store)) = scene().await else { return };
    let record = RecordName::request("before", 0);
    let stale = |times| {
        disk.script.clear();
        disk.script.next(Call::Read, times, Answer::Fails(Errno::ESTALE));
    };
    for (times, hit) in [(1, true), (2, false)] {
        stale(times);
        let bytes = read_all(&store, &name(0), 6).await.unwrap();
        assert_eq!(bytes.as_deref(), hit.then_some(&b"before"[..]), "stale {times} times");
    }
    // A record may be replaced again and again, and is there all the time.
    for (times, hit) in [(4, true), (5, false)] {
        stale(times);
        let body = store.read_record(&record).await.unwrap().map(|record| record.body);
        assert_eq!(body.as_deref(), hit.then_some(&b"before"[..]), "stale {times} times");
    }
}

// Row 27.
//= SEMANTICS.md#posix-short
#[tokio::test(flavor = "multi_thread")]
async fn short_reads_and_writes_are_continued() {
    let Some((disk, store)) = scene().await else { return };
    let bytes: Vec<u8> = (0..10_000_u32).map(|n| n.to_le_bytes()[0] ^ n.to_le_bytes()[1]).collect();
    for short in [1, 7, 4095, 4097] {
        let times = 40;
        disk.script.next(Call::Write, times, Answer::Short(short));
        publish(&store, &name(1), &bytes).await.unwrap();
        let file = std::fs::read(disk.path().join(name(1).to_string())).unwrap();
        assert!(file == bytes, "writes of {short} bytes");
        disk.script.next(Call::Read, times, Answer::Short(short));
        let read = read_all(&store, &name(1), bytes.len()).await.unwrap().unwrap();
        assert!(read == bytes, "reads of {short} bytes");
        disk.script.clear();
        assert!(store.delete(&name(1)).await.unwrap());
    }
    let record = RecordName::request("short", 0);
    disk.script.next(Call::Write, 2, Answer::Short(1));
    disk.script.next(Call::Read, 2, Answer::Short(1));
    store.create_record(&record, b"body").await.unwrap().unwrap();
    assert_eq!(store.read_record(&record).await.unwrap().unwrap().body, b"body");
}

// Row 27: a device that takes nothing and says nothing is not waited for.
//= SEMANTICS.md#posix-short
#[tokio::test(flavor = "multi_thread")]
async fn a_write_of_no_bytes_is_an_error() {
    let Some((disk, store)) = scene().await else { return };
    disk.script.next(Call::Write, 1, Answer::Short(0));
    let error = publish(&store, &name(1), b"nothing").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Backend, "{error}");
    assert_nothing_happened(&disk, &store, "a write of no bytes").await;
}

// Row 27.
//= SEMANTICS.md#posix-interrupted
#[tokio::test(flavor = "multi_thread")]
async fn interrupted_calls_are_made_again() {
    let Some((disk, store)) = scene().await else { return };
    let calls =
        [Call::Create, Call::Write, Call::Fsync, Call::Flush, Call::Link, Call::Unlink, Call::FsyncDir];
    for call in calls {
        disk.script.next(call, 1, Answer::Fails(Errno::EINTR));
    }
    assert_eq!(publish(&store, &name(1), b"body").await.unwrap(), Publication::Published);
    disk.script.next(Call::Read, 3, Answer::Fails(Errno::EINTR));
    assert_eq!(read_all(&store, &name(1), 4).await.unwrap().as_deref(), Some(&b"body"[..]));
    disk.script.next(Call::Rename, 1, Answer::Fails(Errno::EINTR));
    let record = RecordName::request("before", 0);
    let version = store.read_record(&record).await.unwrap().unwrap().version;
    store.replace_record(&record, &version, b"after").await.unwrap().unwrap();
    assert_eq!(temporaries(disk.path()), Vec::<std::path::PathBuf>::new());
}

// Row 28.
//= SEMANTICS.md#posix-read-only
#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_becomes_read_only_refuses_saves_and_serves_reads() {
    let Some((disk, store)) = scene().await else { return };
    for errno in [Errno::EROFS, Errno::EACCES] {
        for error in saves_that_fail(&disk, &store, Call::Create, errno).await {
            assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error}");
        }
    }
}
