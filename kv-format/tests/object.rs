//! Objects: layout, header, what a reader refuses.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use kv_format::reference::{builder, namespace};
use kv_format::*;
use proptest::prelude::*;

/// The header of one small object: chunk 1 of 600 tokens, slice 2.
fn header(namespace: &Namespace) -> ObjectHeader {
    let tokens: Vec<u32> = (0..600).collect();
    let chunks = chunks(namespace, &tokens, &[]).unwrap();
    let identity = ObjectIdentity::new(namespace, &chunks[1], 2).unwrap();
    let layout = ObjectLayout::new(namespace, &identity.slice, identity.token_count).unwrap();
    let checksums = (0..layout.sections.len() as u64).map(|i| i * 0x0123_4567_89ab).collect();
    ObjectHeader { identity, layout, checksums, producer: "test 1.0".into() }
}

fn encoded(header: &ObjectHeader) -> Vec<u8> {
    let mut bytes = vec![0xFF; usize::try_from(header.layout.header_len).unwrap()];
    header.encode(&mut bytes).unwrap();
    bytes
}

/// Changes bytes and makes the checksum right again, as a hostile or a future writer would.
fn forged(header: &ObjectHeader, change: impl FnOnce(&mut [u8])) -> Vec<u8> {
    let mut bytes = encoded(header);
    change(&mut bytes);
    bytes[288..296].fill(0);
    let checksum = Checksum::of(&bytes);
    bytes[288..296].copy_from_slice(&checksum.to_le_bytes());
    bytes
}

fn kind_of(bytes: &[u8], object_len: u64) -> ErrorKind {
    ObjectHeader::decode(bytes, object_len).unwrap_err().kind()
}

//= SPEC.md#header-fields
//= SPEC.md#header-length
//= SPEC.md#header-checksum
#[test]
fn a_header_stands_where_the_specification_says() {
    let namespace = namespace(80, 4, 128, 256);
    let header = header(&namespace);
    let bytes = encoded(&header);
    assert_eq!(bytes.len(), 8192, "80 layers need two pages");
    let u16_at = |at: usize| u16::from_le_bytes(bytes[at..at + 2].try_into().unwrap());
    let u32_at = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
    let u64_at = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
    assert_eq!(bytes[..8], [0x89, 0x4B, 0x56, 0x42, 0x0D, 0x0A, 0x1A, 0x0A]);
    assert_eq!((u16_at(8), u16_at(10), u32_at(12), u64_at(16)), (1, 0, 8192, 0));
    assert_eq!((u64_at(24), u64_at(32), u32_at(40), u32_at(44)), (8192 + 160 * 65536, 8192, 4096, 160));
    assert_eq!(bytes[48..80], header.identity.key.0);
    assert_eq!(bytes[80..112], header.identity.parent.unwrap().0);
    assert_eq!(bytes[112..144], namespace.digest().0);
    assert_eq!((u32_at(144), u32_at(148), u64_at(152)), (1, 256, 256));
    assert_eq!(
        (u32_at(160), u32_at(164), u32_at(168), u32_at(172), u32_at(176), u32_at(180)),
        (2, 0, 0, 80, 2, 3)
    );
    assert_eq!((u16_at(184), u16_at(186), u16_at(188), u16_at(190)), (2, 0, 0, 1));
    assert_eq!(bytes[192..224], header.content_digest().0);
    assert_eq!(&bytes[224..233], b"test 1.0\0");
    let entry = 320 + 48 * 159;
    assert_eq!((u32_at(entry), u16_at(entry + 4), u16_at(entry + 6)), (79, 2, 1));
    assert_eq!(
        (u32_at(entry + 8), u32_at(entry + 12), u32_at(entry + 16), u32_at(entry + 20)),
        (256, 1, 128, 0)
    );
    assert_eq!((u64_at(entry + 24), u64_at(entry + 32)), (8192 + 159 * 65536, 65536));
    let mut zeroed = bytes.clone();
    zeroed[288..296].fill(0);
    assert_eq!(u64_at(288), Checksum::of(&zeroed));
}

