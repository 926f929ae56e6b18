//! Uploads: by one path each, begun again by another.

use kv_storage::fault::{Injection, When};
use kv_storage::{ErrorKind, KvStore, Operation, Publication, Setback};

use super::*;

/// A free name that goes by path 0 first.
async fn free(scene: &Scene) -> ObjectName {
    let (name, _) = scene.object_by(0, 1).await;
    scene.memory.delete(&name).await.unwrap();
    name
}

//= SEMANTICS.md#vast-upload
#[tokio::test(start_paused = true)]
async fn a_begin_goes_on_by_another_path_and_a_write_that_fails_is_begun_again_there() {
    let scene = Scene::new();
    let name = free(&scene).await;
    scene.paths[0].inject(When::next(Operation::Begin), Injection::Fail(ErrorKind::Unavailable));
    assert_eq!(publish(&scene.store, &name, b"first").await.unwrap(), Publication::Published);
    assert_eq!(scene.paths[1].calls(Operation::Commit), 1);
    scene.memory.delete(&name).await.unwrap();

    scene.paths[0].inject(When::next(Operation::Write), Injection::Fail(ErrorKind::Unavailable));
    let upload = scene.store.begin(&name, 6).await.unwrap();
    let (buffer, result) = upload.write(0, HostBuf::copy_of(b"second").unwrap()).await;
    assert_eq!((result.unwrap_err().kind(), &*buffer), (ErrorKind::Unavailable, &b"second"[..]));
    drop(upload);
    assert_eq!(scene.memory.head(&name).await.unwrap(), None, "nothing of it is visible");
    assert!(scene.store.another_way(&name, Setback::Upload));
    assert_eq!(publish(&scene.store, &name, b"second").await.unwrap(), Publication::Published);
    assert_eq!(scene.paths[1].calls(Operation::Commit), 2, "by the other path");
    assert_eq!(read(&scene.store, &name, 6).await.unwrap().unwrap(), b"second");
}

//= SEMANTICS.md#vast-commit
#[tokio::test(start_paused = true)]
async fn a_commit_whose_answer_is_lost_is_settled_by_another_path() {
    let scene = Scene::new();
    let name = free(&scene).await;
    scene.paths[0].inject(When::next(Operation::Commit), Injection::FailAfter(ErrorKind::Unavailable));
    assert_eq!(publish(&scene.store, &name, b"ours").await.unwrap(), Publication::AlreadyExists);
    assert_eq!(read(&scene.store, &name, 4).await.unwrap().unwrap(), b"ours");
    scene.memory.delete(&name).await.unwrap();
    scene.paths[0].inject(When::next(Operation::Commit), Injection::Fail(ErrorKind::Unavailable));
    assert_eq!(publish(&scene.store, &name, b"lost").await.unwrap_err().kind(), ErrorKind::Unavailable);
    assert_eq!(scene.memory.head(&name).await.unwrap(), None);
    // One that hangs is settled at the deadline, and publishes at most once when the path lets go.
    let hold = scene.paths[0].hang(When::next(Operation::Commit));
    assert_eq!(publish(&scene.store, &name, b"late").await.unwrap_err().kind(), ErrorKind::Unavailable);
    assert!(scene.store.another_way(&name, Setback::Upload));
    assert_eq!(publish(&scene.store, &name, b"next").await.unwrap(), Publication::Published);
    hold.release();
    scene.store.idle().await;
    assert_eq!(read(&scene.store, &name, 4).await.unwrap().unwrap(), b"next");
}
