//! The plugin OBJ: NIXL reads, and everything else is the S3 store's.

use std::sync::Arc;
use std::time::Duration;

use kv_memory::{HugePages, StagingPool};
use kv_storage::nixl::NixlObjStore;
use kv_storage::{
    ErrorKind, GateOptions, HealthGate, KvStore, NixlOptions, Publication, ReadPart, StoreHealth, conformance,
};

use crate::libraries::{fake, faulty, real};
use crate::s3_server::{Server, options};
use crate::scene::{bytes, name, publish, read};

const DEADLINE: Duration = Duration::from_secs(60);

async fn open(server: &Server, nixl: NixlOptions) -> NixlObjStore {
    let url = server.url().replace("s3://", "nixl+obj://");
    NixlObjStore::open(&url, options(), nixl, None).await.unwrap()
}

/// The real plugin against the server of these tests.
//= SEMANTICS.md#nixl-obj-same
#[tokio::test(flavor = "multi_thread")]
async fn the_contract_on_a_server() {
    let Some(nixl) = real() else { return };
    let server = Server::start();
    let (writer, reader) = (open(&server, nixl.clone()).await, open(&server, nixl).await);
    assert_eq!(writer.to_string(), "nixl+obj://kv-bucket/some/prefix");
    assert!(writer.capabilities().atomic_create);
    let subjects: (Arc<dyn KvStore>, Arc<dyn KvStore>) = (Arc::new(writer.clone()), Arc::new(reader.clone()));
    if let Err(failure) = conformance::run(subjects.0, subjects.1).await {
        panic!("{failure}");
    }
    writer.idle().await;
    reader.idle().await;
    // Steps of a byte are taken for missing once in 256 times, and the suite removes objects while they are read.
    eprintln!("{} reads were made again", writer.redone() + reader.redone());
    assert!(writer.redone() + reader.redone() < 40);
}

