//! Headers at the edge of what is accepted, each by the kind of its error: found missing by `cargo xtask mutants`.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use kv_format::reference::builder;
use kv_format::*;

/// The header of one small object, which is a first chunk of a model of two layers.
fn header() -> ObjectHeader {
    header_of(2)
}

fn header_of(layers: u32) -> ObjectHeader {
    let namespace = builder(layers, 3, 8).chunk_tokens(16).build().unwrap();
    let tokens: Vec<u32> = (0..16).collect();
    let identity = ObjectIdentity::new(&namespace, &chunks(&namespace, &tokens, &[]).unwrap()[0], 0).unwrap();
    let layout = ObjectLayout::new(&namespace, &identity.slice, identity.token_count).unwrap();
    let checksums = vec![7; layout.sections.len()];
    ObjectHeader { identity, layout, checksums, producer: "edges".into() }
}

/// The header with other bytes at a place and the checksum made right, decoded as of an object of `object_len` bytes.
fn decoded(at: usize, value: &[u8], object_len: u64) -> Result<ObjectHeader> {
    let header = header();
    let mut bytes = vec![0; usize::try_from(header.layout.header_len).unwrap()];
    header.encode(&mut bytes).unwrap();
    bytes[at..at + value.len()].copy_from_slice(value);
    bytes[288..296].fill(0);
    let checksum = Checksum::of(&bytes);
    bytes[288..296].copy_from_slice(&checksum.to_le_bytes());
    ObjectHeader::decode(&bytes, object_len)
}

//= SPEC.md#header-length
#[test]
fn a_header_that_is_no_whole_number_of_pages_is_corrupt() {
    for len in [0_u32, 100, 2048, 4095] {
        let error = decoded(12, &len.to_le_bytes(), header().layout.object_len).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{len}: {error}");
        assert!(error.to_string().contains("whole pages"), "{len}: {error}");
    }
}

/// What a careless writer might encode: `encode` takes any layout.
fn refused(change: impl FnOnce(&mut ObjectLayout)) -> String {
    let mut header = header();
    change(&mut header.layout);
    let mut bytes = vec![0; usize::try_from(header.layout.header_len).unwrap()];
    header.encode(&mut bytes).unwrap();
    let error = ObjectHeader::decode(&bytes, header.layout.object_len).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    error.to_string()
}

//= SPEC.md#header-length
//= SPEC.md#read-canonical
#[test]
fn a_header_longer_than_its_table_needs_is_corrupt() {
    let error = refused(|layout| {
        layout.header_len += 4096;
        layout.object_len += 4096;
        layout.sections.iter_mut().for_each(|section| section.offset += 4096);
    });
    assert!(error.contains("4 sections in a header of 8192 bytes"), "{error}");
    let error = decoded(44, &5_u32.to_le_bytes(), header().layout.object_len).unwrap_err().to_string();
    assert!(error.contains("tensor kind code 0"), "the fifth entry is blank: {error}");
}

//= SPEC.md#read-canonical
#[test]
fn a_section_of_nothing_is_corrupt() {
    let error = refused(|layout| {
        let last = layout.sections.last_mut().unwrap();
        (last.shape[2], last.len) = (0, 0);
        layout.object_len = last.offset;
    });
    assert!(error.contains("table entry"), "{error}");
}

//= SPEC.md#read-canonical
#[test]
fn a_layer_that_comes_twice_is_corrupt() {
    for (layers, right) in [([0, 1, 2], true), ([0, 1, 1], false), ([0, 2, 1], false), ([0, 0, 1], false)] {
        let mut header = header_of(3);
        for (section, layer) in
            header.layout.sections.iter_mut().zip(layers.map(|layer| [layer; 2]).as_flattened())
        {
            section.layer = *layer;
        }
        header.identity.slice.layers = 0..layers[2] + 1;
        let mut bytes = vec![0; usize::try_from(header.layout.header_len).unwrap()];
        header.encode(&mut bytes).unwrap();
        let read = ObjectHeader::decode(&bytes, header.layout.object_len);
        assert_eq!(
            read.as_ref().map_err(Error::kind).err(),
            (!right).then_some(ErrorKind::Corrupt),
            "{layers:?}: {read:?}"
        );
    }
}

//= SPEC.md#read-length
#[test]
fn an_object_longer_than_any_is_corrupt_and_another_length_is_truncated() {
    let longest = 1_u64 << 48;
    for (announced, found, kind) in [
        (longest, 5000, ErrorKind::Truncated),
        (longest + 1, 5000, ErrorKind::Corrupt),
        (longest + 1, longest + 1, ErrorKind::Corrupt),
        (u64::MAX, 5000, ErrorKind::Corrupt),
    ] {
        let error = decoded(24, &announced.to_le_bytes(), found).unwrap_err();
        assert_eq!(error.kind(), kind, "{announced}, {found}: {error}");
    }
}

//= SPEC.md#read-identity
#[test]
fn the_first_section_that_differs_is_named() {
    let header = header();
    let mut wanted = header.layout.clone();
    wanted.sections[2].shape[2] = 9;
    let error = header.expect(&header.identity, &wanted).unwrap_err().to_string();
    let (have, want) = (format!("{:?}", header.layout.sections[2]), format!("{:?}", wanted.sections[2]));
    assert!(error.contains(&have) && error.contains(&want), "{error}");
    let longer = ObjectLayout { object_len: header.layout.object_len + 64, ..header.layout.clone() };
    let error = header.expect(&header.identity, &longer).unwrap_err().to_string();
    assert!(error.contains(&longer.object_len.to_string()), "{error}");
}
