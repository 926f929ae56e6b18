//! The conformance suite, on paths of one kind and of two.

use std::sync::Arc;

use kv_storage::{KvStore, MemoryStore, PosixOptions, PosixStore, Vast, VastOptions, VastPath, conformance};

use crate::other_kind::OtherKind;

async fn check(writer: Arc<dyn KvStore>, reader: Arc<dyn KvStore>) {
    if let Err(failure) = conformance::run(Arc::clone(&writer), reader).await {
        panic!("{writer}: {failure}");
    }
}

fn vast(paths: Vec<VastPath>) -> Arc<dyn KvStore> {
    Arc::new(Vast::new("lab", paths, VastOptions::default()).unwrap())
}

//= SEMANTICS.md#vast-one-namespace
#[tokio::test(flavor = "multi_thread")]
async fn memory_by_three_paths() {
    let memory = MemoryStore::new();
    let store = || vast((0..3).map(|_| VastPath::new("memory", Arc::new(memory.clone()))).collect());
    check(store(), store()).await;
}

/// The directory itself, and by a link: two paths to one tree, each with a store of its own.
//= SEMANTICS.md#vast-one-namespace
#[tokio::test(flavor = "multi_thread")]
async fn one_tree_by_two_directories() {
    let folder = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
    let (tree, link) = (folder.path().join("tree"), folder.path().join("link"));
    std::fs::create_dir(&tree).unwrap();
    std::os::unix::fs::symlink(&tree, &link).unwrap();
    let mut stores = Vec::new();
    for _ in 0..2 {
        let mut paths = Vec::new();
        for path in [&tree, &link] {
            let options = PosixOptions::default().format_if_empty(true);
            let options = options.fsync(kv_storage::posix::FsyncPolicy::None);
            paths.push(VastPath::new("nfs", Arc::new(PosixStore::open(path, options).await.unwrap())));
        }
        stores.push(vast(paths));
    }
    assert!(stores[0].calls_back_on_own_threads());
    let [writer, reader] = stores.try_into().unwrap();
    check(writer, reader).await;
}

/// The writer's first kind is the reader's second.
//= SEMANTICS.md#vast-kinds
#[tokio::test(flavor = "multi_thread")]
async fn one_memory_by_paths_that_mark_it_differently() {
    let memory = MemoryStore::new();
    let nfs = || VastPath::new("nfs", Arc::new(memory.clone()));
    let s3 = || VastPath::new("s3", Arc::new(OtherKind(memory.clone())));
    let store = || vast(vec![nfs(), s3(), nfs()]);
    check(store(), store()).await;
}
