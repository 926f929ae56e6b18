//! What a rank's cache holds, written down for whoever compares it with another's.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use anyhow::{Context, Result};

use crate::engine::cache::PagedCache;
use crate::engine::flavour::Part;
use crate::engine::shard::Shard;

/// Writes the KV of the first `tokens` tokens, as the engine itself finds it in its memory, to `rank-R-heads-A-B.kv` in `directory`, if
/// one is wanted: bf16, little-endian, in the order `[layer][K, V][token][head][dim]`, whatever the engine's own.
///
/// # Errors
/// The file cannot be written.
pub(super) fn write(
    directory: Option<&Path>,
    cache: &PagedCache,
    shard: &Shard,
    tokens: usize,
) -> Result<()> {
    let Some(directory) = directory else { return Ok(()) };
    let heads = &shard.kv_heads;
    let name = format!("rank-{}-heads-{}-{}.kv", shard.rank, heads.start, heads.end);
    let path = directory.join(name);
    write_to(&path, cache, tokens).with_context(|| format!("cannot write the KV to {}", path.display()))
}

fn write_to(path: &Path, cache: &PagedCache, tokens: usize) -> Result<()> {
    let mut file = BufWriter::new(File::create(path)?);
    let shape = cache.shape();
    for layer in 0..shape.layers {
        for part in [Part::K, Part::V] {
            let heads: Vec<_> =
                (0..shape.heads).map(|head| cache.export(layer, part, head, tokens)).collect();
            for token in 0..tokens {
                for bits in heads.iter().flat_map(|rows| &rows[token * shape.head_dim..][..shape.head_dim]) {
                    file.write_all(&bits.to_le_bytes())?;
                }
            }
        }
    }
    Ok(file.flush()?)
}
