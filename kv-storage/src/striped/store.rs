//! Every call of a store, over its members.

use std::sync::Arc;

use async_trait::async_trait;
use kv_format::{NamespaceDigest, ObjectName, RecordName};
use kv_memory::HostBuf;

use super::Striped;
use super::together::{Call, together};
use crate::parts::read_in_turns;
use crate::{
    ByteRange, Capabilities, KvStore, ObjectMeta, ReadOutcome, ReadPart, ReadSink, Record, Result, Setback,
    StoreHealth, Upload, Version, WriteOrder,
};

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl KvStore for Striped {
    fn capabilities(&self) -> Capabilities {
        let own = Capabilities {
            write_order: WriteOrder::Any,
            part_bytes: 1,
            alignment: 1,
            concurrency: 0,
            atomic_create: true,
        };
        self.members.iter().map(|member| member.capabilities()).fold(own, |all, one| Capabilities {
            write_order: if one.write_order == WriteOrder::Whole { one.write_order } else { all.write_order },
            part_bytes: all.part_bytes.max(one.part_bytes),
            alignment: all.alignment.max(one.alignment),
            concurrency: all.concurrency + one.concurrency,
            atomic_create: all.atomic_create && one.atomic_create,
        })
    }

    /// Down when one member is: every object needs all of them.
    fn health(&self) -> StoreHealth {
        self.members.iter().map(|member| member.health()).fold(StoreHealth::default(), |all, one| {
            StoreHealth {
                in_flight: all.in_flight + one.in_flight,
                stranded: all.stranded + one.stranded,
                down: all.down || one.down,
                reason: all.reason.or(one.reason),
            }
        })
    }

    async fn idle(&self) {
        for member in self.members.iter() {
            member.idle().await;
        }
    }

    async fn begin(&self, name: &ObjectName, len: u64) -> Result<Box<dyn Upload>> {
        self.begin_upload(name, len).await
    }

    async fn read(&self, name: &ObjectName, parts: Vec<ReadPart>) -> ReadOutcome {
        self.read_object(name, parts).await
    }

    // A range may lie over two members, so that streams are made of reads.
    fn calls_back_on_own_threads(&self) -> bool {
        false
    }

    async fn read_into(
        &self,
        name: &ObjectName,
        ranges: Vec<ByteRange>,
        buffers: Vec<HostBuf>,
        sink: Arc<dyn ReadSink>,
    ) -> Result<Option<ObjectMeta>> {
        read_in_turns(self, name, ranges, buffers, sink).await
    }

    async fn head(&self, name: &ObjectName) -> Result<Option<ObjectMeta>> {
        Ok(self.index(name).await?.map(|found| Self::shown(name, found)))
    }

    async fn list(
        &self,
        namespace: &NamespaceDigest,
        after: Option<&ObjectName>,
        limit: usize,
    ) -> Result<Vec<ObjectMeta>> {
        let calls =
            self.members.iter().map(|member| Box::pin(member.list(namespace, after, limit)) as Call<'_, _>);
        let mut names = Vec::new();
        for (number, listed) in together(calls.collect()).await.into_iter().enumerate() {
            let listed: Vec<ObjectMeta> = listed?;
            names.extend(listed.into_iter().map(|meta| meta.name).filter(|name| self.home(name) == number));
        }
        names.sort_unstable();
        // A listing shows no lengths of objects, so each is asked for its index; what is gone by then is left out.
        let mut found = Vec::new();
        for name in names {
            if found.len() >= limit {
                break;
            }
            found.extend(self.head(&name).await?);
        }
        Ok(found)
    }

    async fn delete(&self, name: &ObjectName) -> Result<bool> {
        let index = self.index(name).await;
        let deleted = self.members[self.home(name)].delete(name).await?;
        if let (true, Ok(Some((index, _)))) = (deleted, index) {
            self.remove_spans(&index).await;
        }
        Ok(deleted)
    }

    async fn quarantine(&self, name: &ObjectName, version: &Version) -> Result<bool> {
        let index = self.index(name).await;
        let taken = self.members[self.home(name)].quarantine(name, version).await?;
        if let (true, Ok(Some((index, of)))) = (taken, index)
            && of == *version
        {
            // Kept beside the index, for whoever wants to know; what cannot be moved a sweep removes.
            for span in 0..index.spans() {
                let (member, name) = (&self.members[index.member(span)], index.name(span));
                if let Ok(Some(meta)) = member.head(&name).await {
                    let _ = member.quarantine(&name, &meta.version).await;
                }
            }
        }
        Ok(taken)
    }

    // Each member has its own paths, and which of them was bad nobody here knows.
    fn another_way(&self, _: &ObjectName, _: Setback) -> bool {
        false
    }

    async fn create_record(&self, name: &RecordName, body: &[u8]) -> Result<Option<Version>> {
        self.home_of_record(name).create_record(name, body).await
    }

    async fn replace_record(
        &self,
        name: &RecordName,
        expected: &Version,
        body: &[u8],
    ) -> Result<Option<Version>> {
        self.home_of_record(name).replace_record(name, expected, body).await
    }

    async fn read_record(&self, name: &RecordName) -> Result<Option<Record>> {
        self.home_of_record(name).read_record(name).await
    }

    async fn delete_record(&self, name: &RecordName) -> Result<bool> {
        self.home_of_record(name).delete_record(name).await
    }
}
