//! Any bytes as an object. The first byte says what is made right before they are read, so that more than the checksum is tried.

use kv_format::{ErrorKind, ObjectHeader};

#[path = "../../kv-format/tests/mutations/repair.rs"]
mod repair;

/// Repair the header's checksum; the content digest before it.
const REPAIR: (u8, u8) = (1, 2);
/// Read the header alone, of an object as long as it says.
const HEADER_ALONE: u8 = 4;
/// Zeros behind the input, up to the end of the header that it announces (64 KiB at most).
const PAD: u8 = 8;

fn field(bytes: &[u8], at: usize, len: usize) -> u64 {
    let bytes = bytes.get(at..at + len).unwrap_or_default();
    bytes.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte))
}

/// Whether the input was an object's header.
pub fn check(input: &[u8]) -> bool {
    let Some((mode, rest)) = input.split_first() else { return false };
    let mut bytes = rest.to_vec();
    if mode & PAD != 0 {
        let len = usize::try_from(field(&bytes, 12, 4).min(1 << 16)).unwrap_or_default();
        bytes.resize(len.max(bytes.len()), 0);
    }
    if mode & REPAIR.0 != 0 {
        repair::repair(&mut bytes, mode & REPAIR.1 != 0);
    }
    let object_len = if mode & HEADER_ALONE != 0 { field(&bytes, 24, 8) } else { bytes.len() as u64 };
    let header = match ObjectHeader::decode(&bytes, object_len) {
        Ok(header) => header,
        Err(error) => {
            assert_ne!(error.kind(), ErrorKind::Invalid, "of input, not of a description: {error}");
            assert!(!error.to_string().is_empty());
            return false;
        }
    };
    // What is read lies inside, in order; it is the object itself; and written again it has the same bytes.
    let layout = &header.layout;
    let mut end = layout.header_len;
    assert!(end <= bytes.len() as u64 && layout.object_len == object_len);
    for section in &layout.sections {
        assert!(section.offset >= end && section.len > 0 && section.offset.is_multiple_of(64));
        end = section.offset.checked_add(section.len).expect("a section ends within u64");
    }
    assert_eq!((end, header.checksums.len()), (object_len, layout.sections.len()));
    header.expect(&header.identity, layout).expect("an object is itself");
    let header_len = usize::try_from(layout.header_len).expect("it is within the input");
    let mut again = vec![0xFF; header_len];
    header.encode(&mut again).expect("what was read can be written");
    assert_eq!(again[192..224], header.content_digest().0);
    if field(&bytes, 10, 2) == 0 {
        assert!(again == bytes[..header_len], "one header has two encodings");
    }
    assert_eq!(ObjectHeader::decode(&again, object_len).expect("what was written can be read"), header);
    true
}
