//! A library that begins to lie or to fail while a store is open.

use kv_storage::{ErrorKind, KvStore, Publication};

use crate::libraries::{fake, faulty, open, shared_memory};
use crate::scene::{LEN, bytes, name, publish, read};

//= SEMANTICS.md#nixl-hint
//= SEMANTICS.md#nixl-question
#[tokio::test]
async fn what_it_fails_or_forgets_is_moved_by_plain_calls_and_counted() {
    for mode in ["short", "nothing", "fail", "fail-post", "fail-create"] {
        let root = shared_memory();
        let folder = tempfile::tempdir().unwrap();
        let switch = folder.path().join("switch");
        let store = open(root.path(), &faulty(mode, &switch)).await.unwrap();
        publish(&store, &name(0), &bytes(0)).await.unwrap();
        assert_eq!(store.io_engine().redone(), 0, "{mode}");

        std::fs::write(&switch, "").unwrap();
        assert_eq!(publish(&store, &name(1), &bytes(1)).await.unwrap(), Publication::Published, "{mode}");
        let written = store.io_engine().redone();
        assert_eq!(written, 1, "{mode}: the write");
        let stored = std::fs::read(root.path().join(name(1).to_string())).unwrap();
        assert!(stored == bytes(1), "{mode}: what was written is not what is stored");
        for number in [0, 1] {
            assert!(read(&store, &name(number)).await.unwrap().unwrap().0 == bytes(number), "{mode}");
        }
        assert_eq!(store.io_engine().redone() - written, 4, "{mode}: two objects in two parts");

        std::fs::remove_file(&switch).unwrap();
        publish(&store, &name(2), &bytes(2)).await.unwrap();
        assert!(read(&store, &name(2)).await.unwrap().unwrap().0 == bytes(2), "{mode}");
        assert_eq!(store.io_engine().redone(), written + 4, "{mode}: it is well again");
    }
}

/// NIXL has one code for every error; the kind is that of the plain call.
//= SEMANTICS.md#nixl-question
//= SEMANTICS.md#posix-truncated
#[tokio::test]
async fn a_file_that_was_shortened_is_out_of_range_whether_nixl_says_so_or_not() {
    for mode in ["ok", "short"] {
        let root = shared_memory();
        let folder = tempfile::tempdir().unwrap();
        let switch = folder.path().join("switch");
        let store = open(root.path(), &faulty(mode, &switch)).await.unwrap();
        publish(&store, &name(1), &bytes(1)).await.unwrap();
        std::fs::write(&switch, "").unwrap();
        let path = root.path().join(name(1).to_string());
        std::fs::OpenOptions::new().write(true).open(path).unwrap().set_len(LEN as u64 - 1).unwrap();
        assert_eq!(read(&store, &name(1)).await.unwrap_err().kind(), ErrorKind::OutOfRange, "{mode}");
    }
}

/// Transfers that are asked about often, so that many are under way at a time and pauses come. The last step of each is longer than the
/// mark that tells whether it arrived (`on_a_disk_in_many_small_steps`).
//= SEMANTICS.md#engine-same
#[tokio::test(flavor = "multi_thread")]
async fn many_slow_transfers_at_a_time_come_out_right() {
    let root = shared_memory();
    let nixl = fake().parameter("fake_questions", "40").descriptor_bytes(45_000);
    let store = open(root.path(), &nixl).await.unwrap();
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..32 {
        let store = store.clone();
        tasks.spawn(async move {
            publish(&store, &name(number), &bytes(number)).await.unwrap();
            assert!(read(&store, &name(number)).await.unwrap().unwrap().0 == bytes(number), "{number}");
        });
    }
    while let Some(task) = tasks.join_next().await {
        task.unwrap();
    }
    store.idle().await;
    assert_eq!(store.io_engine().redone(), 0);
}
