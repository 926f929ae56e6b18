//! What an engine is chosen for, and what differs between engines: the page cache, and nothing that a caller sees.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "the functions that tests share are test code too"
)]

mod engines;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use kv_format::{ChunkKey, NamespaceDigest, ObjectName};
use kv_memory::{HostBuf, HugePages, StagingPool};
use kv_storage::posix::IoEngine;
use kv_storage::{
    ByteRange, ErrorKind, KvStore, Next, ObjectMeta, PosixOptions, PosixStore, Publication, ReadPart,
    ReadSink,
};

const PAGE: usize = 4096;
/// Pages, and a tail that is none.
const LEN: usize = 64 * PAGE + 1000;

fn name() -> ObjectName {
    ObjectName { namespace: NamespaceDigest([1; 32]), key: ChunkKey([2; 32]), chunk_index: 0, slice: 0 }
}

fn contents() -> Vec<u8> {
    (0..=250).cycle().take(LEN).collect()
}

async fn open(root: &Path, engine: IoEngine) -> PosixStore {
    PosixStore::open(root, PosixOptions::default().sweep_older_than(None).io(engine).format_if_empty(true))
        .await
        .unwrap()
}

async fn publish(store: &PosixStore) {
    let upload = store.begin(&name(), LEN as u64).await.unwrap();
    upload.write(0, HostBuf::copy_of(&contents()).unwrap()).await.1.unwrap();
    assert_eq!(upload.commit().await.unwrap(), Publication::Published);
}

/// The engine's choice for a place, and whether it is what the place deserves.
//= SEMANTICS.md#engine-choice
#[tokio::test]
async fn auto_takes_a_ring_on_a_disk_and_threads_elsewhere_and_says_why() {
    for place in [std::env::temp_dir(), "/dev/shm".into()] {
        let both = engines::engines(&place).await.contains(&IoEngine::IoUring);
        let folder = tempfile::tempdir_in(place).unwrap();
        let root = folder.path();
        let store = open(root, IoEngine::Auto).await;
        let choice = store.io_engine();
        eprintln!("{}: {choice}", root.display());
        let on_disk = std::os::unix::fs::MetadataExt::dev(&root.metadata().unwrap()) > 0xff; // major above 0
        let insisting = if both { open(root, IoEngine::IoUring).await.io_engine().direct() } else { false };
        let expected = if both && on_disk && insisting { IoEngine::IoUring } else { IoEngine::Threads };
        assert_eq!((choice.asked(), choice.engine()), (IoEngine::Auto, expected), "{choice}");
        assert_eq!(choice.direct(), expected == IoEngine::IoUring);
        assert_eq!(PosixOptions::default().io, IoEngine::Threads, "the default changed");
    }
}

#[cfg(not(feature = "io-uring"))]
//= SEMANTICS.md#engine-refused
#[tokio::test]
async fn a_build_without_rings_refuses_them_by_name() {
    let root = tempfile::tempdir().unwrap();
    let options = PosixOptions::default().io(IoEngine::IoUring).format_if_empty(true);
    let error = PosixStore::open(root.path(), options).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.to_string().contains("without the feature `io-uring`"), "{error}");
    let choice = open(root.path(), IoEngine::Auto).await.io_engine().clone();
    assert!(choice.to_string().contains("without the feature `io-uring`"), "{choice}");
}

/// How many pages of a file the page cache holds, by util-linux's `fincore`; `None`, with a word on stderr, where that is not
/// installed. To try with `RWF_NOWAIT` would not do: it starts to read what it does not find.
fn cached(path: &Path) -> Option<usize> {
    match std::process::Command::new("fincore")
        .args(["--bytes", "--noheadings", "-o", "PAGES"])
        .arg(path)
        .output()
    {
        Ok(output) => Some(String::from_utf8(output.stdout).unwrap().trim().parse().unwrap()),
        Err(error) => {
            eprintln!("SKIPPED: fincore, of util-linux: {error}");
            None
        }
    }
}

//= SEMANTICS.md#engine-page-cache
#[tokio::test]
async fn aligned_pages_go_past_the_page_cache_and_the_tail_through_it() {
    for engine in engines::engines(&std::env::temp_dir()).await {
        let root = tempfile::tempdir().unwrap();
        let store = open(root.path(), engine).await;
        publish(&store).await;
        let parts = vec![ReadPart { offset: 0, buffer: HostBuf::copy_of(&vec![0; LEN]).unwrap() }];
        let read = store.read(&name(), parts).await;
        read.result.unwrap().unwrap();
        assert_eq!(*read.buffers[0], *contents(), "{engine}");
        let Some(cached) = cached(&root.path().join(name().to_string())) else { return };
        if store.io_engine().direct() {
            assert_eq!(cached, 1, "{engine}: pages in the page cache, of which only the tail is one");
        } else if engine == IoEngine::IoUring {
            eprintln!("SKIPPED: O_DIRECT does not work in {}", root.path().display());
        } else {
            assert_eq!(cached, LEN.div_ceil(PAGE), "{engine}: pages in the page cache");
        }
    }
}

