//! The record of one rank's part of a request, as JSON: small, for people and programs, whole or absent.

use kv_format::{ChunkKey, FORMAT_MAJOR, NamespaceDigest, RecordName};
use serde::{Deserialize, Serialize};

use crate::{Error, ErrorKind, Result};

/// What a rank says of its part.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "kebab-case", deny_unknown_fields)]
pub(super) enum State {
    /// The rank prefills or saves.
    Pending,
    /// Everything that the rank saves is in the store.
    Complete {
        /// Tokens that are stored.
        tokens: u32,
        /// Key of the tail, in hexadecimal.
        tail: Option<String>,
    },
    /// The rank gave up: final.
    Aborted {
        /// Why, for people.
        reason: String,
    },
}

/// The record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct RequestRecord {
    pub(super) format: u16,
    pub(super) namespace: String,
    pub(super) rank: u32,
    pub(super) ranks: u32,
    /// Random number of the owner that opened the record: only it replaces it.
    pub(super) epoch: u64,
    /// Wall time in milliseconds since 1970 after which the record and its tail may be collected.
    pub(super) expires_unix_ms: u64,
    #[serde(flatten)]
    pub(super) state: State,
}

impl RequestRecord {
    pub(super) fn encode(&self) -> Vec<u8> {
        // Numbers, strings and an enum always serialise.
        serde_json::to_vec_pretty(self).unwrap_or_default()
    }

    /// Reads a record, trusting nothing.
    pub(super) fn decode(name: &RecordName, body: &[u8]) -> Result<Self> {
        let bad = |what: String| Error::new(ErrorKind::Incompatible, format!("record {name}: {what}"));
        let record: Self =
            serde_json::from_slice(body).map_err(|error| bad(format!("cannot be read: {error}")))?;
        if record.format != FORMAT_MAJOR {
            return Err(bad(format!("format {}: this version knows {FORMAT_MAJOR}", record.format)));
        }
        if record.rank != name.part || record.ranks == 0 || record.rank >= record.ranks {
            return Err(bad(format!("rank {} of {} contradicts its name", record.rank, record.ranks)));
        }
        Ok(record)
    }

    /// Checks that the producer saved into our namespace.
    pub(super) fn expect_namespace(&self, name: &RecordName, ours: NamespaceDigest) -> Result<()> {
        if self.namespace == ours.to_string() {
            return Ok(());
        }
        let message = format!(
            "record {name}: the producer saved into namespace {}, this consumer reads {ours}: compare their components",
            self.namespace
        );
        Err(Error::new(ErrorKind::Incompatible, message))
    }
}

/// Parses the key of a tail.
pub(super) fn tail_key(name: &RecordName, text: Option<&str>) -> Result<Option<ChunkKey>> {
    let key = text.map(ChunkKey::from_hex).transpose();
    key.map_err(|error| Error::new(ErrorKind::Incompatible, format!("record {name}: tail: {error}")))
}
