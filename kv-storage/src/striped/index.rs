//! What is stored beside an object's bytes: the index under its name, and the end of each span, which names the object.
//!
//! Both are little-endian with a checksum behind, since a flipped bit in either would join what does not belong together.

use kv_format::{Checksum, ChunkKey, NamespaceDigest, ObjectName};

/// The namespace of the spans. Other namespaces are digests, and none is this text.
pub const STRIPES_NAMESPACE: NamespaceDigest = NamespaceDigest(*b"kvbridge stripes of objects 0001");

/// Bytes of an index.
pub(super) const INDEX_BYTES: usize = 72;
const INDEX_MAGIC: &[u8; 8] = b"KVSTRIP1";

/// Bytes behind each span.
pub(super) const END_BYTES: usize = 256;
const END_MAGIC: &[u8; 8] = b"KVSPAN01";
/// Longest text of an object's name behind magic, time and length.
const TEXT_BYTES: usize = END_BYTES - 8 - 8 - 8 - 8;

/// Spans of an object begin at multiples of this.
const PAGE: u64 = 4096;

/// Which spans make an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Index {
    /// Of the object.
    pub(super) len: u64,
    /// Bytes of each span but the last, which may be shorter.
    pub(super) span: u64,
    pub(super) members: u32,
    /// The member that has the first span.
    pub(super) first: u32,
    /// What no other upload has.
    pub(super) upload: [u8; 32],
}

impl Index {
    pub(super) fn new(len: u64, members: usize, first: usize, upload: [u8; 32]) -> Self {
        let of = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        let span = len.div_ceil(members.max(1) as u64).max(1);
        let span = span.checked_next_multiple_of(PAGE).unwrap_or(span);
        Self { len, span, members: of(members), first: of(first), upload }
    }

    /// Number of spans: fewer than members if the object is small.
    pub(super) fn spans(&self) -> usize {
        usize::try_from(self.len.div_ceil(self.span)).unwrap_or(usize::MAX)
    }

    /// Bytes of a span.
    pub(super) fn span_len(&self, span: usize) -> u64 {
        self.len.saturating_sub(span as u64 * self.span).min(self.span)
    }

    /// The member that has a span.
    pub(super) fn member(&self, span: usize) -> usize {
        let first = usize::try_from(self.first).unwrap_or_default();
        (first + span) % usize::try_from(self.members).unwrap_or(1).max(1)
    }

    /// The name of a span in its member.
    pub(super) fn name(&self, span: usize) -> ObjectName {
        let chunk_index = u32::try_from(span).unwrap_or(u32::MAX);
        ObjectName { namespace: STRIPES_NAMESPACE, key: ChunkKey(self.upload), chunk_index, slice: 0 }
    }

    pub(super) fn encode(&self) -> [u8; INDEX_BYTES] {
        let mut bytes = [0; INDEX_BYTES];
        bytes[..8].copy_from_slice(INDEX_MAGIC);
        bytes[8..16].copy_from_slice(&self.len.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.span.to_le_bytes());
        bytes[24..28].copy_from_slice(&self.members.to_le_bytes());
        bytes[28..32].copy_from_slice(&self.first.to_le_bytes());
        bytes[32..64].copy_from_slice(&self.upload);
        seal(&mut bytes);
        bytes
    }

    /// The index that `bytes` are, if they are one and make sense.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let inner = unseal(bytes, INDEX_BYTES)?.strip_prefix(INDEX_MAGIC)?;
        let index = Self {
            len: u64::from_le_bytes(inner.get(..8)?.try_into().ok()?),
            span: u64::from_le_bytes(inner.get(8..16)?.try_into().ok()?),
            members: u32::from_le_bytes(inner.get(16..20)?.try_into().ok()?),
            first: u32::from_le_bytes(inner.get(20..24)?.try_into().ok()?),
            upload: inner.get(24..56)?.try_into().ok()?,
        };
        let sane =
            index.span > 0 && index.first < index.members && index.spans() as u64 <= u64::from(index.members);
        sane.then_some(index)
    }
}

