//! Faults that the system makes, met through real system calls: full disks, read-only mounts, failing calls, and things that stand where
//! files should be.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "the functions that tests share are test code too"
)]

mod disks;
mod fuse;
mod hangs;
mod kernel_errors;
mod lost_answers;
mod planted;
mod publishing;
mod require;
mod rights;

use std::path::{Path, PathBuf};
use std::time::Duration;

use kv_format::{ChunkKey, NamespaceDigest, ObjectName};
use kv_memory::HostBuf;
use kv_storage::{KvStore, PosixOptions, PosixStore, Publication, ReadPart};

/// A new folder, in memory where there is a tmpfs: these tests are about names and rights, which a disk only makes slow.
fn folder() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

fn name(n: u8) -> ObjectName {
    ObjectName { namespace: NamespaceDigest([1; 32]), key: ChunkKey([n; 32]), chunk_index: 0, slice: 0 }
}

async fn open(root: &Path) -> PosixStore {
    PosixStore::open(root, PosixOptions::default().format_if_empty(true)).await.unwrap()
}

async fn publish(store: &PosixStore, name: &ObjectName, bytes: &[u8]) -> kv_storage::Result<Publication> {
    let upload = store.begin(name, bytes.len() as u64).await?;
    upload.write(0, HostBuf::copy_of(bytes).unwrap()).await.1?;
    upload.commit().await
}

/// A read of one byte that must not block.
async fn read_byte(store: &PosixStore, name: &ObjectName) -> kv_storage::Result<Option<u8>> {
    let parts = vec![ReadPart { offset: 0, buffer: HostBuf::copy_of(&[0]).unwrap() }];
    let read = tokio::time::timeout(Duration::from_secs(30), store.read(name, parts));
    let outcome = read.await.expect("the read blocks");
    Ok(outcome.result?.map(|_| outcome.buffers[0][0]))
}

/// A read of a whole object; `None` for a miss.
async fn read_all(store: &PosixStore, name: &ObjectName, len: usize) -> kv_storage::Result<Option<Vec<u8>>> {
    let parts = vec![ReadPart { offset: 0, buffer: HostBuf::copy_of(&vec![0; len]).unwrap() }];
    let outcome = store.read(name, parts).await;
    Ok(outcome.result?.map(|_| outcome.buffers[0].to_vec()))
}

fn files_in(directory: &Path) -> Vec<PathBuf> {
    directory.read_dir().unwrap().map(|entry| entry.unwrap().path()).collect()
}

/// Temporary files and directories anywhere beneath a root.
fn temporaries(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for path in files_in(directory) {
        if path.file_name().unwrap().to_string_lossy().starts_with(".kv-tmp.") {
            found.push(path);
        } else if path.is_dir() {
            found.extend(temporaries(&path));
        }
    }
    found
}
