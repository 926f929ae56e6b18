//! One sequence's KV in a paged bf16 cache: written and read through the engine's own layout, wherever the bytes are.

use std::sync::Arc;

use anyhow::{Result, ensure};
use half::bf16;

use super::blocks::BlockTable;
use super::flavour::{Flavour, Part, Strides};
use super::memory::CacheMemory;

/// A NaN: whoever reads a slot that nobody wrote gets NaN logits, not almost-right ones.
const UNUSED: u16 = 0xffff;
/// Bytes of a bf16.
const ELEMENT: usize = 2;

/// How many layers, heads and dims a rank's cache has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CacheShape {
    /// Layers.
    pub layers: usize,
    /// KV heads of this rank.
    pub heads: usize,
    /// Elements per head.
    pub head_dim: usize,
}

impl CacheShape {
    /// Byte length of every region, in the order layer 0 K, layer 0 V, layer 1 K, ...
    #[must_use]
    pub fn regions(&self, flavour: Flavour, blocks: &BlockTable) -> Vec<u64> {
        let block = flavour.block_tokens() * self.heads * self.head_dim * ELEMENT;
        vec![(blocks.physical() * block) as u64; self.layers * 2]
    }
}

/// A rank's KV cache with one sequence in it.
pub struct PagedCache {
    flavour: Flavour,
    shape: CacheShape,
    blocks: BlockTable,
    memory: Arc<dyn CacheMemory>,
}

impl PagedCache {
    /// Takes over `memory` and marks every slot as unused.
    ///
    /// # Errors
    /// The memory's regions are not those of [`CacheShape::regions`].
    pub fn new(
        flavour: Flavour,
        shape: CacheShape,
        blocks: BlockTable,
        memory: Arc<dyn CacheMemory>,
    ) -> Result<Self> {
        let (expected, found) = (shape.regions(flavour, &blocks), memory.regions());
        ensure!(expected == found, "the KV memory has regions of {found:?} bytes, expected {expected:?}");
        for region in 0..expected.len() {
            memory.with(region, &mut |bytes| {
                bytes.as_chunks_mut().0.fill(UNUSED.to_le_bytes());
            });
        }
        Ok(Self { flavour, shape, blocks, memory })
    }

    /// The engine's paging.
    #[must_use]
    pub fn flavour(&self) -> Flavour {
        self.flavour
    }

    /// Layers, heads and dims.
    #[must_use]
    pub fn shape(&self) -> CacheShape {
        self.shape
    }

    /// The sequence's blocks.
    #[must_use]
    pub fn blocks(&self) -> &BlockTable {
        &self.blocks
    }

    /// The bytes.
    #[must_use]
    pub fn memory(&self) -> Arc<dyn CacheMemory> {
        Arc::clone(&self.memory)
    }

    fn strides(&self, part: Part) -> Strides {
        self.flavour.strides(part, self.shape.heads, self.shape.head_dim)
    }

    /// Rounds `rows` (`[token][head][dim]`) to bf16 and stores them for the tokens from `first` on.
    pub fn write(&self, layer: usize, part: Part, first: usize, rows: &[f32]) {
        let strides = self.strides(part);
        self.memory.with(region(layer, part), &mut |bytes| {
            let (elements, _) = bytes.as_chunks_mut::<ELEMENT>();
            for (index, row) in rows.chunks_exact(self.shape.heads * self.shape.head_dim).enumerate() {
                let (block, slot) = self.blocks.place(first + index);
                for (head, values) in row.chunks_exact(self.shape.head_dim).enumerate() {
                    let start = block * strides.block + slot * strides.token + head * strides.head;
                    for (value, dim) in values.iter().zip(&strides.dims) {
                        elements[start + dim] = bf16::from_f32(*value).to_le_bytes();
                    }
                }
            }
        });
    }

    /// One head's first `tokens` rows (`[token][dim]`), widened to f32.
    #[must_use]
    pub fn read(&self, layer: usize, part: Part, head: usize, tokens: usize) -> Vec<f32> {
        self.gather(layer, part, head, tokens, |bytes| bf16::from_le_bytes(bytes).to_f32())
    }

    /// The bits of one head's first `tokens` rows, for whoever compares caches.
    #[must_use]
    pub fn export(&self, layer: usize, part: Part, head: usize, tokens: usize) -> Vec<u16> {
        self.gather(layer, part, head, tokens, u16::from_le_bytes)
    }

    fn gather<T>(
        &self,
        layer: usize,
        part: Part,
        head: usize,
        tokens: usize,
        value: fn([u8; ELEMENT]) -> T,
    ) -> Vec<T> {
        let strides = self.strides(part);
        let mut rows = Vec::with_capacity(tokens * self.shape.head_dim);
        self.memory.with_shared(region(layer, part), &mut |bytes| {
            let (elements, _) = bytes.as_chunks::<ELEMENT>();
            for token in 0..tokens {
                let (block, slot) = self.blocks.place(token);
                let start = block * strides.block + slot * strides.token + head * strides.head;
                rows.extend(strides.dims.iter().map(|dim| value(elements[start + dim])));
            }
        });
        rows
    }
}

/// Index of a region.
fn region(layer: usize, part: Part) -> usize {
    match part {
        Part::K => layer * 2,
        Part::V => layer * 2 + 1,
    }
}