/// What stands behind each span: whose it is, and since when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct End {
    pub(super) name: ObjectName,
    /// When it was published, in milliseconds since 1970.
    pub(super) at: u64,
}

impl End {
    pub(super) fn encode(&self) -> [u8; END_BYTES] {
        let mut bytes = [0; END_BYTES];
        let text = self.name.to_string();
        let len = text.len().min(TEXT_BYTES); // a name is never longer
        bytes[..8].copy_from_slice(END_MAGIC);
        bytes[8..16].copy_from_slice(&self.at.to_le_bytes());
        bytes[16..24].copy_from_slice(&(len as u64).to_le_bytes());
        bytes[24..24 + len].copy_from_slice(&text.as_bytes()[..len]);
        seal(&mut bytes);
        bytes
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let inner = unseal(bytes, END_BYTES)?.strip_prefix(END_MAGIC)?;
        let at = u64::from_le_bytes(inner.get(..8)?.try_into().ok()?);
        let len = usize::try_from(u64::from_le_bytes(inner.get(8..16)?.try_into().ok()?)).ok()?;
        let text = std::str::from_utf8(inner.get(16..16_usize.checked_add(len)?)?).ok()?;
        Some(Self { name: text.parse().ok()?, at })
    }
}

/// Puts the checksum of all before into the last eight bytes.
fn seal(bytes: &mut [u8]) {
    let (inner, sum) = bytes.split_at_mut(bytes.len().saturating_sub(8));
    sum.copy_from_slice(&Checksum::of(inner).to_le_bytes());
}

/// All before the last eight bytes, if there are so many and those are its checksum.
fn unseal(bytes: &[u8], len: usize) -> Option<&[u8]> {
    let (inner, sum) = bytes.split_at_checked(len.checked_sub(8)?)?;
    (*sum == Checksum::of(inner).to_le_bytes()).then_some(inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name() -> ObjectName {
        ObjectName {
            namespace: NamespaceDigest([0xff; 32]),
            key: ChunkKey([0xfe; 32]),
            chunk_index: u32::MAX,
            slice: u32::MAX,
        }
    }

    //= SEMANTICS.md#striped-index
    #[test]
    fn every_flipped_bit_of_an_index_and_an_end_is_noticed() {
        let index = Index::new(1_000_000, 3, 2, [7; 32]);
        let end = End { name: name(), at: 1 << 41 };
        assert_eq!(Index::decode(&index.encode()), Some(index));
        assert_eq!(End::decode(&end.encode()), Some(end));
        for bit in 0..INDEX_BYTES * 8 {
            let mut bytes = index.encode();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Index::decode(&bytes), None, "bit {bit}");
        }
        for bit in 0..END_BYTES * 8 {
            let mut bytes = end.encode();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(End::decode(&bytes), None, "bit {bit}");
        }
        for len in [0, 7, 8, 71, 73] {
            assert_eq!(Index::decode(&[0; 100][..len]), None);
        }
    }

    #[test]
    fn what_no_writer_writes_is_no_index() {
        let index = Index::new(1_000_000, 3, 2, [7; 32]);
        for wrong in [
            Index { span: 0, ..index },
            Index { first: 3, ..index },
            Index { members: 0, first: 0, ..index },
            Index { span: 4096, ..index },
        ] {
            assert_eq!(Index::decode(&wrong.encode()), None, "{wrong:?}");
        }
    }

    #[test]
    fn spans_cover_the_object_once() {
        for len in [0, 1, 4095, 4096, 4097, 12_288, 1_000_001] {
            for members in 1..=5 {
                let index = Index::new(len, members, members - 1, [0; 32]);
                assert!(index.spans() <= members, "{index:?}");
                let sum: u64 = (0..index.spans()).map(|span| index.span_len(span)).sum();
                assert_eq!(sum, len, "{index:?}");
                let mut used: Vec<usize> = (0..index.spans()).map(|span| index.member(span)).collect();
                used.sort_unstable();
                used.dedup();
                assert_eq!(used.len(), index.spans(), "each span in a member of its own");
            }
        }
    }
}
