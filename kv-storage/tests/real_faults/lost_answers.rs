//! Calls that succeed and whose answer is lost, so that the second attempt is reported: what NFS does, through real system calls.
//! `posix/retransmission.rs` in the crate has the calls that FUSE cannot make so.

use fuser::Errno;
use kv_format::RecordName;
use kv_storage::{KvStore, Publication};

use crate::fuse::{Answer, Call, Mounted};
use crate::{name, open, publish, read_all, temporaries};

//= SEMANTICS.md#posix-retransmitted
#[tokio::test(flavor = "multi_thread")]
async fn a_publication_whose_answer_was_lost_is_told_from_one_that_came_second() {
    let Some(disk) = Mounted::mount() else { return };
    let store = open(disk.path()).await;
    disk.script.next(Call::Link, 1, Answer::DoneBut(Errno::EEXIST));
    assert_eq!(publish(&store, &name(1), b"ours").await.unwrap(), Publication::Published);
    assert_eq!(publish(&store, &name(1), b"late").await.unwrap(), Publication::AlreadyExists);
    assert_eq!(read_all(&store, &name(1), 4).await.unwrap().as_deref(), Some(&b"ours"[..]));
    // The answer is lost for good: an error of the connection, of a call that was carried out.
    disk.script.next(Call::Link, 1, Answer::DoneBut(Errno::ETIMEDOUT));
    assert_eq!(publish(&store, &name(2), b"ours").await.unwrap(), Publication::Published);
    let record = RecordName::request("r", 0);
    disk.script.next(Call::Link, 1, Answer::DoneBut(Errno::EEXIST));
    let version = store.create_record(&record, b"ours").await.unwrap().expect("we created it");
    assert_eq!(store.create_record(&record, b"late").await.unwrap(), None);
    disk.script.next(Call::Rename, 1, Answer::DoneBut(Errno::ENOENT));
    store.replace_record(&record, &version, b"new").await.unwrap().expect("we replaced it");
    assert_eq!(store.read_record(&record).await.unwrap().unwrap().body, b"new");
    disk.script.next(Call::Unlink, 1, Answer::DoneBut(Errno::ENOENT));
    assert_eq!(publish(&store, &name(3), b"ours").await.unwrap(), Publication::Published);
    assert_eq!(temporaries(disk.path()), Vec::<std::path::PathBuf>::new());
}

//= SEMANTICS.md#posix-retransmitted
#[tokio::test(flavor = "multi_thread")]
async fn a_quarantine_whose_answer_was_lost_took_the_object_away() {
    let Some(disk) = Mounted::mount() else { return };
    let store = open(disk.path()).await;
    publish(&store, &name(1), b"bad").await.unwrap();
    let version = store.head(&name(1)).await.unwrap().unwrap().version;
    disk.script.next(Call::Rename, 1, Answer::DoneBut(Errno::ENOENT));
    assert!(store.quarantine(&name(1), &version).await.unwrap());
    assert_eq!(store.head(&name(1)).await.unwrap(), None);
    assert_eq!(publish(&store, &name(1), b"good").await.unwrap(), Publication::Published);
}
