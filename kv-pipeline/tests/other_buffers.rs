//! A store that gives back other read buffers than it got: nothing of them is believed.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use common::*;
use kv_format::*;
use kv_memory::HostBuf;
use kv_pipeline::{Delivery, LoadRequest, Pipeline, StopReason};
use kv_storage::parts::read_in_turns;
use kv_storage::{
    ByteRange, Capabilities, KvStore, MemoryStore, Next, ObjectMeta, ReadOutcome, ReadPart, ReadSink, Record,
    Result, StoreHealth, Upload, Version,
};

/// What is wrong with the buffers of a read.
#[derive(Debug, Clone, Copy)]
enum Defect {
    Lost,
    Shortened,
    /// A streamed read hands its last part over as the one before, and so one part twice and one never.
    TwiceTheSame,
    /// A streamed read numbers its last part as one that was not asked for.
    Beyond,
}

/// Numbers the parts of a streamed read otherwise than they were asked for.
struct Renumbering {
    sink: Arc<dyn ReadSink>,
    defect: Defect,
    last: usize,
}

impl ReadSink for Renumbering {
    fn filled(&self, meta: &ObjectMeta, index: usize, buffer: HostBuf) -> Next {
        let index = match self.defect {
            Defect::TwiceTheSame if index == self.last => index.saturating_sub(1),
            Defect::Beyond if index == self.last => index + 1,
            _ => index,
        };
        self.sink.filled(meta, index, buffer)
    }
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
            Defect::TwiceTheSame | Defect::Beyond => {}
            Defect::Lost => drop(outcome.buffers.pop()),
            Defect::Shortened => {
                for buffer in &mut outcome.buffers {
                    let _shorter = buffer.set_len(buffer.len() / 2);
                }
            }
        }
        outcome
    }

    async fn read_into(
        &self,
        name: &ObjectName,
        ranges: Vec<ByteRange>,
        buffers: Vec<HostBuf>,
        sink: Arc<dyn ReadSink>,
    ) -> Result<Option<ObjectMeta>> {
        let sink = Renumbering { sink, defect: self.1, last: ranges.len() - 1 };
        read_in_turns(self, name, ranges, buffers, Arc::new(sink)).await
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
        refused(defect, Delivery::WholeChunk, 64 << 10).await;
    }
}

/// Parts of equal length and right content under wrong numbers, so that only the count of each part tells.
#[tokio::test]
async fn a_load_stops_where_the_store_leaves_out_a_part() {
    refused(Defect::TwiceTheSame, Delivery::WholeChunk, 4096).await;
    refused(Defect::Beyond, Delivery::WholeChunk, 4096).await;
    // Without threads of the store, these are reads of one part each.
    refused(Defect::Beyond, Delivery::AsVerified, 4096).await;
}

async fn refused(defect: Defect, delivery: Delivery, part_bytes: usize) {
    let store = Careless(saved(&namespace(), CHUNK).await, defect);
    let builder = Pipeline::builder(namespace()).staging_bytes(2 << 20).part_bytes(part_bytes);
    let consumer = Rank::with(builder, Arc::new(store), gaudi_like(0..HEADS, Replica::ONLY));
    let prompt = tokens(CHUNK);
    let request = LoadRequest::new(&prompt).blocks(&consumer.blocks).delivery(delivery).timeout(PATIENCE);
    let loaded = consumer.kv.consumer().load(&consumer.registered, request).unwrap().finish().await.unwrap();
    assert_eq!((loaded.tokens, loaded.failures.len()), (0, 1), "{defect:?}, {delivery:?}");
    let failure = &loaded.failures[0];
    assert_eq!(failure.reason, StopReason::Unavailable, "{defect:?}, {delivery:?}: {failure}");
    assert!(failure.to_string().contains("run its conformance suite"), "{defect:?}, {delivery:?}: {failure}");
    if delivery == Delivery::WholeChunk {
        consumer.assert_holds(0);
    }
    assert_eq!(consumer.kv.staging().bytes_lent, 0, "{defect:?}, {delivery:?}");
}
