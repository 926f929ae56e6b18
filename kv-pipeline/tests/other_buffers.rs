//! A store that gives back other read buffers than it got: nothing of them is believed.

mod common;

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use common::*;
use kv_format::*;
use kv_pipeline::StopReason;
use kv_storage::{
    Capabilities, KvStore, MemoryStore, ObjectMeta, ReadOutcome, ReadPart, Record, Result, StoreHealth,
    Upload, Version,
};

/// What is wrong with the buffers of a read.
#[derive(Debug, Clone, Copy)]
enum Defect {
    Lost,
    Shortened,
}

/// A store with such a defect.
#[derive(Debug)]
struct Careless(MemoryStore, Defect);

impl fmt::Display for Careless {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "careless {}", self.0)
    }
}

#[async_trait]
impl KvStore for Careless {
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
        let mut outcome = self.0.read(name, parts).await;
        match self.1 {
            Defect::Lost => drop(outcome.buffers.pop()),
            Defect::Shortened => {
                for buffer in &mut outcome.buffers {
                    let _shorter = buffer.set_len(buffer.len() / 2);
                }
            }
        }
        outcome
    }

    async fn head(&self, name: &ObjectName) -> Result<Option<ObjectMeta>> {
        self.0.head(name).await
    }

    async fn list(
        &self,
        namespace: &NamespaceDigest,
        after: Option<&ObjectName>,
        limit: usize,
    ) -> Result<Vec<ObjectMeta>> {
        self.0.list(namespace, after, limit).await
    }

    async fn delete(&self, name: &ObjectName) -> Result<bool> {
        self.0.delete(name).await
    }

    async fn quarantine(&self, name: &ObjectName, version: &Version) -> Result<bool> {
        self.0.quarantine(name, version).await
    }

    async fn create_record(&self, name: &RecordName, body: &[u8]) -> Result<Option<Version>> {
        self.0.create_record(name, body).await
    }

    async fn replace_record(
        &self,
        name: &RecordName,
        expected: &Version,
        body: &[u8],
    ) -> Result<Option<Version>> {
        self.0.replace_record(name, expected, body).await
    }

    async fn read_record(&self, name: &RecordName) -> Result<Option<Record>> {
        self.0.read_record(name).await
    }

    async fn delete_record(&self, name: &RecordName) -> Result<bool> {
        self.0.delete_record(name).await
    }
}

#[tokio::test]
async fn a_load_stops_where_the_store_gives_back_other_buffers() {
    for defect in [Defect::Lost, Defect::Shortened] {
        let store = Careless(saved(&namespace(), CHUNK).await, defect);
        let consumer = Rank::new(namespace(), Arc::new(store), gaudi_like(0..HEADS, Replica::ONLY));
        let loaded = consumer.load(&tokens(CHUNK)).await.unwrap();
        assert_eq!((loaded.tokens, loaded.failures.len()), (0, 1), "{defect:?}");
        let failure = &loaded.failures[0];
        assert_eq!(failure.reason, StopReason::Unavailable, "{defect:?}: {failure}");
        assert!(failure.to_string().contains("run its conformance suite"), "{defect:?}: {failure}");
        consumer.assert_holds(0);
        assert_eq!(consumer.kv.staging().bytes_lent, 0, "{defect:?}");
    }
}