/// Panics at its first range, while others are being read.
struct Panics(AtomicUsize);

impl ReadSink for Panics {
    fn filled(&self, _: &ObjectMeta, index: usize, _: HostBuf) -> Next {
        self.0.fetch_add(1, Ordering::Relaxed);
        panic!("range {index}, on purpose");
    }
}

/// Keeps the order in which the ranges come.
#[derive(Default)]
struct Order(std::sync::Mutex<Vec<usize>>);

impl ReadSink for Order {
    fn filled(&self, _: &ObjectMeta, index: usize, buffer: HostBuf) -> Next {
        let (start, end) = (index * PAGE, (index + 1) * PAGE);
        assert_eq!(*buffer, contents()[start..end], "range {index}");
        self.0.lock().unwrap().push(index);
        Next::Reuse(buffer)
    }
}

//= SEMANTICS.md#engine-same
#[tokio::test]
async fn a_stream_hands_the_first_range_over_first_and_a_panic_gives_all_buffers_back() {
    let pool = StagingPool::new(HugePages::allocate(8 * PAGE).unwrap(), PAGE).unwrap();
    let name = name();
    for engine in engines::engines(&std::env::temp_dir()).await {
        let root = tempfile::tempdir().unwrap();
        let store = open(root.path(), engine).await;
        publish(&store).await;
        let ranges: Vec<ByteRange> =
            (0..64).map(|page| ByteRange { offset: page * PAGE as u64, len: PAGE }).collect();

        let order = Arc::new(Order::default());
        let buffers = pool.acquire_many(8).await;
        let read = store.read_into(&name, ranges.clone(), buffers, Arc::clone(&order) as Arc<dyn ReadSink>);
        read.await.unwrap().unwrap();
        let mut order = std::mem::take(&mut *order.0.lock().unwrap());
        assert_eq!(order[0], 0, "{engine}");
        order.sort_unstable();
        assert_eq!(order, (0..64).collect::<Vec<_>>(), "{engine}");
        store.idle().await;
        assert_eq!(pool.usage().bytes_lent, 0, "{engine}");

        let panics = Arc::new(Panics(AtomicUsize::new(0)));
        let buffers = pool.acquire_many(8).await;
        let read = store.read_into(&name, ranges, buffers, Arc::clone(&panics) as Arc<dyn ReadSink>);
        assert_eq!(read.await.unwrap_err().kind(), ErrorKind::Unavailable);
        assert_eq!(panics.0.load(Ordering::Relaxed), 1, "{engine}");
        store.idle().await;
        assert_eq!(pool.usage().bytes_lent, 0, "{engine}: idle, and a buffer is not back");
    }
}

//= SEMANTICS.md#engine-fixed
#[cfg(feature = "io-uring")]
#[tokio::test]
async fn registered_staging_is_said_and_holds_what_is_read() {
    let pool = StagingPool::new(HugePages::allocate(4 << 20).unwrap(), 1 << 20).unwrap();
    for engine in engines::engines(&std::env::temp_dir()).await {
        let root = tempfile::tempdir().unwrap();
        let options = PosixOptions::default().io(engine).fixed_buffers(&pool).format_if_empty(true);
        let store = PosixStore::open(root.path(), options).await.unwrap();
        let choice = store.io_engine();
        let registered = if engine == IoEngine::Threads { 0 } else { 4 << 20 };
        assert!(choice.fixed_bytes() == registered || choice.why().contains("raise the limit"), "{choice}");
        let mut buffer = pool.acquire().await;
        buffer.set_len(LEN).unwrap();
        buffer.copy_from_slice(&contents());
        let upload = store.begin(&name(), LEN as u64).await.unwrap();
        let (mut buffer, written) = upload.write(0, buffer).await;
        written.unwrap();
        upload.commit().await.unwrap();
        buffer.fill(0);
        let read = store.read(&name(), vec![ReadPart { offset: 0, buffer }]).await;
        read.result.unwrap().unwrap();
        assert_eq!(*read.buffers[0], *contents(), "{engine}");
    }
}
