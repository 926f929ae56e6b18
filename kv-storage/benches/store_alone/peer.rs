//! The crate `object_store` with its `LocalFileSystem` under the same load: its `put` from bytes that are in memory, its `get` into bytes
//! that it allocates. It publishes through a temporary file and a link or rename as well, and does not flush either.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use object_store::local::LocalFileSystem;
use object_store::{ObjectStoreExt, PutPayload, path};
use tokio::runtime::Runtime;
use tokio::task::JoinSet;

use crate::{Load, Took};

/// The store and its executor. Its blocking threads are tokio's, as many as there are objects under way.
pub(crate) struct Peer {
    runtime: Runtime,
    store: Arc<LocalFileSystem>,
    /// As many as the store's callers have objects in staging: what is always written from the same bytes finds them in a cache.
    payloads: Vec<PutPayload>,
    directory: PathBuf,
}

impl Peer {
    pub(crate) fn open(root: &Path, load: Load) -> Self {
        let directory = root.join("peer");
        std::fs::create_dir_all(&directory).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        // Without a prefix, which it would resolve: a mount that is nowhere has no other path.
        let store = Arc::new(LocalFileSystem::new());
        let payloads = (0..load.lanes()).map(|_| PutPayload::from(vec![7; load.len])).collect();
        Self { runtime, store, payloads, directory }
    }

    fn place(&self, object: usize) -> path::Path {
        let directory = self.directory.to_str().unwrap().trim_start_matches('/');
        path::Path::parse(format!("{directory}/object-{object}")).unwrap()
    }

    /// Saves and loads all objects, as many at a time as the plain loop has threads.
    pub(crate) fn measure(&self, load: Load) -> [Took; 2] {
        let took = [true, false].map(|save| {
            Took::of(|| {
                self.runtime.block_on(async {
                    let started = Instant::now();
                    let mut tasks = JoinSet::new();
                    for lane in 0..load.threads {
                        let store = Arc::clone(&self.store);
                        let objects = (lane..load.objects).step_by(load.threads);
                        let payload = |object: usize| self.payloads[object % self.payloads.len()].clone();
                        let places: Vec<(path::Path, PutPayload)> =
                            objects.map(|object| (self.place(object), payload(object))).collect();
                        tasks.spawn(async move {
                            for (place, payload) in places {
                                if save {
                                    store.put(&place, payload).await.unwrap();
                                } else {
                                    let bytes = store.get(&place).await.unwrap().bytes().await.unwrap();
                                    assert_eq!(bytes.len(), load.len);
                                }
                            }
                        });
                    }
                    while let Some(ended) = tasks.join_next().await {
                        ended.unwrap();
                    }
                    started.elapsed()
                })
            })
        });
        std::fs::remove_dir_all(&self.directory).unwrap();
        std::fs::create_dir_all(&self.directory).unwrap();
        took
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}
