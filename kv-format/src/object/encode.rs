//! Header to bytes.

use super::{FORMAT_MINOR, MAGIC, ObjectHeader, PRODUCER_BYTES, field};
use crate::{Checksum, ContentDigest, Error, FORMAT_MAJOR, Result};

impl ObjectHeader {
    /// Writes the header into `into`, whose length is the layout's header length.
    ///
    /// # Errors
    /// [`Invalid`](crate::ErrorKind::Invalid) if the length, the number of checksums or the producer's name does not fit.
    pub fn encode(&self, into: &mut [u8]) -> Result<()> {
        if into.len() as u64 != self.layout.header_len {
            return Err(Error::invalid(format!(
                "a buffer of {} bytes for a header of {}",
                into.len(),
                self.layout.header_len
            )));
        }
        if self.checksums.len() != self.layout.sections.len() {
            return Err(Error::invalid(format!(
                "{} checksums for {} sections",
                self.checksums.len(),
                self.layout.sections.len()
            )));
        }
        if self.producer.len() > PRODUCER_BYTES || self.producer.contains('\0') {
            return Err(Error::invalid(format!(
                "producer {:?}: at most {PRODUCER_BYTES} bytes and no NUL",
                self.producer
            )));
        }
        let bytes = fixed_and_table(self);
        let digest = content_digest(&bytes);
        into.fill(0);
        put(into, 0, &bytes);
        put(into, field::CONTENT_DIGEST, &digest.0);
        put(into, field::PRODUCER, self.producer.as_bytes());
        let checksum = Checksum::of(into);
        put(into, field::CHECKSUM, &checksum.to_le_bytes());
        Ok(())
    }
}

/// The fixed part and the table, without content digest, producer and checksum.
pub(super) fn fixed_and_table(header: &ObjectHeader) -> Vec<u8> {
    let ObjectHeader { identity, layout, checksums, .. } = header;
    let tensors = layout.sections.len();
    let mut bytes = vec![0; field::TABLE + tensors * field::TENSOR_BYTES];
    let to = &mut bytes[..];
    let count = |value: usize| u32::try_from(value).unwrap_or(u32::MAX).to_le_bytes();
    let flags = if identity.parent.is_some() { field::HAS_PARENT } else { 0 }
        | if identity.tail { field::IS_TAIL } else { 0 };
    put(to, 0, &MAGIC);
    put(to, field::VERSION_MAJOR, &FORMAT_MAJOR.to_le_bytes());
    put(to, field::VERSION_MINOR, &FORMAT_MINOR.to_le_bytes());
    put(to, field::HEADER_LEN, &u32::try_from(layout.header_len).unwrap_or(u32::MAX).to_le_bytes());
    put(to, field::FEATURES, &0_u64.to_le_bytes());
    put(to, field::OBJECT_LEN, &layout.object_len.to_le_bytes());
    put(to, field::PAYLOAD_OFFSET, &layout.header_len.to_le_bytes());
    put(to, field::ALIGNMENT, &layout.alignment.to_le_bytes());
    put(to, field::TENSORS, &count(tensors));
    put(to, field::KEY, &identity.key.0);
    put(to, field::PARENT, &identity.parent.map_or([0; 32], |key| key.0));
    put(to, field::NAMESPACE, &identity.namespace.0);
    put(to, field::CHUNK_INDEX, &identity.chunk_index.to_le_bytes());
    put(to, field::TOKEN_COUNT, &identity.token_count.to_le_bytes());
    put(to, field::TOKEN_START, &identity.token_start.to_le_bytes());
    put(to, field::SLICE, &identity.slice_index.to_le_bytes());
    put(to, field::GROUP, &identity.slice.group.to_le_bytes());
    put(to, field::LAYER_START, &identity.slice.layers.start.to_le_bytes());
    put(to, field::LAYER_END, &identity.slice.layers.end.to_le_bytes());
    put(to, field::HEAD_START, &identity.slice.heads.start.to_le_bytes());
    put(to, field::HEAD_END, &identity.slice.heads.end.to_le_bytes());
    put(to, field::ROPE, &identity.rope.code().to_le_bytes());
    let (granularity, direction) =
        identity.scales.map_or((0, 0), |scales| (scales.granularity.code(), scales.direction.code()));
    put(to, field::SCALE_GRANULARITY, &granularity.to_le_bytes());
    put(to, field::SCALE_DIRECTION, &direction.to_le_bytes());
    put(to, field::FLAGS, &flags.to_le_bytes());
    let (entries, _) = bytes[field::TABLE..].as_chunks_mut::<{ field::TENSOR_BYTES }>();
    for ((section, checksum), entry) in layout.sections.iter().zip(checksums).zip(entries) {
        entry[..4].copy_from_slice(&section.layer.to_le_bytes());
        entry[4..6].copy_from_slice(&section.kind.code().to_le_bytes());
        entry[6..8].copy_from_slice(&section.dtype.code().to_le_bytes());
        entry[8..12].copy_from_slice(&section.shape[0].to_le_bytes());
        entry[12..16].copy_from_slice(&section.shape[1].to_le_bytes());
        entry[16..20].copy_from_slice(&section.shape[2].to_le_bytes());
        entry[24..32].copy_from_slice(&section.offset.to_le_bytes());
        entry[32..40].copy_from_slice(&section.len.to_le_bytes());
        entry[40..48].copy_from_slice(&checksum.to_le_bytes());
    }
    bytes
}

/// Bytes that are hashed in one piece, a power of two of BLAKE3's chunks.
const FIRST_PIECE: usize = 32 << 10;

/// Digest over the identity fields and the table of an encoded header.
pub(super) fn content_digest(bytes: &[u8]) -> ContentDigest {
    let (identity, table) = (&bytes[field::KEY..field::CONTENT_DIGEST], &bytes[field::TABLE..]);
    let (head, rest) = table.split_at(table.len().min(FIRST_PIECE - identity.len()));
    // BLAKE3 hashes its chunks side by side within a piece that begins where the input does: as much of a table as is worth a copy.
    let mut first = Vec::with_capacity(identity.len() + head.len());
    first.extend_from_slice(identity);
    first.extend_from_slice(head);
    let mut hasher = blake3::Hasher::new_derive_key("kvbridge 2026-11 content v1");
    hasher.update(&first).update(rest);
    ContentDigest(*hasher.finalize().as_bytes())
}

fn put(to: &mut [u8], at: usize, bytes: &[u8]) {
    to[at..at + bytes.len()].copy_from_slice(bytes);
}
