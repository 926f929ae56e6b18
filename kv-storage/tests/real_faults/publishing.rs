//! How a file gets its name where the file system cannot do everything.

use fuser::Errno;
use kv_format::RecordName;
use kv_storage::{ErrorKind, KvStore, PosixOptions, PosixStore, Publication};

use crate::fuse::{Answer, Call, Mounted};
use crate::{name, open, publish, read_all, temporaries};

// Row 30.
//= SEMANTICS.md#posix-no-links
#[tokio::test(flavor = "multi_thread")]
async fn without_hard_links_a_rename_that_does_not_replace_publishes() {
    for errno in [Errno::EPERM, Errno::EOPNOTSUPP, Errno::ENOSYS, Errno::EMLINK] {
        let Some(disk) = Mounted::mount() else { return };
        disk.script.always(Call::Link, Answer::Fails(errno));
        let store = open(disk.path()).await;
        let links = disk.script.count(Call::Link);
        assert_eq!(publish(&store, &name(1), b"first").await.unwrap(), Publication::Published);
        assert_eq!(publish(&store, &name(1), b"other").await.unwrap(), Publication::AlreadyExists);
        assert_eq!(read_all(&store, &name(1), 5).await.unwrap().as_deref(), Some(&b"first"[..]));
        let record = RecordName::request("r", 0);
        store.create_record(&record, b"one").await.unwrap().unwrap();
        assert_eq!(store.create_record(&record, b"two").await.unwrap(), None);
        // A lost answer of a rename: the temporary name is gone, or the new one is taken, by us.
        for (n, errno) in [(2, Errno::ENOENT), (3, Errno::EEXIST)] {
            disk.script.next(Call::Rename, 1, Answer::DoneBut(errno));
            assert_eq!(publish(&store, &name(n), b"ours").await.unwrap(), Publication::Published);
        }
        assert_eq!(disk.script.count(Call::Link), links, "the probe has told that there are none");
        store.idle().await;
        assert_eq!(temporaries(disk.path()), Vec::<std::path::PathBuf>::new());
    }
}

// Row 30.
//= SEMANTICS.md#posix-no-links
#[tokio::test(flavor = "multi_thread")]
async fn a_file_system_with_neither_is_refused() {
    let Some(disk) = Mounted::mount() else { return };
    disk.script.always(Call::Link, Answer::Fails(Errno::EPERM));
    // What a file system answers that knows no flags; the kernel itself sees a taken name.
    disk.script.always(Call::Rename, Answer::Fails(Errno::EINVAL));
    let options = PosixOptions::default().format_if_empty(true);
    let error = PosixStore::open(disk.path(), options).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    assert!(error.to_string().contains("neither hard-link nor rename without replacing"), "{error}");
    assert_eq!(disk.path().read_dir().unwrap().count(), 0, "the probe or a marker is left");
}

//= SEMANTICS.md#posix-probe-full
#[tokio::test(flavor = "multi_thread")]
async fn what_a_full_disk_hid_from_the_probe_is_found_out_at_the_first_save() {
    let Some(disk) = Mounted::mount() else { return };
    disk.script.always(Call::Link, Answer::Fails(Errno::EPERM));
    open(disk.path()).await;
    disk.script.next(Call::Write, 1, Answer::Fails(Errno::ENOSPC));
    let late = open(disk.path()).await;
    assert_eq!(publish(&late, &name(1), b"body").await.unwrap(), Publication::Published);
}
