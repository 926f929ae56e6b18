//! What the tests share: names, bytes, and the ways in and out of a store.

use kv_format::{ChunkKey, NamespaceDigest, ObjectName};
use kv_memory::HostBuf;
use kv_storage::{KvStore, ObjectMeta, Publication, ReadPart, Result};

/// Bytes of the tests' objects: some runs of a reading, and an odd end.
pub(crate) const LEN: usize = 300_001;

pub(crate) fn name(number: u8) -> ObjectName {
    ObjectName {
        namespace: NamespaceDigest([0xab; 32]),
        key: ChunkKey([number; 32]),
        chunk_index: 0,
        slice: 0,
    }
}

pub(crate) fn bytes(seed: u8) -> Vec<u8> {
    (0..LEN).map(|i| u8::try_from(i % 251).unwrap() ^ seed).collect()
}

pub(crate) async fn publish(store: &dyn KvStore, name: &ObjectName, bytes: &[u8]) -> Result<Publication> {
    let upload = store.begin(name, bytes.len() as u64).await?;
    upload.write(0, HostBuf::copy_of(bytes).unwrap()).await.1?;
    upload.commit().await
}

/// The whole object, in two parts that touch.
pub(crate) async fn read(store: &dyn KvStore, name: &ObjectName) -> Result<Option<(Vec<u8>, ObjectMeta)>> {
    let half = LEN / 2;
    let mut parts = Vec::new();
    for (offset, len) in [(0, half), (half, LEN - half)] {
        let mut buffer = HostBuf::allocate(len).unwrap();
        buffer.set_len(len).unwrap();
        buffer.fill(0xee);
        parts.push(ReadPart { offset: offset as u64, buffer });
    }
    let outcome = store.read(name, parts).await;
    assert_eq!(outcome.buffers.len(), 2, "buffers come back with every answer");
    let whole = || outcome.buffers.iter().flat_map(|buffer| buffer.to_vec()).collect();
    Ok(outcome.result?.map(|meta| (whole(), meta)))
}
