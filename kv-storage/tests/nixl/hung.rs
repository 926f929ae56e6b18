//! Transfers that do not end: NIXL can take nothing back, so they are left, counted, bounded, and end when they end.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use kv_memory::{HugePages, StagingPool};
use kv_storage::{
    DownReason, ErrorKind, GateOptions, HealthGate, KvStore, PosixStore, Publication, ReadOutcome, ReadPart,
    StoreHealth,
};

use crate::libraries::{fake, options, shared_memory};
use crate::scene::{bytes, name, publish, read};

const DEADLINE: Duration = Duration::from_secs(60);
const BOUND: usize = 3;

/// A store whose reads hang while a file exists, with an object, and the pool that it is read into.
struct Scene {
    _root: tempfile::TempDir,
    folder: tempfile::TempDir,
    store: PosixStore,
    pool: StagingPool,
}

impl Scene {
    async fn new() -> Self {
        let (root, folder) = (shared_memory(), tempfile::tempdir().unwrap());
        let hang = folder.path().join("hang");
        let nixl = fake().parameter("fake_hang", hang.to_str().unwrap());
        let pool = StagingPool::new(HugePages::allocate(8 << 16).unwrap(), 1 << 16).unwrap();
        let options = options(&nixl).stranded_bound(BOUND).threads(2).fixed_buffers(&pool);
        let store = PosixStore::open(root.path(), options).await.unwrap();
        store.idle().await;
        publish(&store, &name(1), &bytes(1)).await.unwrap();
        Self { _root: root, folder, store, pool }
    }

    fn hang(&self) {
        std::fs::write(self.folder.path().join("hang"), "").unwrap();
    }

    fn let_go(&self) {
        std::fs::remove_file(self.folder.path().join("hang")).unwrap();
    }

    async fn read(&self, store: &dyn KvStore) -> ReadOutcome {
        store.read(&name(1), vec![ReadPart { offset: 0, buffer: self.pool.acquire().await }]).await
    }
}

async fn ends<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, future).await.unwrap_or_else(|_| panic!("it hangs"))
}

//= SEMANTICS.md#nixl-hung
//= SEMANTICS.md#hung-stranded
//= SEMANTICS.md#hung-bounded
#[tokio::test]
async fn hung_transfers_keep_their_buffers_others_go_on_and_at_the_bound_calls_fail_at_once() {
    let scene = Scene::new().await;
    let store: Arc<dyn KvStore> = Arc::new(scene.store.clone());
    let options = GateOptions::default().deadline(Some(Duration::from_millis(200))).failures(u32::MAX);
    let gate = HealthGate::new(Arc::clone(&store), options);
    scene.hang();
    for hung in 1..=BOUND {
        let outcome = ends(scene.read(&gate)).await;
        assert_eq!(outcome.result.unwrap_err().kind(), ErrorKind::Unavailable);
        assert!(outcome.buffers.is_empty(), "a buffer came back that NIXL still has");
        let health = store.health();
        assert_eq!((health.in_flight, health.stranded), (0, hung), "{health:?}");
        assert_eq!(scene.pool.usage().bytes_lent, hung << 16, "hung transfers keep their buffers");
        if hung < BOUND {
            // Writes go on beside them.
            let number = u8::try_from(hung).unwrap() + 1;
            let published = ends(publish(&*store, &name(number), &bytes(number))).await;
            assert_eq!(published.unwrap(), Publication::Published);
        }
    }
    assert_eq!((store.health().down, store.health().reason), (true, Some(DownReason::Stranded)));
    let refused = ends(read(&*store, &name(1))).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Unavailable);
    assert!(refused.to_string().contains("3 operations hang"), "{refused}");

    scene.let_go();
    ends(store.idle()).await;
    assert_eq!(scene.pool.usage().bytes_lent, 0, "the buffers are back");
    assert_eq!(store.health(), StoreHealth::default());
    assert!(ends(read(&*store, &name(1))).await.unwrap().unwrap().0 == bytes(1));
    assert_eq!(scene.store.io_engine().redone(), 0);
}

/// The last handle goes while a transfer hangs: the thread stays until it ends, and then gives everything back.
//= SEMANTICS.md#nixl-hung
#[tokio::test]
async fn a_store_that_is_dropped_leaves_a_hung_transfer_what_it_holds() {
    let scene = Scene::new().await;
    scene.hang();
    let gate = GateOptions::default().deadline(Some(Duration::from_millis(200)));
    let gate = HealthGate::new(Arc::new(scene.store.clone()), gate);
    assert!(ends(scene.read(&gate)).await.result.is_err());
    drop(gate);
    let Scene { _root, folder, store, pool } = scene;
    drop(store);
    assert_eq!(pool.usage().bytes_lent, 1 << 16);
    std::fs::remove_file(folder.path().join("hang")).unwrap();
    // All parts of the pool can be had again.
    let all = ends(pool.acquire_many(pool.parts())).await;
    assert_eq!(all.len(), pool.parts());
}
