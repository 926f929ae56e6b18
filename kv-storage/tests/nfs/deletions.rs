//! Objects that one host deletes while the other reads them.

use std::sync::Arc;

use kv_memory::HostBuf;
use kv_storage::{ByteRange, ErrorKind, KvStore, Next, ObjectMeta, PosixStore, ReadSink};
use tokio::runtime::Handle;

use crate::lab::{Mounted, TwoHosts, contents, new_name, publish, read};
use crate::remote_store::RemoteStore;

/// More than this host's kernel reads ahead.
const LEN: usize = 32 << 20;
const PART: usize = 4096;

/// Has an object deleted by somebody as soon as its first range was read.
struct DeleteAfterFirst {
    store: Deleter,
    runtime: Handle,
}

enum Deleter {
    There(RemoteStore),
    Here(PosixStore),
}

impl ReadSink for DeleteAfterFirst {
    fn filled(&self, meta: &ObjectMeta, index: usize, buffer: HostBuf) -> Next {
        if index == 0 {
            let deleted = match &self.store {
                Deleter::There(store) => self.runtime.block_on(store.delete(&meta.name)),
                Deleter::Here(store) => self.runtime.block_on(store.delete(&meta.name)),
            };
            assert!(deleted.unwrap());
        }
        Next::Reuse(buffer)
    }
}

/// The first and the last page of an object, read from one open file.
async fn first_and_last(
    hosts: &TwoHosts,
    name: &kv_format::ObjectName,
    store: Deleter,
) -> kv_storage::Result<Option<ObjectMeta>> {
    let ranges = [0, LEN - PART].map(|offset| ByteRange { offset: offset as u64, len: PART });
    let sink = Arc::new(DeleteAfterFirst { store, runtime: Handle::current() });
    let buffers = vec![HostBuf::copy_of(&[0; PART]).unwrap()];
    hosts.here.read_into(name, ranges.to_vec(), buffers, sink).await
}

//= SEMANTICS.md#nfs-deleted-elsewhere
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs two hosts: cargo xtask nfs-lab"]
async fn a_stream_whose_object_another_host_deletes_goes_on_with_nfs_4_and_fails_with_3() {
    let hosts = TwoHosts::on(Mounted::Recommended).await;
    let name = new_name();
    publish(&hosts.there, &name, &contents(1, LEN)).await;
    let streamed = first_and_last(&hosts, &name, Deleter::There(hosts.there.clone())).await;
    let version = hosts.here.mount().unwrap().option("vers").unwrap();
    if version == "3" {
        let error = streamed.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
        assert!(error.to_string().contains("deleted while it was read"), "{error}");
    } else {
        // The server knows who has it open.
        assert_eq!(streamed.unwrap().map(|meta| meta.len), Some(LEN as u64), "NFS {version}");
    }
    assert_eq!(read(&hosts.here, &name, PART).await.unwrap(), None);
    assert_eq!(hosts.here.head(&name).await.unwrap(), None);
}

//= SEMANTICS.md#nfs-deleted-elsewhere
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs two hosts: cargo xtask nfs-lab"]
async fn reads_under_a_deletion_are_whole_or_a_miss_and_never_an_error() {
    const ROUNDS: u64 = 10;
    let hosts = TwoHosts::on(Mounted::Recommended).await;
    let mut misses = 0;
    for round in 0..ROUNDS {
        let (name, bytes) = (new_name(), contents(round, LEN / 8));
        publish(&hosts.there, &name, &bytes).await;
        let (found, deleted) = tokio::join!(read(&hosts.here, &name, bytes.len()), hosts.there.delete(&name));
        assert!(deleted.unwrap(), "round {round}");
        match found.unwrap() {
            Some(found) => assert!(found == bytes, "round {round}: other bytes"),
            None => misses += 1,
        }
    }
    println!(
        "figure: {ROUNDS} reads of 4 MiB under a deletion by the other host: {misses} misses, the others whole"
    );
}

//= SEMANTICS.md#nfs-silly-rename
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs two hosts: cargo xtask nfs-lab"]
async fn a_stream_whose_object_this_host_deletes_reads_on_and_its_remains_are_not_listed() {
    let hosts = TwoHosts::on(Mounted::Recommended).await;
    let (name, mut neighbour) = (new_name(), new_name());
    neighbour.key = name.key;
    neighbour.slice = 77;
    publish(&hosts.here, &name, &contents(1, LEN)).await;
    publish(&hosts.here, &neighbour, &contents(2, 10)).await;
    // Held open through the deletion, as a reader would.
    let path = hosts.root.join(name.to_string());
    let held = std::fs::File::open(&path).unwrap();
    let found = first_and_last(&hosts, &name, Deleter::Here(hosts.here.clone())).await.unwrap();
    assert_eq!(found.map(|meta| meta.len), Some(LEN as u64));
    let entries = path.parent().unwrap().read_dir().unwrap().map(|entry| entry.unwrap().file_name());
    let remains = entries.filter(|name| name.to_string_lossy().starts_with(".nfs")).count();
    assert_eq!(remains, 1, "the kernel keeps what is deleted and open under another name");
    for (host, store) in [("here", &hosts.here as &dyn KvStore), ("there", &hosts.there)] {
        let listed = store.list(&name.namespace, None, 10).await.unwrap();
        assert_eq!(listed.iter().map(|meta| meta.name).collect::<Vec<_>>(), [neighbour], "{host}");
        assert_eq!(store.head(&name).await.unwrap(), None, "{host}");
    }
    drop(held);
}

//= SEMANTICS.md#nfs-root-gone
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs two hosts: cargo xtask nfs-lab"]
async fn a_root_that_is_gone_on_the_server_is_an_error_and_no_miss() {
    let hosts = TwoHosts::on(Mounted::Recommended).await;
    let name = new_name();
    publish(&hosts.here, &name, &contents(1, PART)).await;
    hosts.here.idle().await;
    // The other mount has caches of its own, as another host has.
    let root = Mounted::Default.path().join(hosts.root.file_name().unwrap());
    std::fs::remove_dir_all(root).unwrap();
    for name in [name, new_name()] {
        let error = hosts.here.head(&name).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
        assert!(error.to_string().contains("gone on the server"), "{error}");
        assert_eq!(read(&hosts.here, &name, PART).await.unwrap_err().kind(), ErrorKind::Unavailable);
    }
    hosts.here.begin(&name, 1).await.map(drop).unwrap_err();
}
