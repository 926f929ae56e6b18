//! The plain loop that publishes, asked by tasks: tokio's `spawn_blocking` with as many threads as the loop has, one call for a whole object,
//! and as many objects under way as the store's callers have. It promises what an asynchronous store must, not to block whoever asks,
//! and nothing else; no store that hands objects to threads can be faster.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use kv_memory::{HostBuf, StagingPool};
use tokio::runtime::Runtime;
use tokio::task::{JoinSet, spawn_blocking};

use crate::plain::{Plain, taken};
use crate::{Load, Took};

/// The executor of the callers, with its blocking threads.
pub(crate) struct Asked {
    runtime: Runtime,
    /// How objects are saved, and how they are loaded.
    ways: [Plain; 2],
}

impl Asked {
    pub(crate) fn new(ways: [Plain; 2], load: Load) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .max_blocking_threads(load.threads)
            .build()
            .unwrap();
        Self { runtime, ways }
    }

    /// Saves and loads all objects.
    pub(crate) fn measure(&self, root: &Path, staging: &StagingPool, load: Load) -> [Took; 2] {
        let directory = root.join("asked");
        std::fs::create_dir_all(&directory).unwrap();
        let opened = Arc::new(OwnedFd::from(File::open(&directory).unwrap()));
        let took = [true, false].map(|save| {
            let lanes: Vec<Vec<HostBuf>> = (0..load.lanes()).map(|_| taken(staging, load.len)).collect();
            let way = self.ways[usize::from(!save)];
            Took::of(|| {
                self.runtime.block_on(async {
                    let started = Instant::now();
                    let (mut tasks, step) = (JoinSet::new(), lanes.len());
                    for (lane, mut buffers) in lanes.into_iter().enumerate() {
                        let opened = Arc::clone(&opened);
                        tasks.spawn(async move {
                            for object in (lane..load.objects).step_by(step) {
                                let opened = Arc::clone(&opened);
                                let work = move || {
                                    way.one(None, (&opened, object), &mut buffers, load.len, save);
                                    buffers
                                };
                                buffers = spawn_blocking(work).await.unwrap();
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
        std::fs::remove_dir_all(directory).unwrap();
        took
    }
}
