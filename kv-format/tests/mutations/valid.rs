//! Valid objects of a known KV, and all that a reader of one does: shared by the mutated-input test and by `examples/interop.rs`.

use kv_format::reference::element;
use kv_format::*;

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
            let payload = payload(section, chunk.tokens.clone(), identity.slice.heads.clone());
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

/// The bytes of a section, from the definition of the order alone: as many of the rows and heads as it has.
pub(crate) fn payload(
    section: &Section,
    tokens: std::ops::Range<u32>,
    heads: std::ops::Range<u32>,
) -> Vec<u8> {
    let mut bytes = Vec::new();
    let [rows, own_heads, _] = section.shape.map(|extent| extent as usize);
    for token in tokens.take(rows) {
        for head in heads.clone().take(own_heads) {
            for dim in 0..section.shape[2] {
                bytes.extend(element(section.layer, section.kind, token, head, dim, section.dtype.bytes()));
            }
        }
    }
    bytes
}