/// What stands on somebody else's server is the same, too: SeaweedFS, which the step `nixl` starts.
//= SEMANTICS.md#nixl-obj-same
#[tokio::test(flavor = "multi_thread")]
async fn the_contract_on_a_server_of_somebody_else() {
    let (Some(nixl), Ok(url)) = (real(), std::env::var("KVBRIDGE_S3_URL")) else {
        eprintln!("SKIPPED: KVBRIDGE_S3_URL or KVBRIDGE_NIXL is not set");
        return;
    };
    let url = url.replace("s3://", "nixl+obj://");
    let open = async || loop {
        match NixlObjStore::open(&url, kv_storage::S3Options::default(), nixl.clone(), None).await {
            Ok(store) => return store,
            // It answers a few seconds after it was started.
            Err(error) if error.kind() == ErrorKind::Unavailable => {
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
            Err(error) => panic!("{error}"),
        }
    };
    let (writer, reader) = tokio::time::timeout(DEADLINE, async { (open().await, open().await) })
        .await
        .expect("the server does not answer");
    if let Err(failure) = conformance::run(Arc::new(writer.clone()), Arc::new(reader.clone())).await {
        panic!("{failure}");
    }
    eprintln!("{} reads were made again", writer.redone() + reader.redone());
    assert!(writer.redone() + reader.redone() < 40, "NIXL reads nothing");
}

//= SEMANTICS.md#nixl-obj-same
//= SEMANTICS.md#nixl-registered
#[tokio::test]
async fn bytes_come_through_nixl_and_uploads_do_not_replace() {
    let Some(nixl) = real() else { return };
    let server = Server::start();
    let url = server.url().replace("s3://", "nixl+obj://");
    let pool = StagingPool::new(HugePages::allocate(1 << 20).unwrap(), 1 << 18).unwrap();
    let store = NixlObjStore::open(&url, options(), nixl, Some(&pool)).await.unwrap();
    assert_eq!(publish(&store, &name(1), &bytes(1)).await.unwrap(), Publication::Published);
    assert_eq!(publish(&store, &name(1), &bytes(2)).await.unwrap(), Publication::AlreadyExists);
    assert!(read(&store, &name(1)).await.unwrap().unwrap().0 == bytes(1));
    let outcome = store.read(&name(1), vec![ReadPart { offset: 5, buffer: pool.acquire().await }]).await;
    assert!(outcome.result.unwrap().is_some());
    assert!(*outcome.buffers[0] == bytes(1)[5..5 + (1 << 18)]);
    assert_eq!(store.redone(), 0, "the S3 store read what NIXL should have");
    assert!(read(&store, &name(2)).await.unwrap().is_none());
}

/// The emulated plugin makes up what objects hold; only what it fails or forgets can be right.
//= SEMANTICS.md#nixl-hint
//= SEMANTICS.md#nixl-question
#[tokio::test]
async fn what_it_fails_or_forgets_the_s3_store_reads() {
    for mode in ["short", "nothing", "fail", "fail-post", "fail-create"] {
        let server = Server::start();
        let switch = tempfile::NamedTempFile::new().unwrap();
        let store = open(&server, faulty(mode, switch.path())).await;
        publish(&store, &name(1), &bytes(1)).await.unwrap();
        assert!(read(&store, &name(1)).await.unwrap().unwrap().0 == bytes(1), "{mode}");
        assert_eq!(store.redone(), 1, "{mode}");
        let buffer = kv_memory::HostBuf::copy_of(&[0; 10]).unwrap();
        let behind = store.read(&name(1), vec![ReadPart { offset: 1 << 40, buffer }]).await;
        assert_eq!(behind.result.unwrap_err().kind(), ErrorKind::OutOfRange, "{mode}");
        assert_eq!(behind.buffers.len(), 1);
    }
}

/// NIXL cannot ask for a version; the answer of a read that spans two is an error, not a mixture.
//= SEMANTICS.md#nixl-obj-version
#[tokio::test]
async fn an_object_that_is_replaced_while_it_is_read_is_not_taken_for_either() {
    let server = Server::start();
    for healed in [true, false] {
        let folder = tempfile::tempdir().unwrap();
        let (hang, hung) = (folder.path().join("hang"), folder.path().join("hung"));
        let nixl = fake().parameter("fake_hang", hang.to_str().unwrap());
        let store = open(&server, nixl.parameter("fake_hung", hung.to_str().unwrap())).await;
        publish(&store, &name(1), &bytes(1)).await.unwrap();
        std::fs::write(&hang, "").unwrap();
        let reading = tokio::spawn({
            let store = store.clone();
            async move { read(&store, &name(1)).await }
        });
        let hangs = async {
            while !hung.exists() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(DEADLINE, hangs).await.unwrap();
        store.delete(&name(1)).await.unwrap();
        if healed {
            publish(&store, &name(1), &bytes(1)).await.unwrap();
        }
        std::fs::remove_file(&hang).unwrap();
        let error = tokio::time::timeout(DEADLINE, reading).await.unwrap().unwrap().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
        assert!(error.to_string().contains("was replaced or removed while it was read"), "{error}");
        store.delete(&name(1)).await.unwrap();
    }
}

//= SEMANTICS.md#nixl-hung
#[tokio::test]
async fn hung_reads_of_a_bucket_are_left_counted_and_given_back() {
    let server = Server::start();
    let folder = tempfile::tempdir().unwrap();
    let hang = folder.path().join("hang");
    let store = open(&server, fake().parameter("fake_hang", hang.to_str().unwrap())).await;
    publish(&store, &name(1), &bytes(1)).await.unwrap();
    std::fs::write(&hang, "").unwrap();
    let pool = StagingPool::new(HugePages::allocate(4 << 16).unwrap(), 1 << 16).unwrap();
    let gate = GateOptions::default().deadline(Some(Duration::from_millis(500)));
    let gate = HealthGate::new(Arc::new(store.clone()), gate);
    let parts = vec![ReadPart { offset: 0, buffer: pool.acquire().await }];
    let outcome = tokio::time::timeout(DEADLINE, gate.read(&name(1), parts)).await.unwrap();
    assert_eq!(outcome.result.unwrap_err().kind(), ErrorKind::Unavailable);
    assert_eq!((outcome.buffers.len(), store.health().stranded, pool.usage().bytes_lent), (0, 1, 1 << 16));
    std::fs::remove_file(&hang).unwrap();
    tokio::time::timeout(DEADLINE, store.idle()).await.unwrap();
    assert_eq!((store.health(), pool.usage().bytes_lent), (StoreHealth::default(), 0));
}