//= SPEC.md#section-order
//= SPEC.md#section-alignment
#[test]
fn sections_are_aligned_to_pages_or_to_lines() {
    let namespace = namespace(2, 3, 64, 256);
    let slice = &namespace.slices().slices()[1];
    for (tokens, alignment, lens) in [(256, 4096, 32768), (128, 4096, 16384), (127, 64, 16256), (1, 64, 128)]
    {
        let layout = ObjectLayout::new(&namespace, slice, tokens).unwrap();
        assert_eq!(layout.alignment, alignment, "{tokens} tokens");
        let order: Vec<_> = layout.sections.iter().map(|s| (s.layer, s.kind)).collect();
        let (k, v) = (TensorKind::Key, TensorKind::Value);
        assert_eq!(order, [(0, k), (0, v), (1, k), (1, v)]);
        let mut next = 4096;
        for section in &layout.sections {
            assert_eq!((section.offset, section.len), (next, lens));
            next = (next + lens).next_multiple_of(u64::from(alignment));
        }
        assert_eq!(layout.object_len, layout.sections[3].offset + lens);
    }
}

#[test]
fn headers_round_trip() {
    for namespace in [namespace(80, 4, 128, 256), namespace(1, 3, 8, 16)] {
        let header = header(&namespace);
        assert_eq!(ObjectHeader::decode(&encoded(&header), header.layout.object_len).unwrap(), header);
    }
}

//= SPEC.md#content-digest
#[test]
fn the_content_digest_is_over_identity_and_checksums_but_not_the_producer() {
    let namespace = namespace(2, 3, 8, 16);
    let header = header(&namespace);
    let other_producer = ObjectHeader { producer: "somebody else".into(), ..header.clone() };
    assert_eq!(other_producer.content_digest(), header.content_digest());
    let mut other_payload = header.clone();
    other_payload.checksums[3] ^= 1;
    assert_ne!(other_payload.content_digest(), header.content_digest());
    let mut other_identity = header.clone();
    other_identity.identity.key.0[0] ^= 1;
    assert_ne!(other_identity.content_digest(), header.content_digest());
    let lie = forged(&header, |bytes| bytes[192] ^= 1);
    assert_eq!(kind_of(&lie, header.layout.object_len), ErrorKind::Corrupt);
}

//= SPEC.md#read-header-checksum
#[test]
fn every_flipped_bit_is_noticed() {
    let header = header(&namespace(2, 3, 8, 16));
    let bytes = encoded(&header);
    for bit in 0..bytes.len() * 8 {
        let mut flipped = bytes.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert!(ObjectHeader::decode(&flipped, header.layout.object_len).is_err(), "bit {bit}");
    }
}

