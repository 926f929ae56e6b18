//! Whether a store keeps what it is given: one page written, read back, compared and removed.

use kv_format::{ChunkKey, NamespaceDigest, ObjectName};
use kv_memory::HostBuf;

use crate::env::Environment;
use crate::{Error, ErrorKind, KvStore, Publication, ReadPart};

/// The namespace of what probes write. Other namespaces are digests, and none is this text.
pub const PROBE_NAMESPACE: NamespaceDigest = NamespaceDigest(*b"kvbridge probe: safe to remove  ");

/// Bytes of a probe: one page, so that direct I/O does not refuse it.
const PAGE: usize = 4096;

/// A name that no other probe has.
pub(crate) fn probe_name(environment: &Environment) -> ObjectName {
    ObjectName { namespace: PROBE_NAMESPACE, key: ChunkKey(random(environment)), chunk_index: 0, slice: 0 }
}

/// Random bytes.
pub(crate) fn random<const N: usize>(environment: &Environment) -> [u8; N] {
    let mut bytes = [0; N];
    for word in bytes.chunks_mut(8) {
        let random = environment.entropy.next_u64().to_le_bytes();
        word.copy_from_slice(&random[..word.len()]);
    }
    bytes
}

/// Writes, reads, compares and removes the object `name`, which is this prober's own: what an earlier probe left there, having hung, is
/// removed first. A store that refuses to be written but answers is well: it can be read.
///
/// # Errors
/// What is wrong with the store.
pub(super) async fn probe(
    store: &dyn KvStore,
    name: &ObjectName,
    environment: &Environment,
) -> Result<(), String> {
    let said = |what: &'static str| move |error: Error| format!("{what}: {error}");
    match write_and_compare(store, name, &random::<PAGE>(environment)).await {
        Err(Failed::Store(error))
            if matches!(error.kind(), ErrorKind::NoSpace | ErrorKind::PermissionDenied) =>
        {
            store.head(name).await.map(drop).map_err(said("it refuses to be written and to be read"))
        }
        Err(Failed::Store(error)) => {
            // It may be there: a commit can fail behind the publication.
            let _ = store.delete(name).await;
            Err(error.to_string())
        }
        Err(Failed::Wrong(what)) => {
            let _ = store.delete(name).await;
            Err(what)
        }
        Ok(()) => match store.delete(name).await.map_err(said("a probe could not be removed"))? {
            true => Ok(()),
            false => Err("a probe was not there when it was to be removed".to_owned()),
        },
    }
}

enum Failed {
    Store(Error),
    Wrong(String),
}

impl From<Error> for Failed {
    fn from(error: Error) -> Self {
        Self::Store(error)
    }
}

async fn write_and_compare(store: &dyn KvStore, name: &ObjectName, bytes: &[u8]) -> Result<(), Failed> {
    let memory = |error: kv_memory::Error| Failed::Wrong(format!("the probe's own memory: {error}"));
    store.delete(name).await?;
    let upload = store.begin(name, bytes.len() as u64).await?;
    let (mut buffer, written) = upload.write(0, HostBuf::copy_of(bytes).map_err(memory)?).await;
    written?;
    if upload.commit().await? != Publication::Published {
        return Err(Failed::Wrong("a name that nobody has is taken".to_owned()));
    }
    buffer.fill(0);
    let outcome = store.read(name, vec![ReadPart { offset: 0, buffer }]).await;
    match (outcome.result?, outcome.buffers.first()) {
        (Some(_), Some(read)) if **read == *bytes => Ok(()),
        (Some(_), _) => Err(Failed::Wrong("what was read is not what was written".to_owned())),
        (None, _) => Err(Failed::Wrong("what was published is not there".to_owned())),
    }
}
