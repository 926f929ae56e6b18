//! Records: by one path, and by another if that is sure to do it once.

use kv_format::RecordName;

use super::Vast;
use super::by_another::Asked;
use super::path::mixed;
use crate::{HealthGate, KvStore, Operation, Record, Result, Version};

/// A number that the record's name decides.
fn key_of(name: &RecordName) -> u64 {
    let words = name.digest.0.chunks_exact(8).filter_map(|word| word.try_into().ok().map(u64::from_le_bytes));
    words.fold(u64::from(name.part), |hash, word: u64| mixed(hash ^ word))
}

impl Vast {
    /// Who is asked for records.
    fn records(&self) -> Asked {
        Asked::First(self.shared.records)
    }

    /// A creation may be tried by every path: whichever is first, the others find the name taken. If one of them was ours and its answer
    /// is lost, the record has our body.
    pub(super) async fn create_by_any(&self, name: &RecordName, body: &[u8]) -> Result<Option<Version>> {
        let name = *name;
        let call = |gate: HealthGate| {
            let body = body.to_vec();
            async move { gate.create_record(&name, &body).await }
        };
        let created = self.by_any(Operation::CreateRecord, key_of(&name), self.records(), call).await?;
        if created.answer.is_none() && created.doubtful {
            return self.version_of(&name, body).await;
        }
        Ok(created.answer.map(|version| self.tagged(created.path.kind, version)))
    }

    /// A replacement is made once: one that hangs could be carried out late, behind another that came after it.
    pub(super) async fn replace_by_its_kind(
        &self,
        name: &RecordName,
        expected: &Version,
        body: &[u8],
    ) -> Result<Option<Version>> {
        let Some((kind, expected)) = self.untagged(expected) else { return Ok(None) };
        let mut order = self.order(key_of(name), super::setbacks::PathSet::default());
        order.retain(|path| path.kind == kind);
        let Some(path) = order.first() else { return Err(self.exhausted(Operation::ReplaceRecord, None)) };
        match path.gate.replace_record(name, &expected, body).await {
            Ok(replaced) => Ok(replaced.map(|version| self.tagged(kind, version))),
            Err(error) if super::may_differ(&error) => {
                path.fails_over();
                // Whoever has its body has replaced it.
                self.version_of(name, body).await.ok().flatten().map(Some).ok_or(error)
            }
            Err(error) => Err(error),
        }
    }

    pub(super) async fn read_by_any(&self, name: &RecordName) -> Result<Option<Record>> {
        let name = *name;
        let call = move |gate: HealthGate| async move { gate.read_record(&name).await };
        let read = self.by_any(Operation::ReadRecord, key_of(&name), self.records(), call).await?;
        let shown =
            |record: Record| Record { version: self.tagged(read.path.kind, record.version), ..record };
        Ok(read.answer.map(shown))
    }

    pub(super) async fn delete_by_any(&self, name: &RecordName) -> Result<bool> {
        let name = *name;
        let call = move |gate: HealthGate| async move { gate.delete_record(&name).await };
        Ok(self.by_any(Operation::DeleteRecord, key_of(&name), self.records(), call).await?.answer)
    }

    /// The version of a record that has this body.
    async fn version_of(&self, name: &RecordName, body: &[u8]) -> Result<Option<Version>> {
        let record = self.read_by_any(name).await?;
        Ok(record.filter(|record| record.body == body).map(|record| record.version))
    }
}
