//! A store whose versions are another's, marked differently: what an S3 endpoint is beside a mount of the same tree.

use std::fmt;

use async_trait::async_trait;
use kv_format::{NamespaceDigest, ObjectName, RecordName};
use kv_storage::{
    Capabilities, KvStore, MemoryStore, ObjectMeta, ReadOutcome, ReadPart, Record, Result, StoreHealth,
    Upload, Version,
};

#[derive(Debug)]
pub(crate) struct OtherKind(pub(crate) MemoryStore);

fn marked(version: Version) -> Version {
    Version(format!("mark:{}", version.0))
}

fn shown(meta: ObjectMeta) -> ObjectMeta {
    ObjectMeta { version: marked(meta.version), ..meta }
}

/// The version beneath; one that no store gives, if it is not ours.
fn beneath(version: &Version) -> Version {
    Version(version.0.strip_prefix("mark:").unwrap_or("none").to_owned())
}

impl fmt::Display for OtherKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("another kind")
    }
}

#[async_trait]
impl KvStore for OtherKind {
    fn capabilities(&self) -> Capabilities {
        self.0.capabilities()
    }

    fn health(&self) -> StoreHealth {
        self.0.health()
    }

    async fn idle(&self) {
        self.0.idle().await;
    }

    async fn begin(&self, name: &ObjectName, len: u64) -> Result<Box<dyn Upload>> {
        self.0.begin(name, len).await
    }

    async fn read(&self, name: &ObjectName, parts: Vec<ReadPart>) -> ReadOutcome {
        let ReadOutcome { buffers, result } = self.0.read(name, parts).await;
        ReadOutcome { buffers, result: result.map(|meta| meta.map(shown)) }
    }

    async fn head(&self, name: &ObjectName) -> Result<Option<ObjectMeta>> {
        Ok(self.0.head(name).await?.map(shown))
    }

    async fn list(
        &self,
        namespace: &NamespaceDigest,
        after: Option<&ObjectName>,
        limit: usize,
    ) -> Result<Vec<ObjectMeta>> {
        Ok(self.0.list(namespace, after, limit).await?.into_iter().map(shown).collect())
    }

    async fn delete(&self, name: &ObjectName) -> Result<bool> {
        self.0.delete(name).await
    }

    async fn quarantine(&self, name: &ObjectName, version: &Version) -> Result<bool> {
        self.0.quarantine(name, &beneath(version)).await
    }

    async fn create_record(&self, name: &RecordName, body: &[u8]) -> Result<Option<Version>> {
        Ok(self.0.create_record(name, body).await?.map(marked))
    }

    async fn replace_record(
        &self,
        name: &RecordName,
        expected: &Version,
        body: &[u8],
    ) -> Result<Option<Version>> {
        Ok(self.0.replace_record(name, &beneath(expected), body).await?.map(marked))
    }

    async fn read_record(&self, name: &RecordName) -> Result<Option<Record>> {
        let record = self.0.read_record(name).await?;
        Ok(record.map(|record| Record { version: marked(record.version), ..record }))
    }

    async fn delete_record(&self, name: &RecordName) -> Result<bool> {
        self.0.delete_record(name).await
    }
}
