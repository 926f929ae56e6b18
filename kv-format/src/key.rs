//! Chunk keys: a chain over the whole token prefix, independent of process, platform and parallelism.

use std::ops::Range;

use crate::{ChunkKey, Error, InputDigest, Namespace, NamespaceDigest, Result};

/// An input at a position of the sequence that its token ids do not determine: an image, prompt embeddings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Extra {
    /// Position of the first token that depends on the input.
    pub position: u32,
    /// Digest of the input.
    pub digest: InputDigest,
}

/// A fixed run of tokens with its key.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Chunk {
    /// Position in the chain, from 0.
    pub index: u32,
    /// Identity: namespace and all tokens up to the chunk's end.
    pub key: ChunkKey,
    /// Key of the chunk before, `None` for the first.
    pub parent: Option<ChunkKey>,
    /// Positions of the tokens in the sequence.
    pub tokens: Range<u32>,
    /// Whether the chunk is shorter than the namespace's chunks: the end of a hand-off, never a parent.
    pub tail: bool,
}

/// Cuts a sequence into chunks and keys them, first to last; a short tail comes last.
///
/// `extras` are in the order of their positions.
///
/// # Errors
/// [`Invalid`](crate::ErrorKind::Invalid) for a sequence of 2^32 tokens or more, or extras that are out of order or outside it.
pub fn chunks(namespace: &Namespace, tokens: &[u32], extras: &[Extra]) -> Result<Vec<Chunk>> {
    let total = u32::try_from(tokens.len())
        .map_err(|_| Error::invalid(format!("{} tokens: a sequence has fewer than 2^32", tokens.len())))?;
    if !extras.is_sorted_by_key(|extra| extra.position)
        || extras.last().is_some_and(|extra| extra.position >= total)
    {
        return Err(Error::invalid(format!("extras must be in order and inside the {total} tokens")));
    }
    let size = namespace.chunk_tokens();
    let base = base_hasher(namespace.digest());
    let mut chunks = Vec::with_capacity(total.div_ceil(size) as usize);
    let (mut parent, mut extras) = (None, extras);
    for (index, run) in (0..).zip(tokens.chunks(size as usize)) {
        let start = index * size;
        let end = start.saturating_add(size).min(total);
        let (own, rest) = extras.split_at(extras.partition_point(|extra| extra.position < end));
        extras = rest;
        let key = key(base.clone(), parent, index, run, own);
        chunks.push(Chunk { index, key, parent, tokens: start..end, tail: end - start < size });
        parent = Some(key);
    }
    Ok(chunks)
}

/// The part of the encoding that every chunk shares.
fn base_hasher(namespace: NamespaceDigest) -> blake3::Hasher {
    let mut hasher = blake3::Hasher::new_derive_key("kvbridge 2026-11 chunk key v1");
    hasher.update(&namespace.0);
    hasher
}

/// One link of the chain. Every field has a fixed length or stands behind its count.
fn key(
    mut hasher: blake3::Hasher,
    parent: Option<ChunkKey>,
    index: u32,
    tokens: &[u32],
    extras: &[Extra],
) -> ChunkKey {
    hasher.update(&[u8::from(parent.is_some())]);
    hasher.update(&parent.unwrap_or(ChunkKey([0; 32])).0);
    hasher.update(&index.to_le_bytes());
    hasher.update(&(tokens.len() as u64).to_le_bytes());
    let mut bytes = [0; 1024];
    for run in tokens.chunks(bytes.len() / 4) {
        for (to, token) in bytes.chunks_exact_mut(4).zip(run) {
            to.copy_from_slice(&token.to_le_bytes());
        }
        hasher.update(&bytes[..run.len() * 4]);
    }
    hasher.update(&(extras.len() as u64).to_le_bytes());
    for extra in extras {
        hasher.update(&extra.position.to_le_bytes());
        hasher.update(&extra.digest.0);
    }
    ChunkKey(*hasher.finalize().as_bytes())
}
