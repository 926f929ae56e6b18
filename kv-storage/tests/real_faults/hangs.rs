//! A file system that answers nothing: the store's threads wait for it, and nobody else.

use std::pin::{Pin, pin};
use std::sync::mpsc::{Sender, channel};
use std::task::{Context, Poll, Waker};
use std::thread::JoinHandle;
use std::time::Duration;

use kv_format::{NamespaceDigest, RecordName};
use kv_memory::HostBuf;
use kv_storage::{ByteRange, KvStore, PosixStore, ReadPart, Upload, WriteSource};

use crate::fuse::{Mounted, Script};
use crate::{name, open, publish};

/// Thaws a file system that is still frozen after a minute: who waits for it on the executor's thread would never do so.
struct Watch {
    end: Sender<()>,
    in_time: JoinHandle<bool>,
}

impl Watch {
    fn over(script: &Script) -> Self {
        let (script, (end, ended)) = (script.clone(), channel());
        let in_time = std::thread::spawn(move || {
            let in_time = ended.recv_timeout(Duration::from_secs(60)).is_ok();
            script.thaw();
            in_time
        });
        Self { end, in_time }
    }

    fn end(self, what: &str) {
        self.end.send(()).ok();
        assert!(self.in_time.join().unwrap(), "{what}: the executor's thread waited for the file system");
    }
}

/// Fills every range with ones.
struct Ones;

impl WriteSource for Ones {
    fn fill(&self, _: usize, buffer: &mut HostBuf) -> bool {
        buffer.fill(1);
        true
    }
}

/// Begins a call while nothing is answered, and leaves it when the file system has been asked.
async fn left<T>((disk, store): (&Mounted, &PosixStore), what: &str, call: impl Future<Output = T>) {
    // What was left before has ended: it is this call that hangs.
    store.idle().await;
    let watch = Watch::over(&disk.script);
    disk.script.freeze();
    let mut call: Pin<Box<_>> = Box::pin(call);
    let polled = call.as_mut().poll(&mut Context::from_waker(Waker::noop()));
    assert!(matches!(polled, Poll::Pending), "{what} has answered without the file system");
    let asked = tokio::time::timeout(Duration::from_secs(30), disk.script.hangs());
    asked.await.unwrap_or_else(|_| panic!("{what} has not asked the file system"));
    drop(call);
    watch.end(what);
}

/// An upload of two parts, of which the first is written.
async fn begun(store: &PosixStore, n: u8) -> Box<dyn Upload> {
    let upload = store.begin(&name(n), 8).await.unwrap();
    upload.write(0, buffer()).await.1.unwrap();
    upload
}

fn buffer() -> HostBuf {
    HostBuf::copy_of(b"four").unwrap()
}

// On one thread: what blocks it blocks the test.
//= SEMANTICS.md#hung-bounded
#[tokio::test]
async fn neither_a_call_nor_a_drop_waits_for_a_file_system_on_the_executors_thread() {
    let Some(disk) = Mounted::mount() else { return };
    let store = open(disk.path()).await;
    let at = (&disk, &store);
    publish(&store, &name(0), b"before").await.unwrap();
    let version = store.head(&name(0)).await.unwrap().unwrap().version;
    let record = RecordName::request("before", 0);
    let recorded = store.create_record(&record, b"before").await.unwrap().unwrap();

    left(at, "begin", store.begin(&name(1), 8)).await;
    let upload = begun(&store, 2).await;
    left(at, "write", upload.write(4, buffer())).await;
    drop(upload);
    let upload = begun(&store, 3).await;
    let range = vec![ByteRange { offset: 4, len: 4 }];
    left(at, "write_from", upload.write_from(range, buffer(), std::sync::Arc::new(Ones))).await;
    drop(upload);
    let upload = begun(&store, 4).await;
    upload.write(4, buffer()).await.1.unwrap();
    left(at, "commit", upload.commit()).await;
    left(at, "abort", begun(&store, 5).await.abort()).await;
    let upload = begun(&store, 6).await;
    left(
        at,
        "a drop",
        pin!(async {
            drop(upload);
            std::future::pending::<()>().await;
        }),
    )
    .await;

    let part = || vec![ReadPart { offset: 0, buffer: buffer() }];
    left(at, "read", store.read(&name(0), part())).await;
    left(at, "head", store.head(&name(0))).await;
    left(at, "list", store.list(&NamespaceDigest([1; 32]), None, 10)).await;
    left(at, "create_record", store.create_record(&RecordName::request("r", 0), b"r")).await;
    left(at, "read_record", store.read_record(&record)).await;
    left(at, "replace_record", store.replace_record(&record, &recorded, b"after")).await;
    left(at, "delete_record", store.delete_record(&record)).await;
    left(at, "quarantine", store.quarantine(&name(0), &version)).await;
    left(at, "delete", store.delete(&name(4))).await;

    store.idle().await;
    assert_eq!(store.health().stranded, 0);
    assert_eq!(crate::temporaries(disk.path()), Vec::<std::path::PathBuf>::new());
    assert!(store.read(&name(2), part()).await.result.unwrap().is_none(), "half of an object is visible");
}
