//! The conformance suite with NIXL's plugin POSIX, alone and beside the other engines.

use std::sync::Arc;

use kv_memory::{HugePages, StagingPool};
use kv_storage::posix::{FsyncPolicy, IoEngine};
use kv_storage::{KvStore, PosixOptions, PosixStore, Vast, VastOptions, VastPath, conformance};

use crate::libraries::{libraries, open, options, real, shared_memory};
use crate::scene::{bytes, name, publish, read};

async fn check(writer: Arc<dyn KvStore>, reader: Arc<dyn KvStore>) {
    if let Err(failure) = conformance::run(Arc::clone(&writer), reader).await {
        panic!("{writer}: {failure}");
    }
}

//= SEMANTICS.md#engine-same
//= SEMANTICS.md#nixl-posix-same
#[tokio::test(flavor = "multi_thread")]
async fn two_independent_handles() {
    for nixl in libraries() {
        let root = shared_memory();
        let (writer, reader) =
            (open(root.path(), &nixl).await.unwrap(), open(root.path(), &nixl).await.unwrap());
        eprintln!("{}", writer.io_engine());
        assert_eq!(writer.io_engine().engine(), IoEngine::Nixl);
        check(Arc::new(writer.clone()), Arc::new(reader.clone())).await;
        writer.idle().await;
        reader.idle().await;
        // Steps of a byte are taken for missing once in 256 times; nothing else is.
        assert!(writer.io_engine().redone() + reader.io_engine().redone() < 20, "{}", reader.io_engine());
    }
}

/// On a disk, with flushing, one thread and descriptors so small that every buffer takes several. No step is shorter than the mark that
/// tells whether it arrived: one of a byte would be taken for missing once in 256 times.
//= SEMANTICS.md#engine-same
#[tokio::test]
async fn on_a_disk_in_many_small_steps() {
    for nixl in libraries() {
        let root = tempfile::tempdir().unwrap();
        let options = options(&nixl.descriptor_bytes(9_000)).fsync(FsyncPolicy::Durable).threads(1);
        let open = || PosixStore::open(root.path(), options.clone());
        let (writer, reader) = (open().await.unwrap(), open().await.unwrap());
        for number in 0..8 {
            publish(&writer, &name(number), &bytes(number)).await.unwrap();
            assert_eq!(read(&reader, &name(number)).await.unwrap().unwrap().0, bytes(number));
        }
        assert_eq!(writer.io_engine().redone() + reader.io_engine().redone(), 0);
    }
}

//= SEMANTICS.md#engine-same
#[tokio::test(flavor = "multi_thread")]
async fn stores_with_other_engines_share_the_directory() {
    for nixl in libraries() {
        let root = shared_memory();
        let ours = open(root.path(), &nixl).await.unwrap();
        let threads = PosixOptions::default().io(IoEngine::Threads).sweep_older_than(None);
        let theirs = PosixStore::open(root.path(), threads).await.unwrap();
        check(Arc::new(ours.clone()), Arc::new(theirs.clone())).await;
        check(Arc::new(theirs), Arc::new(ours)).await;
    }
}

/// One cluster by a mount whose bytes NIXL moves and by one whose bytes it does not. Both mark an object alike, so they are of one kind.
//= SEMANTICS.md#vast-one-namespace
#[tokio::test(flavor = "multi_thread")]
async fn a_path_of_a_cluster_moves_its_bytes_by_nixl() {
    for nixl in libraries() {
        let root = shared_memory();
        let mut stores = Vec::new();
        for _ in 0..2 {
            let with = open(root.path(), &nixl).await.unwrap();
            let plain = PosixOptions::default().io(IoEngine::Threads).sweep_older_than(None);
            let without = PosixStore::open(root.path(), plain).await.unwrap();
            let paths = [with, without].map(|store| VastPath::new("file", Arc::new(store)));
            stores.push(Vast::new("lab", paths.into(), VastOptions::default()).unwrap());
        }
        check(Arc::new(stores[0].clone()), Arc::new(stores[1].clone())).await;
        assert!(stores[0].paths().iter().all(|path| path.moved_bytes > 0), "{:?}", stores[0].paths());
    }
}

/// Staging that is registered once, and buffers that are not of it.
//= SEMANTICS.md#nixl-registered
#[tokio::test]
async fn staging_is_registered_for_good_and_other_buffers_for_a_transfer() {
    for nixl in libraries() {
        let root = shared_memory();
        let pool = StagingPool::new(HugePages::allocate(4 << 20).unwrap(), 1 << 20).unwrap();
        let store = PosixStore::open(root.path(), options(&nixl).fixed_buffers(&pool)).await.unwrap();
        assert_eq!(store.io_engine().fixed_bytes(), 4 << 20);
        assert!(store.io_engine().to_string().contains("4194304 bytes of staging"), "{}", store.io_engine());
        publish(&store, &name(1), &bytes(1)).await.unwrap();
        let upload = store.begin(&name(2), 1 << 20).await.unwrap();
        let mut part = pool.acquire().await;
        part.fill(7);
        upload.write(0, part).await.1.unwrap();
        upload.commit().await.unwrap();
        let parts = vec![kv_storage::ReadPart { offset: 0, buffer: pool.acquire().await }];
        let read_back = store.read(&name(2), parts).await;
        assert_eq!(read_back.result.unwrap().unwrap().len, 1 << 20);
        assert!(read_back.buffers[0].iter().all(|byte| *byte == 7));
        assert_eq!(read(&store, &name(1)).await.unwrap().unwrap().0, bytes(1));
        assert_eq!(store.io_engine().redone(), 0);
    }
}

/// The URL, as an operator writes it, finds the wheel by the variable.
//= SEMANTICS.md#nixl-found
#[tokio::test]
async fn the_url_opens_it() {
    if real().is_none() {
        return;
    }
    let root = shared_memory();
    let url = format!("nixl+posix://{}", root.path().display());
    assert!(kv_storage::format(&url).await.unwrap());
    let store = kv_storage::open(&url).await.unwrap();
    publish(&*store, &name(1), &bytes(1)).await.unwrap();
    assert_eq!(read(&*store, &name(1)).await.unwrap().unwrap().0, bytes(1));
}
