//! Golden objects: bytes that every version of this crate reads and writes. A file is never changed once it is committed; a new
//! feature gets a new file.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "golden/namespaces.rs"]
mod namespaces;

use std::path::PathBuf;

use kv_format::reference::element;
use kv_format::*;
use namespaces::{small, token_head_scales, two_groups};

/// An object of the given slice of the second chunk of 23 tokens in chunks of 16: a tail of 7 tokens.
fn tail(namespace: &Namespace, slice: u32) -> Vec<u8> {
    let tokens: Vec<u32> = (100..123).collect();
    let chunk = &chunks(namespace, &tokens, &[]).unwrap()[1];
    let identity = ObjectIdentity::new(namespace, chunk, slice).unwrap();
    let layout = ObjectLayout::new(namespace, &identity.slice, identity.token_count).unwrap();
    let mut object = vec![0; usize::try_from(layout.object_len).unwrap()];
    let mut checksums = Vec::new();
    for section in &layout.sections {
        let mut at = usize::try_from(section.offset).unwrap();
        let start = at;
        // Rows are tokens, but for a state, of which there is one per chunk.
        let first = if section.shape[0] == 1 { chunk.index } else { chunk.tokens.start };
        for row in first..first + section.shape[0] {
            for head in identity.slice.heads.clone() {
                for dim in 0..section.shape[2] {
                    let bytes = element(section.layer, section.kind, row, head, dim, section.dtype.bytes());
                    object[at..at + bytes.len()].copy_from_slice(&bytes);
                    at += bytes.len();
                }
            }
        }
        checksums.push(Checksum::of(&object[start..at]));
    }
    let header_len = usize::try_from(layout.header_len).unwrap();
    let header = ObjectHeader { identity, layout, checksums, producer: "kvbridge golden".into() };
    header.encode(&mut object[..header_len]).unwrap();
    object
}

/// Every golden object with its file's name.
fn all() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("small-tail", tail(&small(), 1)),
        ("two-groups-attention", tail(&two_groups(), 1)),
        ("two-groups-state", tail(&two_groups(), 5)),
        ("token-head-scales", tail(&token_head_scales(), 1)),
    ]
}

fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/v1").join(name).with_extension("kvo")
}

#[test]
fn golden_objects_are_written_and_read_byte_for_byte() {
    for (name, written) in all() {
        let golden = std::fs::read(path(name)).unwrap();
        assert!(golden == written, "what this crate writes differs from {}", path(name).display());
        let header = ObjectHeader::decode(&golden, golden.len() as u64).unwrap();
        assert_eq!(
            (header.identity.chunk_index, header.identity.tail, header.identity.token_count),
            (1, true, 7)
        );
        for (section, checksum) in header.layout.sections.iter().zip(&header.checksums) {
            let start = usize::try_from(section.offset).unwrap();
            let bytes = &golden[start..start + usize::try_from(section.len).unwrap()];
            assert_eq!(Checksum::of(bytes), *checksum);
        }
    }
}

/// Golden: these texts never change within format version 1.
#[test]
fn the_namespaces_of_golden_objects_have_their_digests() {
    for (namespace, digest) in [
        (two_groups(), "cd804adca17994233ed6a0b15400c1d966dbd2febbd7061698722ca1b3a689bc"),
        (token_head_scales(), "aeba372eecfbbf7a16f4984ac6282adc6c0f7f089276208830fd787c5b7c1155"),
    ] {
        assert_eq!(namespace.digest().to_string(), digest);
    }
}

/// Writes the files of new golden objects; touches none that exists.
#[test]
#[ignore = "run by hand for a new golden object"]
fn write_missing_golden_objects() {
    for (name, object) in all() {
        if let Ok(mut file) = std::fs::File::create_new(path(name)) {
            std::io::Write::write_all(&mut file, &object).unwrap();
        }
    }
}