//= SPEC.md#read-magic
//= SPEC.md#read-major
//= SPEC.md#read-minor
//= SPEC.md#read-features
//= SPEC.md#read-length
//= SPEC.md#read-canonical
//= SPEC.md#dtype-codes
#[test]
fn other_versions_and_forged_fields_are_told_apart() {
    let header = header(&namespace(2, 3, 8, 16));
    let len = header.layout.object_len;
    assert_eq!(kind_of(&forged(&header, |b| b[0] = 0x88), len), ErrorKind::NotKvObject);
    assert_eq!(kind_of(&forged(&header, |b| b[8] = 2), len), ErrorKind::Incompatible);
    assert_eq!(kind_of(&forged(&header, |b| b[23] = 0x80), len), ErrorKind::Incompatible);
    assert_eq!(kind_of(&forged(&header, |b| b[184] = 3), len), ErrorKind::Incompatible, "rope pairing");
    assert_eq!(kind_of(&forged(&header, |b| b[186] = 4), len), ErrorKind::Incompatible, "scale granularity");
    assert_eq!(kind_of(&forged(&header, |b| b[188] = 3), len), ErrorKind::Incompatible, "scale direction");
    assert_eq!(kind_of(&forged(&header, |b| b[324] = 10), len), ErrorKind::Incompatible, "tensor kind");
    assert_eq!(kind_of(&forged(&header, |b| b[326] = 99), len), ErrorKind::Incompatible, "dtype");
    assert_eq!(kind_of(&encoded(&header), len + 1), ErrorKind::Truncated);
    assert_eq!(kind_of(&encoded(&header)[..4095], len), ErrorKind::Truncated);
    assert_eq!(kind_of(&[], 0), ErrorKind::Truncated);
    // A newer minor version is read, and may use bytes that this one reserves.
    let newer = forged(&header, |b| (b[10], b[300]) = (7, 1));
    assert_eq!(ObjectHeader::decode(&newer, len).unwrap(), header);
    let corrupt: [(&str, usize, u8); 15] = [
        ("producer that is not UTF-8", 224, 0xFF),
        ("byte behind the producer's text", 224 + 63, b'x'),
        ("reserved byte", 300, 1),
        ("byte behind the table", 4000, 1),
        ("payload offset", 33, 0x20),
        ("alignment", 40, 128),
        ("number of sections", 44, 3),
        ("granularity of no scales", 186, 1),
        ("direction of no scales", 188, 1),
        ("a kind of another group", 320 + 4, 3),
        ("a layer again", 320 + 48 * 2, 0),
        ("flags", 190, 4),
        ("parent flag", 190, 0),
        ("section offset", 320 + 25, 0x11),
        ("reserved in an entry", 320 + 20, 1),
    ];
    for (what, at, value) in corrupt {
        assert_eq!(kind_of(&forged(&header, |b| b[at] = value), len), ErrorKind::Corrupt, "{what}");
    }
    for (code, dtype) in (1..=9).zip(Dtype::ALL) {
        assert_eq!((Dtype::from_code(code).unwrap(), dtype.code()), (dtype, code));
    }
    assert!(Dtype::from_code(0).is_err() && Dtype::from_code(10).is_err());
}

//= SPEC.md#read-identity
#[test]
fn a_reader_gets_what_it_asked_for_or_an_incompatible() {
    let namespace = namespace(2, 3, 8, 16);
    let header = header(&namespace);
    let (identity, layout) = (&header.identity, &header.layout);
    header.expect(identity, layout).unwrap();
    let other_model = builder(2, 3, 8).chunk_tokens(16).tenant("other").build().unwrap();
    let wanted = [
        ObjectIdentity { namespace: other_model.digest(), ..identity.clone() },
        ObjectIdentity { key: ChunkKey([0; 32]), ..identity.clone() },
        ObjectIdentity { parent: None, ..identity.clone() },
        ObjectIdentity { chunk_index: 2, ..identity.clone() },
        ObjectIdentity { token_start: 0, ..identity.clone() },
        ObjectIdentity { token_count: 15, ..identity.clone() },
        ObjectIdentity { tail: true, ..identity.clone() },
        ObjectIdentity { slice_index: 1, ..identity.clone() },
        ObjectIdentity { slice: Slice { group: 0, layers: 0..2, heads: 0..1 }, ..identity.clone() },
        ObjectIdentity { rope: RopePairing::Interleaved, ..identity.clone() },
    ];
    for identity in wanted {
        assert_eq!(
            header.expect(&identity, layout).unwrap_err().kind(),
            ErrorKind::Incompatible,
            "{identity:?}"
        );
    }
    let mut shifted = layout.clone();
    shifted.sections[0].offset += 64;
    assert_eq!(header.expect(identity, &shifted).unwrap_err().kind(), ErrorKind::Incompatible);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    //= SPEC.md#read-bounds
    #[test]
    fn a_hostile_header_with_a_right_checksum_never_panics(
        changes in prop::collection::vec((8..700_usize, any::<u8>()), 1..8),
        cut in 0..4096_usize,
        object_len in any::<u64>(),
    ) {
        let header = header(&namespace(2, 3, 8, 16));
        let bytes = forged(&header, |bytes| changes.iter().for_each(|(at, value)| bytes[*at] = *value));
        for len in [object_len, header.layout.object_len] {
            let _ = ObjectHeader::decode(&bytes, len);
            let _ = ObjectHeader::decode(&bytes[..cut], len);
        }
    }
}
