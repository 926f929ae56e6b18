//! Chunk keys, computed a second time from SPEC.md: what is at the edge of a chunk, and chunks of any size.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use kv_format::reference::builder;
use kv_format::*;

/// Every chunk's key, from the text of `chunk-key` and `key-extras`.
fn expected(namespace: &Namespace, tokens: &[u32], extras: &[Extra]) -> Vec<[u8; 32]> {
    let size = namespace.chunk_tokens() as usize;
    let mut keys: Vec<[u8; 32]> = Vec::new();
    for (index, run) in tokens.chunks(size).enumerate() {
        let span = index * size..index * size + run.len();
        let own: Vec<_> = extras.iter().filter(|extra| span.contains(&(extra.position as usize))).collect();
        let mut encoding = namespace.digest().0.to_vec();
        encoding.push(u8::from(!keys.is_empty()));
        encoding.extend(keys.last().copied().unwrap_or_default());
        encoding.extend(u32::try_from(index).unwrap().to_le_bytes());
        encoding.extend((run.len() as u64).to_le_bytes());
        encoding.extend(run.iter().flat_map(|token| token.to_le_bytes()));
        encoding.extend((own.len() as u64).to_le_bytes());
        for extra in own {
            encoding.extend(extra.position.to_le_bytes());
            encoding.extend(extra.digest.0);
        }
        keys.push(blake3::derive_key("kvbridge 2026-11 chunk key v1", &encoding));
    }
    keys
}

//= SPEC.md#chunk-key
//= SPEC.md#key-extras
#[test]
fn every_key_is_what_the_specification_says() {
    let extra = |position| Extra { position, digest: InputDigest([9; 32]) };
    for size in [16, 256, 272, 1024] {
        let namespace = builder(1, 1, 8).chunk_tokens(size).build().unwrap();
        let tokens: Vec<u32> = (0..2 * size + 5).map(|i| i.wrapping_mul(0x9E37_79B9)).collect();
        // The first and the last token of chunks, and of the sequence.
        for extras in [
            vec![],
            vec![extra(0), extra(size - 1), extra(size), extra(2 * size - 1), extra(2 * size)],
            vec![extra(size), extra(size), extra(2 * size + 4)],
        ] {
            let found: Vec<_> =
                chunks(&namespace, &tokens, &extras).unwrap().iter().map(|chunk| chunk.key.0).collect();
            assert_eq!(found, expected(&namespace, &tokens, &extras), "{size} tokens, {extras:?}");
        }
    }
}
