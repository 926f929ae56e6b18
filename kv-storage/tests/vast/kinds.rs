//! Paths that mark one object differently.

use kv_format::RecordName;
use kv_storage::fault::{Injection, When};
use kv_storage::{ErrorKind, Operation, Version};

use super::other_kind::OtherKind;
use super::streams::{Kept, buffers, ranges};
use super::*;

/// An NFS mount and an S3 endpoint.
fn scene() -> Scene {
    let memory = MemoryStore::new();
    let other: Arc<dyn KvStore> = Arc::new(OtherKind(memory.clone()));
    let paths = [Fault::new(Arc::new(memory.clone())), Fault::new(other)];
    let ways = ["nfs", "s3"].into_iter().zip(&paths);
    let ways = ways.map(|(kind, path)| VastPath::new(kind, Arc::new(path.clone()))).collect();
    let store = Vast::new("lab", ways, VastOptions::default()).unwrap();
    Scene { memory, paths, store }
}

/// An object that is read by path `path` first.
async fn read_by(scene: &Scene, path: usize, len: usize) -> (ObjectName, Vec<u8>) {
    for n in 0..64 {
        let name = name(n);
        let bytes = bytes(&name, len);
        publish(&scene.memory, &name, &bytes).await.unwrap();
        let before = scene.paths[path].calls(Operation::Read);
        read(&scene.store, &name, 2).await.unwrap().unwrap();
        if scene.paths[path].calls(Operation::Read) > before {
            return (name, bytes);
        }
    }
    panic!("no name prefers path {path}");
}

//= SEMANTICS.md#vast-kinds
#[tokio::test(start_paused = true)]
async fn every_kind_shows_an_object_with_one_version() {
    let scene = scene();
    for path in 0..2 {
        let (name, _) = read_by(&scene, path, 100).await;
        let head = scene.store.head(&name).await.unwrap().unwrap();
        assert!(head.version.0.starts_with("nfs:"), "{head:?}");
        let outcome = scene.store.read(&name, vec![ReadPart { offset: 0, buffer: blank(2) }]).await;
        assert_eq!(outcome.result.unwrap().unwrap(), head);
    }
}

//= SEMANTICS.md#vast-kinds
//= SEMANTICS.md#vast-stream
#[tokio::test(start_paused = true)]
async fn a_read_goes_on_by_another_kind_if_both_show_the_same_object() {
    for path in 0..2 {
        let scene = scene();
        let (name, bytes) = read_by(&scene, path, 1000).await;
        scene.paths[path].inject(When::nth(Operation::Read, 3), Injection::Fail(ErrorKind::Backend));
        let kept = Arc::new(Kept::default());
        scene.store.read_into(&name, ranges(), buffers(), Arc::<Kept>::clone(&kept)).await.unwrap().unwrap();
        assert_eq!(kept.object(), bytes);
        assert_eq!(scene.store.paths()[path].failed_over, 1);
    }
}

//= SEMANTICS.md#vast-replaced
#[tokio::test(start_paused = true)]
async fn a_kind_that_shows_another_object_is_not_believed() {
    let scene = scene();
    let (name, bytes) = read_by(&scene, 1, 1000).await;
    let other: Vec<u8> = bytes.iter().map(|byte| !byte).collect();
    let (memory, replacement) = (scene.memory.clone(), other.clone());
    let mut replaced = false;
    let replace = std::sync::Mutex::new(move || {
        if !std::mem::replace(&mut replaced, true) {
            futures_util::FutureExt::now_or_never(async {
                memory.delete(&name).await.unwrap();
                publish(&memory, &name, &replacement).await.unwrap();
            })
            .unwrap();
        }
    });
    // After it was identified, before it is read.
    scene.paths[1].on_call(move |call| {
        if call.operation == Operation::Read {
            (replace.lock().unwrap())();
        }
    });
    let found = read(&scene.store, &name, 1000).await.unwrap().unwrap();
    assert_eq!(found, other, "identified again, and read as what it is now");
}

