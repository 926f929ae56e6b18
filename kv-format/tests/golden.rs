//! Golden objects: bytes that every version of this crate reads and writes. A file is never changed once it is committed; a new
//! feature gets a new file.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::PathBuf;

use kv_format::reference::{builder, element};
use kv_format::*;

/// A tail of 7 tokens behind one chunk of 16, slice 1 of a model with 2 layers, 2 KV heads of 4 elements.
fn small_tail() -> Vec<u8> {
    let namespace = builder(2, 2, 4).chunk_tokens(16).tenant("golden").build().unwrap();
    let tokens: Vec<u32> = (100..123).collect();
    let chunk = &chunks(&namespace, &tokens, &[]).unwrap()[1];
    let identity = ObjectIdentity::new(&namespace, chunk, 1).unwrap();
    let layout = ObjectLayout::new(&namespace, &identity.slice, identity.token_count).unwrap();
    let mut object = vec![0; usize::try_from(layout.object_len).unwrap()];
    let mut checksums = Vec::new();
    for section in &layout.sections {
        let mut at = usize::try_from(section.offset).unwrap();
        let start = at;
        for token in chunk.tokens.clone() {
            for dim in 0..4 {
                let bytes = element(section.layer, section.kind, token, 1, dim, 2);
                object[at..at + 2].copy_from_slice(&bytes);
                at += 2;
            }
        }
        checksums.push(Checksum::of(&object[start..at]));
    }
    let header_len = usize::try_from(layout.header_len).unwrap();
    let header = ObjectHeader { identity, layout, checksums, producer: "kvbridge golden".into() };
    header.encode(&mut object[..header_len]).unwrap();
    object
}

fn path() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/v1/small-tail.kvo")
}

#[test]
fn the_golden_object_is_written_and_read_byte_for_byte() {
    let golden = std::fs::read(path()).unwrap();
    assert!(golden == small_tail(), "what this crate writes differs from {}", path().display());
    let header = ObjectHeader::decode(&golden, golden.len() as u64).unwrap();
    assert_eq!(
        (header.identity.chunk_index, header.identity.tail, header.identity.token_count),
        (1, true, 7)
    );
    for (section, checksum) in header.layout.sections.iter().zip(&header.checksums) {
        let start = usize::try_from(section.offset).unwrap();
        assert_eq!(Checksum::of(&golden[start..start + usize::try_from(section.len).unwrap()]), *checksum);
    }
}

/// Writes the file of a new golden object; refuses to touch one that exists.
#[test]
#[ignore = "run by hand for a new golden object"]
fn write_a_missing_golden_object() {
    let mut file = std::fs::File::create_new(path()).unwrap();
    std::io::Write::write_all(&mut file, &small_tail()).unwrap();
}
