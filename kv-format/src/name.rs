//! Where objects and records live in a store: names made of digests and numbers, so that ids never become paths.

use std::fmt;
use std::str::FromStr;

use crate::{ChunkKey, Error, InputDigest, NamespaceDigest, Result};

/// First component of every name: the format major version.
const ROOT: &str = "v1";

/// Name of one object: one chunk x one slice.
///
/// The text form is `v1/<namespace>/<first two digits of the key>/<key>.<chunk index>.<slice>`, all digests in hexadecimal: 256
/// directories in a namespace, and a garbage collector can sort by chunk index without opening anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectName {
    /// Namespace of the chunk.
    pub namespace: NamespaceDigest,
    /// Key of the chunk.
    pub key: ChunkKey,
    /// Position of the chunk in its prefix chain, from 0.
    pub chunk_index: u32,
    /// Index into the namespace's slice table.
    pub slice: u32,
}

/// What a record is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum RecordKind {
    /// State of one rank's part of a request hand-off.
    Request,
}

/// Name of one record: a small mutable document beside the objects.
///
/// The text form is `v1/records/<kind>/<first two digits>/<digest>.<part>`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RecordName {
    /// What the record is about.
    pub kind: RecordKind,
    /// Digest of the id that a person or an engine uses.
    pub digest: InputDigest,
    /// Which part, for instance the rank of the producer.
    pub part: u32,
}

impl RecordKind {
    /// Every kind.
    pub const ALL: [Self; 1] = [Self::Request];

    /// Its part of a name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Request => "request",
        }
    }
}

impl RecordName {
    /// The record of one producer rank for the request that users know as `id`.
    pub fn request(id: &str, rank: u32) -> Self {
        let digest = blake3::derive_key("kvbridge 2026-11 request id", id.as_bytes());
        Self { kind: RecordKind::Request, digest: InputDigest(digest), part: rank }
    }
}

impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { namespace, key, chunk_index, slice } = self;
        write!(f, "{ROOT}/{namespace}/{:02x}/{key}.{chunk_index}.{slice}", key.0[0])
    }
}

impl fmt::Display for RecordName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, digest, part } = self;
        write!(f, "{ROOT}/records/{}/{:02x}/{digest}.{part}", kind.as_str(), digest.0[0])
    }
}

impl FromStr for ObjectName {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let parse = || {
            let (directory, file) = text.rsplit_once('/')?;
            let namespace = directory.strip_prefix(ROOT)?.strip_prefix('/')?.split('/').next()?;
            let (key, rest) = file.split_once('.')?;
            let (chunk_index, slice) = rest.split_once('.')?;
            Some(Self {
                namespace: NamespaceDigest::from_hex(namespace).ok()?,
                key: ChunkKey::from_hex(key).ok()?,
                chunk_index: chunk_index.parse().ok()?,
                slice: slice.parse().ok()?,
            })
        };
        // The round trip refuses every second spelling: leading zeros, a sign, a fan-out that is not the key's.
        parse().filter(|name| name.to_string() == text).ok_or_else(|| {
            Error::invalid(format!(
                "{text:?} is no object name: expected {ROOT}/<namespace>/<2 hex>/<key>.<chunk index>.<slice>"
            ))
        })
    }
}

impl FromStr for RecordName {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let parse = || {
            let kind = text.strip_prefix(ROOT)?.strip_prefix("/records/")?.split('/').next()?;
            let kind = RecordKind::ALL.into_iter().find(|known| known.as_str() == kind)?;
            let (digest, part) = text.rsplit_once('/')?.1.split_once('.')?;
            Some(Self { kind, digest: InputDigest::from_hex(digest).ok()?, part: part.parse().ok()? })
        };
        parse().filter(|name| name.to_string() == text).ok_or_else(|| {
            Error::invalid(format!(
                "{text:?} is no record name: expected {ROOT}/records/<kind>/<2 hex>/<digest>.<part>"
            ))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn object_names_round_trip_and_have_one_spelling() {
        let name = ObjectName {
            namespace: NamespaceDigest([1; 32]),
            key: ChunkKey([0xab; 32]),
            chunk_index: 7,
            slice: 12,
        };
        let text = name.to_string();
        assert_eq!(text, format!("v1/{}/ab/{}.7.12", "01".repeat(32), "ab".repeat(32)));
        assert_eq!(text.parse::<ObjectName>().unwrap(), name);
        let others = [
            text.replace(".7.", ".07."),
            text.replace(".7.", ".+7."),
            text.replace("/ab/", "/ac/"),
            text.replace("v1/", "v2/"),
            text.replace("v1/", "v1/../"),
            format!("{text}.tmp"),
            text.to_uppercase(),
            String::new(),
        ];
        for other in others {
            assert!(other.parse::<ObjectName>().is_err(), "{other} was accepted");
        }
    }

    #[test]
    fn record_names_round_trip_and_have_one_spelling() {
        let name = RecordName::request("a", 7);
        let text = name.to_string();
        assert_eq!(text.parse::<RecordName>().unwrap(), name);
        for other in [
            text.replace("request", "other"),
            text.replace(".7", ".07"),
            text.replace("v1", "v2"),
            format!("{text}/"),
        ] {
            assert!(other.parse::<RecordName>().is_err(), "{other} was accepted");
        }
    }

    #[test]
    fn a_hostile_request_id_does_not_reach_the_name() {
        let name = RecordName::request("../../etc/passwd\0", 3).to_string();
        assert!(name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'/' || b == b'.'), "{name}");
        assert!(!name.contains(".."), "{name}");
        assert_ne!(RecordName::request("a", 0), RecordName::request("b", 0));
    }
}
