//! LMCache's chain of chunk hashes, as a key scheme of its own: for finding out what LMCache has under which name, never for our objects.
//!
//! It is the chain of LMCache 0.5.6 in multiprocess mode with `--hash-algorithm blake3`, its default there: each chunk's hash is
//! BLAKE3 of the hash before it and the chunk's tokens as big-endian `u32`; the chain begins with BLAKE3 of a big-endian `i64` zero and
//! a big-endian `u32` zero. LMCache's in-process mode hashes with Python instead (`builtin` or a name that vLLM knows), depends on
//! `PYTHONHASHSEED` and the interpreter, and is not this.
//!
//! # How it differs from a [`ChunkKey`](crate::ChunkKey)
//!
//! | | LMCache's | ours |
//! |---|---|---|
//! | model, weights, adapters, dtype | beside the hash in the object's key, or nowhere | in the namespace, which is in the key |
//! | chunk size | not in it: chunks of 256 tokens, and two chunks of 128, have unrelated hashes, and nothing says which size was meant | in the namespace |
//! | tensor parallelism | rank and world size are in the object's key: another parallelism misses | in neither |
//! | images, prompt embeddings | not in it: the same token ids are the same hash | extras |
//! | tail | not stored by default | marked, never a parent |
//!
//! So a hash of this chain does not say what bytes it names. It is a type of its own, [`LmcacheHash`], which nothing here takes for a
//! [`ChunkKey`](crate::ChunkKey).
//!
//! ```
//! let tokens: Vec<u32> = (0..600).collect();
//! let hashes = kv_format::lmcache::chain(&tokens, 256)?;
//! assert_eq!(hashes.len(), 2); // the last 88 tokens are no chunk
//! assert_eq!(hashes[0].to_string(), "084547b6c40ed5b05ba8cd0305db5bf74d5617673948d9ed193ab7d6cbc484d4");
//! # Ok::<(), kv_format::Error>(())
//! ```

use crate::{Error, Result};

pub use crate::digest::LmcacheHash;

/// Tokens of a chunk unless LMCache's configuration says otherwise.
pub const DEFAULT_CHUNK_TOKENS: u32 = 256;

/// What stands before the first chunk: LMCache's `NONE_HASH`, the same in every process.
pub fn none() -> LmcacheHash {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&0_i64.to_be_bytes());
    hasher.update(&0_u32.to_be_bytes());
    LmcacheHash(*hasher.finalize().as_bytes())
}

/// The hash of one chunk behind another, or behind [`none`].
pub fn next(before: &LmcacheHash, tokens: &[u32]) -> LmcacheHash {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&before.0);
    for token in tokens {
        hasher.update(&token.to_be_bytes());
    }
    LmcacheHash(*hasher.finalize().as_bytes())
}

/// The hashes of a sequence's whole chunks, first to last; tokens behind the last whole chunk have none.
///
/// # Errors
/// [`Invalid`](crate::ErrorKind::Invalid) for chunks of no tokens.
pub fn chain(tokens: &[u32], chunk_tokens: u32) -> Result<Vec<LmcacheHash>> {
    if chunk_tokens == 0 {
        return Err(Error::invalid("chunks of 0 tokens: expected LMCache's chunk_size, 256 by default"));
    }
    let mut hashes = Vec::with_capacity(tokens.len() / chunk_tokens as usize);
    let mut before = none();
    for chunk in tokens.chunks_exact(chunk_tokens as usize) {
        before = next(&before, chunk);
        hashes.push(before);
    }
    Ok(hashes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What LMCache 0.5.6 itself printed, with PYTHONHASHSEED 0 and 77.
    #[test]
    fn the_chain_is_that_of_lmcache() {
        assert_eq!(none().to_string(), "7e3eff9ef7613a50340eb12677ee03b83ac759fcba9bb32705f07248d56d473b");
        let tokens: Vec<u32> = (0..512).collect();
        let hashes = chain(&tokens, DEFAULT_CHUNK_TOKENS).unwrap();
        let text: Vec<String> = hashes.iter().map(ToString::to_string).collect();
        assert_eq!(
            text,
            [
                "084547b6c40ed5b05ba8cd0305db5bf74d5617673948d9ed193ab7d6cbc484d4",
                "e5ffee45c2b9db326814c9692dc594369887ba3b0df5761817820b60f864c8e0",
            ]
        );
        assert_eq!(hashes[1], next(&hashes[0], &tokens[256..]));
        assert_eq!(LmcacheHash::from_hex(&text[0]).unwrap(), hashes[0]);
    }

    #[test]
    fn only_whole_chunks_have_a_hash() {
        let tokens: Vec<u32> = (0..511).collect();
        assert_eq!(chain(&tokens, 256).unwrap(), chain(&tokens[..256], 256).unwrap());
        assert!(chain(&tokens[..255], 256).unwrap().is_empty());
        assert!(chain(&[], 256).unwrap().is_empty());
        assert_eq!(chain(&tokens, 128).unwrap().len(), 3);
        assert_eq!(chain(&tokens, 0).unwrap_err().kind(), crate::ErrorKind::Invalid);
    }
}
