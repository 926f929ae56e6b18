//! Headers made right again after damage, so that the checks behind the checksum are reached: shared by the tests and the fuzzers.

use kv_format::Checksum;

const DIGEST: usize = 192;
const CHECKSUM: usize = 288;
const TABLE: usize = 320;
const ENTRY_BYTES: usize = 48;

/// Makes the header's checksum right for what stands there now, and the content digest before it if asked to.
pub(crate) fn repair(bytes: &mut [u8], digest: bool) {
    if bytes.len() < TABLE {
        return;
    }
    let field = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize;
    let (header_len, sections) = (field(12), field(44));
    let table_end = TABLE.saturating_add(sections.saturating_mul(ENTRY_BYTES));
    if digest && table_end <= bytes.len() {
        let covered = [&bytes[48..DIGEST], &bytes[TABLE..table_end]].concat();
        let digest = blake3::derive_key("kvbridge 2026-11 content v1", &covered);
        bytes[DIGEST..DIGEST + 32].copy_from_slice(&digest);
    }
    if (TABLE..=bytes.len()).contains(&header_len) {
        bytes[CHECKSUM..CHECKSUM + 8].fill(0);
        let checksum = Checksum::of(&bytes[..header_len]);
        bytes[CHECKSUM..CHECKSUM + 8].copy_from_slice(&checksum.to_le_bytes());
    }
}
