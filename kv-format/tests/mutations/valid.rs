//! Valid objects of a known KV, and all that a reader of one does: shared by the mutated-input test and by `examples/interop.rs`.

use kv_format::reference::element;
use kv_format::*;
use std::ops::Range;

/// An object as this crate writes it, with what a reader of it wants.
pub(crate) struct Valid {
    pub(crate) identity: ObjectIdentity,
    pub(crate) layout: ObjectLayout,
    pub(crate) bytes: Vec<u8>,
}

impl Valid {
    /// The object of one chunk and slice.
    pub(crate) fn new(namespace: &Namespace, chunk: &Chunk, slice: u32, producer: &str) -> Self {
        let identity = ObjectIdentity::new(namespace, chunk, slice).unwrap();
        let layout = ObjectLayout::new(namespace, &identity.slice, identity.token_count).unwrap();
        let mut bytes = vec![0; usize::try_from(layout.object_len).unwrap()];
        let mut checksums = Vec::new();
        for section in &layout.sections {
            let (rows, heads) = held_once(section.kind, identity.scales, chunk, &identity.slice.heads);
            let payload = payload(section, &rows.collect::<Vec<_>>(), &heads.collect::<Vec<_>>());
            let start = usize::try_from(section.offset).unwrap();
            bytes[start..start + payload.len()].copy_from_slice(&payload);
            checksums.push(Checksum::of(&payload));
        }
        let header_len = usize::try_from(layout.header_len).unwrap();
        let header = ObjectHeader {
            identity: identity.clone(),
            layout: layout.clone(),
            checksums,
            producer: producer.to_owned(),
        };
        header.encode(&mut bytes[..header_len]).unwrap();
        Self { identity, layout, bytes }
    }

    /// What a reader does with bytes that should be this object: header, identity and layout, then each section.
    pub(crate) fn read(&self, bytes: &[u8]) -> Result<()> {
        let header = ObjectHeader::decode(bytes, bytes.len() as u64)?;
        header.expect(&self.identity, &self.layout)?;
        for (section, checksum) in header.layout.sections.iter().zip(&header.checksums) {
            let start = usize::try_from(section.offset).unwrap();
            let end = start + usize::try_from(section.len).unwrap();
            if Checksum::of(&bytes[start..end]) != *checksum {
                return Err(Error::new(ErrorKind::Corrupt, format!("section checksum of {section:?}")));
            }
        }
        Ok(())
    }
}

/// The rows and heads of [`element`] that a section has: a state is one per chunk, and scales that are fixed for all tokens or heads
/// are those of the first.
fn held_once(
    kind: TensorKind,
    scales: Option<Scales>,
    chunk: &Chunk,
    heads: &Range<u32>,
) -> (Range<u32>, Range<u32>) {
    match (kind, scales.filter(|_| kind.is_scale()).map(|scales| scales.granularity)) {
        (TensorKind::State, _) => (chunk.index..chunk.index + 1, heads.clone()),
        (_, Some(ScaleGranularity::PerTensor)) => (0..1, 0..1),
        (_, Some(ScaleGranularity::PerHead)) => (0..1, heads.clone()),
        _ => (chunk.tokens.clone(), heads.clone()),
    }
}

/// The bytes of these rows and heads of a section's tensor, from the definition of the order alone.
pub(crate) fn payload(section: &Section, rows: &[u32], heads: &[u32]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for row in rows {
        for head in heads {
            for dim in 0..section.shape[2] {
                bytes.extend(element(section.layer, section.kind, *row, *head, dim, section.dtype.bytes()));
            }
        }
    }
    bytes
}