//= SEMANTICS.md#vast-quarantine
#[tokio::test(start_paused = true)]
async fn quarantine_goes_by_the_kind_that_gave_the_version() {
    let scene = scene();
    let (name, _) = read_by(&scene, 0, 100).await;
    let by_nfs = scene.store.head(&name).await.unwrap().unwrap().version;
    scene.paths[0].inject(When::every(Operation::Head), Injection::Fail(ErrorKind::Unavailable));
    let by_s3 = scene.store.head(&name).await.unwrap().unwrap().version;
    assert!(by_s3.0.starts_with("s3:"), "{by_s3:?}");
    for never in ["", "nfs", "nfs:", "tape:m1", "s3:m1"] {
        assert!(!scene.store.quarantine(&name, &Version(never.to_owned())).await.unwrap(), "{never}");
    }
    assert!(scene.store.quarantine(&name, &by_s3).await.unwrap());
    assert_eq!(scene.memory.head(&name).await.unwrap(), None);
    assert!(!scene.store.quarantine(&name, &by_nfs).await.unwrap(), "gone by every path");
    // The kind that gave the version does not answer: nobody else can say whether it is the one.
    scene.paths[0].inject(When::every(Operation::Quarantine), Injection::Fail(ErrorKind::Unavailable));
    assert_eq!(scene.store.quarantine(&name, &by_nfs).await.unwrap_err().kind(), ErrorKind::Unavailable);
}

//= SEMANTICS.md#vast-kinds
#[tokio::test(start_paused = true)]
async fn without_the_first_kind_the_next_one_serves() {
    let scene = scene();
    let (name, bytes) = read_by(&scene, 0, 1000).await;
    let record = RecordName::request("r", 0);
    scene.paths[0].inject(When::always(), Injection::Fail(ErrorKind::Unavailable));
    for _ in 0..6 {
        assert_eq!(read(&scene.store, &name, 1000).await.unwrap().unwrap(), bytes);
    }
    let created = scene.store.create_record(&record, b"one").await.unwrap().unwrap();
    let replaced = scene.store.replace_record(&record, &created, b"two").await.unwrap().unwrap();
    assert_eq!(scene.store.read_record(&record).await.unwrap().unwrap().version, replaced);
    assert!(scene.store.delete_record(&record).await.unwrap());
    let listed = scene.store.list(&name.namespace, None, 100).await.unwrap();
    assert!(listed.iter().any(|meta| meta.name == name));
    assert!(scene.store.delete(&name).await.unwrap());
    assert_eq!(read(&scene.store, &name, 1000).await.unwrap(), None);
}

//= SEMANTICS.md#vast-writes
#[tokio::test(start_paused = true)]
async fn objects_are_written_by_the_first_kind_and_by_another_only_while_it_is_down() {
    let scene = scene();
    for n in 0..40 {
        publish(&scene.store, &name(n), b"x").await.unwrap();
    }
    assert_eq!(scene.paths.each_ref().map(|path| path.calls(Operation::Begin)), [40, 0]);
    scene.paths[0].inject(When::always(), Injection::Fail(ErrorKind::Unavailable));
    for n in 40..80 {
        publish(&scene.store, &name(n), b"x").await.unwrap();
    }
    assert!(scene.store.paths()[0].health.down);
    assert_eq!(scene.paths[1].calls(Operation::Commit), 40);
    for n in 0..80 {
        assert_eq!(read(&scene.store, &name(n), 1).await.unwrap().unwrap(), b"x");
    }
}

//= SEMANTICS.md#vast-record-kind
#[tokio::test(start_paused = true)]
async fn records_are_kept_by_the_kind_that_the_options_name_and_by_another_only_while_it_is_down() {
    let memory = MemoryStore::new();
    let other: Arc<dyn KvStore> = Arc::new(OtherKind(memory.clone()));
    let paths = [Fault::new(Arc::new(memory.clone())), Fault::new(other)];
    let ways = || {
        let ways = ["nfs", "s3"].into_iter().zip(&paths);
        ways.map(|(kind, path)| VastPath::new(kind, Arc::new(path.clone()))).collect()
    };
    let store = Vast::new("lab", ways(), VastOptions::default().records("s3")).unwrap();
    for part in 0..20 {
        let name = RecordName::request("r", part);
        let first = store.create_record(&name, b"first").await.unwrap().unwrap();
        assert!(first.0.starts_with("s3:"), "{first:?}");
        assert!(store.replace_record(&name, &first, b"second").await.unwrap().is_some());
        assert_eq!(store.read_record(&name).await.unwrap().unwrap().body, b"second");
        assert!(store.delete_record(&name).await.unwrap());
    }
    assert_eq!(paths[0].total_calls(), 0);
    paths[1].inject(When::always(), Injection::Fail(ErrorKind::Unavailable));
    let created = store.create_record(&RecordName::request("s", 0), b"first").await.unwrap().unwrap();
    assert!(created.0.starts_with("nfs:"), "{created:?}");

    let error = Vast::new("lab", ways(), VastOptions::default().records("smb")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(error.to_string().contains(r#"no path of the kind "smb""#), "{error}");
}
