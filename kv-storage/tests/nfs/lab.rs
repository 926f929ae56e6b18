//! The lab as a test sees it: mounts, the other host, the server's switch; and what every test needs.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use kv_format::{ChunkKey, NamespaceDigest, ObjectName};
use kv_memory::HostBuf;
use kv_storage::env::Environment;
use kv_storage::{KvStore, PosixOptions, PosixStore, Publication, ReadPart, Result, Upload};

use crate::remote_store::{self, RemoteStore};

/// Longest wait for anything: a hang fails instead.
pub(crate) const DEADLINE: Duration = Duration::from_secs(120);

/// A mount of the lab.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Mounted {
    /// With the options that we recommend.
    Recommended,
    /// With no options.
    Default,
}

impl Mounted {
    /// Where it is, on each host.
    pub(crate) fn path(self) -> PathBuf {
        let variable = match self {
            Self::Recommended => "KV_NFS_MOUNT",
            Self::Default => "KV_NFS_DEFAULT_MOUNT",
        };
        variable_of_the_lab(variable).into()
    }
}

/// A directory of the server, with a store on each host.
pub(crate) struct TwoHosts {
    /// On this host, beneath its mount.
    pub root: PathBuf,
    /// This host's store.
    pub here: PosixStore,
    /// The other host's store.
    pub there: RemoteStore,
}

impl TwoHosts {
    /// A new directory, seen by both hosts through the same kind of mount.
    pub(crate) async fn on(mounted: Mounted) -> Self {
        Self::with(mounted, PosixOptions::default()).await
    }

    /// With options for this host's store.
    pub(crate) async fn with(mounted: Mounted, options: PosixOptions) -> Self {
        control("await-agent");
        let name = format!("store-{:016x}", random());
        let root = mounted.path().join(&name);
        std::fs::create_dir(&root).unwrap();
        let here = PosixStore::open(&root, options.format_if_empty(true)).await.unwrap();
        let there =
            RemoteStore::open(&variable_of_the_lab("KV_NFS_AGENT"), root.to_str().unwrap()).await.unwrap();
        Self { root, here, there }
    }
}

/// A variable that the lab sets.
pub(crate) fn variable_of_the_lab(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set: run this by `cargo xtask nfs-lab`"))
}

/// Asks the lab, and waits for its `ok`.
pub(crate) fn control(word: &str) {
    let mut stream = TcpStream::connect(variable_of_the_lab("KV_NFS_CONTROL")).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    writeln!(stream, "{word}").unwrap();
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer).unwrap();
    assert_eq!(answer.trim(), "ok", "the lab's answer to {word}");
}

/// A random number; tests do not depend on which.
pub(crate) fn random() -> u64 {
    Environment::default().entropy.next_u64()
}

/// A name that nobody has used.
pub(crate) fn new_name() -> ObjectName {
    let mut key = [0; 32];
    for word in key.chunks_exact_mut(8) {
        word.copy_from_slice(&random().to_le_bytes());
    }
    ObjectName { namespace: NamespaceDigest([7; 32]), key: ChunkKey(key), chunk_index: 1, slice: 2 }
}

/// Bytes that say whose they are.
pub(crate) fn contents(of: u64, len: usize) -> Vec<u8> {
    let mut bytes: Vec<u8> = of.to_le_bytes().into_iter().cycle().take(len).collect();
    for (index, byte) in bytes.iter_mut().enumerate() {
        *byte ^= u8::try_from(index / 4096 % 256).unwrap();
    }
    bytes
}

/// An upload with all its bytes, to be committed.
pub(crate) async fn uploaded(store: &dyn KvStore, name: &ObjectName, bytes: &[u8]) -> Box<dyn Upload> {
    remote_store::uploaded(store, name, bytes).await.unwrap()
}

/// Publishes under a free name.
pub(crate) async fn publish(store: &dyn KvStore, name: &ObjectName, bytes: &[u8]) {
    let upload = uploaded(store, name, bytes).await;
    assert_eq!(upload.commit().await.unwrap(), Publication::Published);
}

/// The first `len` bytes of an object.
pub(crate) async fn read(store: &dyn KvStore, name: &ObjectName, len: usize) -> Result<Option<Vec<u8>>> {
    let parts = (0..len)
        .step_by(1 << 20)
        .map(|start| ReadPart {
            offset: start as u64,
            buffer: HostBuf::copy_of(&vec![0xee; (len - start).min(1 << 20)]).unwrap(),
        })
        .collect();
    let outcome = store.read(name, parts).await;
    let found = outcome.result?;
    Ok(found.map(|_| outcome.buffers.iter().flat_map(|buffer| buffer.to_vec()).collect()))
}

/// Requests of this host's NFS client to the server, by the names of `/proc/self/mountstats`, on the mount that `path` is on.
pub(crate) fn requests(path: &Path) -> Vec<(String, u64)> {
    let table = std::fs::read_to_string("/proc/self/mountstats").unwrap();
    let mount = path.ancestors().find_map(|folder| {
        let heading = format!(" mounted on {} with fstype nfs", folder.display());
        table.split("\ndevice ").find(|block| block.contains(&heading))
    });
    let operations = mount.unwrap().split_once("per-op statistics").unwrap().1.lines();
    let counted = operations.filter_map(|line| {
        let (name, counts) = line.split_once(':')?;
        Some((name.trim().to_owned(), counts.split_whitespace().next()?.parse().ok()?))
    });
    counted.collect()
}

/// What was asked between two counts, without what was not.
pub(crate) fn asked(before: &[(String, u64)], after: &[(String, u64)]) -> Vec<(String, u64)> {
    let more = before.iter().zip(after).map(|((name, before), (_, after))| (name.clone(), after - before));
    more.filter(|(_, count)| *count > 0).collect()
}
