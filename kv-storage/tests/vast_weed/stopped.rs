//! SeaweedFS's mount stopped (SIGSTOP) in the middle of a load and of a save: unlike a server behind a socket, it holds whoever has a file of it
//! open in the kernel. The cluster `one` is a directory of it and the gateway; `KVBRIDGE_VAST_MOUNT` is the process.

use std::path::Path;

use kv_format::{ChunkKey, NamespaceDigest, ObjectName};
use kv_memory::HostBuf;
use kv_storage::{Publication, ReadPart, Setback, StoreHealth};

use super::*;
use crate::midway::{LONG, PART, load, save};
use crate::stopping::{resume, stop};

const URL: &str = "vast://one/stopped";
const MOUNT: &str = "KVBRIDGE_VAST_MOUNT";
/// A path is given up after so long; the other one moves an object of LONG bytes within it on a busy machine, too.
const DEADLINE: Duration = Duration::from_secs(5);

/// A mount that goes on at the end, whatever happens: whoever has a file of it open could not even end.
struct Mount(u32);

impl Drop for Mount {
    fn drop(&mut self) {
        resume(self.0);
    }
}

fn name(n: u8) -> ObjectName {
    ObjectName { namespace: NamespaceDigest([1; 32]), key: ChunkKey([n; 32]), chunk_index: 0, slice: 0 }
}

async fn open() -> Vast {
    let clusters = Clusters::from_environment().await.unwrap();
    clusters.format(URL).await.unwrap();
    let millis = Duration::from_millis;
    let gate = GateOptions::default().deadline(Some(DEADLINE)).failures(2);
    // A probe that hangs ends when the mount goes on, and its first list takes as long as every first list by it.
    let gate = gate.probe_deadline(PATIENCE).intervals(millis(50), millis(200));
    let opened = clusters.open(URL, VastOptions::default().gate(gate)).await.unwrap();
    assert!(opened.left_out.is_empty(), "{:?}", opened.left_out);
    opened.store
}

/// A name by which reads go by the mount first.
async fn name_by_the_mount(store: &Vast, from: u8) -> ObjectName {
    for name in (from..from + 64).map(name) {
        let upload = store.begin(&name, 5).await.unwrap();
        upload.write(0, HostBuf::copy_of(b"whose").unwrap()).await.1.unwrap();
        upload.commit().await.unwrap();
        let before = store.paths()[1].moved_bytes;
        let part = ReadPart { offset: 0, buffer: HostBuf::copy_of(b"empty").unwrap() };
        assert!(store.read(&name, vec![part]).await.result.unwrap().is_some());
        store.delete(&name).await.unwrap();
        if store.paths()[1].moved_bytes == before {
            return name;
        }
    }
    panic!("no name prefers the mount");
}

/// Has the kernel forget what it holds of an object by the mount, or nobody need ask the mount for it.
async fn forget(name: &ObjectName) {
    let urls = Clusters::from_environment().await.unwrap().urls(URL).unwrap();
    let directory = Path::new(urls[0].strip_prefix("file://").unwrap());
    let file = std::fs::File::open(directory.join(name.to_string())).unwrap();
    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
}

async fn until(store: &Vast, down: bool) {
    let changes = async {
        while store.paths()[0].health.down != down {
            // A path that is not asked does not notice.
            store.head(&name(0)).await.unwrap();
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, changes).await.unwrap_or_else(|_| panic!("down is not {down}: {:?}", store.paths()));
}

/// The mount goes on, what hung comes back, and the path is used again: uploads go by the first kind of paths as soon as it is up.
async fn goes_on(store: &Vast, mount: u32, next: ObjectName) {
    resume(mount);
    until(store, false).await;
    timeout(PATIENCE, store.idle()).await.unwrap();
    assert_eq!(store.health(), StoreHealth::default());
    let moved = store.paths()[0].moved_bytes;
    save(store, &next, PART, || {}).await.unwrap();
    assert_eq!(store.paths()[0].moved_bytes - moved, PART as u64);
}

//= SEMANTICS.md#vast-hang
//= SEMANTICS.md#vast-stream
//= SEMANTICS.md#vast-upload
//= SEMANTICS.md#vast-readmission
#[tokio::test(flavor = "multi_thread")]
async fn a_load_and_a_save_go_on_by_the_gateway_while_the_mount_is_stopped() {
    let Some(mount) = std::env::var_os(MOUNT) else {
        println!("SKIPPED: {MOUNT} is not set; cargo xtask s3-lab sets it");
        return;
    };
    let mount: u32 = mount.to_str().unwrap().parse().unwrap();
    let store = &open().await;
    let whatever_happens = Mount(mount);

    let read = name_by_the_mount(store, 1).await;
    save(store, &read, LONG, || {}).await.unwrap();
    forget(&read).await;
    let before = store.paths()[0].failed_over;
    let handed = load(store, &read, Some(Box::new(move || stop(mount)))).await.expect("it is there");
    assert!(store.paths()[0].failed_over > before, "the load was in the middle: {:?}", store.paths());
    until(store, true).await;
    let direct = store.paths()[1].moved_bytes;
    load(store, &read, None).await.expect("it is there");
    assert_eq!(store.paths()[1].moved_bytes - direct, LONG as u64, "all of it by the gateway");
    goes_on(store, mount, name(201)).await;
    handed.each_once(); // nothing that came late was handed over

    let written = name(200);
    let mut halfway = Some(mount);
    let saving = timeout(PATIENCE, save(store, &written, LONG, || halfway.take().into_iter().for_each(stop)));
    let error = saving.await.expect("the deadline is kept").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    assert!(store.another_way(&written, Setback::Upload));
    let direct = store.paths()[1].moved_bytes;
    let saving = timeout(PATIENCE, save(store, &written, LONG, || {}));
    assert_eq!(saving.await.expect("the deadline is kept").unwrap(), Publication::Published);
    assert_eq!(store.paths()[1].moved_bytes - direct, LONG as u64);
    until(store, true).await;
    goes_on(store, mount, name(202)).await;
    // What the mount had of the first attempt is no part of it.
    let seen = async {
        // The mount learns later what was written by the gateway, and until then says that it is not there.
        while load(store, &written, None).await.is_none() {}
    };
    timeout(PATIENCE, seen).await.expect("both ways show it");
    drop(whatever_happens);
}
