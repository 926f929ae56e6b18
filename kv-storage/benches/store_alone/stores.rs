//! The store under the same load: as many I/O threads as the plain loop has, and two objects under way for each.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures_util::stream::{FuturesUnordered, StreamExt};
use kv_format::{ChunkKey, NamespaceDigest, ObjectName};
use kv_memory::{HostBuf, StagingPool};
use kv_storage::posix::{FsyncPolicy, IoEngine};
use kv_storage::{ByteRange, KvStore, PosixOptions, PosixStore, Publication, ReadPart, Upload, WriteSource};
use tokio::runtime::Runtime;
use tokio::task::JoinSet;

use crate::plain::taken;
use crate::{Load, PART, Took};

/// An open store and the executor of its callers.
pub(crate) struct Store {
    runtime: Runtime,
    store: Arc<PosixStore>,
    directory: PathBuf,
}

fn name(object: usize) -> ObjectName {
    let chunk_index = u32::try_from(object).unwrap();
    ObjectName { namespace: NamespaceDigest([1; 32]), key: ChunkKey([2; 32]), chunk_index, slice: 0 }
}

impl Store {
    pub(crate) fn open(root: &Path, staging: &StagingPool, load: Load, engine: IoEngine) -> Self {
        let directory = root.join("store");
        std::fs::create_dir_all(&directory).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        // A ring moves bytes on a thread of its own, while two of the store's open, publish and wait.
        let threads = if engine == IoEngine::IoUring { 2 * load.threads } else { load.threads };
        let options = PosixOptions::default()
            .format_if_empty(true)
            .threads(threads)
            .fsync(FsyncPolicy::None)
            .io(engine)
            .fixed_buffers(staging);
        let store = runtime.block_on(PosixStore::open(&directory, options)).unwrap();
        assert_eq!(store.io_engine().engine(), engine);
        Self { runtime, store: Arc::new(store), directory }
    }

    /// Saves and loads all objects.
    pub(crate) fn measure(&self, staging: &StagingPool, load: Load) -> [Took; 2] {
        let lanes = || -> Vec<Vec<HostBuf>> { (0..load.lanes()).map(|_| taken(staging, load.len)).collect() };
        let saving = lanes();
        let saved = Took::of(|| self.run(saving, load, save));
        let loading = lanes();
        let loaded = Took::of(|| self.run(loading, load, load_one));
        self.runtime.block_on(async {
            for object in 0..load.objects {
                assert!(self.store.delete(&name(object)).await.unwrap());
            }
        });
        [saved, loaded]
    }

    fn run<F>(
        &self,
        lanes: Vec<Vec<HostBuf>>,
        load: Load,
        work: impl Fn(Arc<PosixStore>, usize, Vec<HostBuf>) -> F + Copy + Send + 'static,
    ) -> Duration
    where
        F: Future<Output = Vec<HostBuf>> + Send,
    {
        self.runtime.block_on(async {
            let started = Instant::now();
            let mut tasks = JoinSet::new();
            let step = lanes.len();
            for (lane, mut buffers) in lanes.into_iter().enumerate() {
                let store = Arc::clone(&self.store);
                tasks.spawn(async move {
                    for object in (lane..load.objects).step_by(step) {
                        buffers = work(Arc::clone(&store), object, buffers).await;
                    }
                });
            }
            while let Some(ended) = tasks.join_next().await {
                ended.unwrap();
            }
            started.elapsed()
        })
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

/// Publishes an object whose bytes are in staging: one call for all parts where a thread takes them one after the other, a call for each
/// of a few at a time where a ring does.
async fn save(store: Arc<PosixStore>, object: usize, buffers: Vec<HostBuf>) -> Vec<HostBuf> {
    let upload = store.begin(&name(object), (buffers.len() * PART) as u64).await.unwrap();
    let back = match store.io_engine().engine() {
        IoEngine::IoUring => at_once(&*upload, buffers).await,
        _ => in_turn(&*upload, buffers).await,
    };
    assert_eq!(upload.commit().await.unwrap(), Publication::Published);
    back
}

async fn at_once(upload: &dyn Upload, buffers: Vec<HostBuf>) -> Vec<HostBuf> {
    const WINDOW: usize = 8;
    let mut back = Vec::with_capacity(buffers.len());
    let mut under_way = FuturesUnordered::new();
    for (part, buffer) in buffers.into_iter().enumerate() {
        if under_way.len() == WINDOW {
            let (buffer, written): (HostBuf, kv_storage::Result<()>) = under_way.next().await.unwrap();
            written.unwrap();
            back.push(buffer);
        }
        under_way.push(upload.write((part * PART) as u64, buffer));
    }
    while let Some((buffer, written)) = under_way.next().await {
        written.unwrap();
        back.push(buffer);
    }
    back
}

/// Gives the store one full buffer after the other for those that it has written.
struct Staged(Mutex<Vec<HostBuf>>);

impl WriteSource for Staged {
    fn fill(&self, index: usize, buffer: &mut HostBuf) -> bool {
        // The store has the first part's buffer from the start.
        if let Some(next) = index.checked_sub(1) {
            std::mem::swap(&mut self.0.lock().unwrap()[next], buffer);
        }
        true
    }
}

async fn in_turn(upload: &dyn Upload, mut buffers: Vec<HostBuf>) -> Vec<HostBuf> {
    let ranges =
        (0..buffers.len()).map(|part| ByteRange { offset: (part * PART) as u64, len: PART }).collect();
    let first = buffers.remove(0);
    let staged = Arc::new(Staged(Mutex::new(buffers)));
    let (last, written) = upload.write_from(ranges, first, Arc::clone(&staged) as Arc<dyn WriteSource>).await;
    written.unwrap();
    let mut back = std::mem::take(&mut *staged.0.lock().unwrap());
    back.push(last);
    back
}

/// Reads a whole object with one call.
async fn load_one(store: Arc<PosixStore>, object: usize, buffers: Vec<HostBuf>) -> Vec<HostBuf> {
    let at = |(part, buffer)| ReadPart { offset: (part * PART) as u64, buffer };
    let read = store.read(&name(object), buffers.into_iter().enumerate().map(at).collect()).await;
    read.result.unwrap().unwrap();
    read.buffers
}
