//! An engine's memory as a plain loop sees it: the same blocks in the same order and the same runs as a shape of the pipeline has, so
//! that what a scattered layout costs any loop is not laid to the pipeline.

use std::sync::{PoisonError, RwLock};

use anyhow::Result;
use kv_format::kernels::{self, Destination};
use kv_format::{LayerPlan, TensorKind};
use kv_memory::HostBuf;

use crate::engine::{CHUNK, HEAD_BYTES, SECTION_BYTES, SECTIONS, Shape, geometry};

/// How bytes are written to the engine's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stores {
    /// By the system's `memcpy`.
    Memcpy,
    /// Past the cache, which reads nothing of what it overwrites.
    Cold,
}

/// K and V of every layer, each in a region of its own, as the engine under test has them.
pub(crate) struct SameRuns {
    shape: Shape,
    blocks: Vec<u32>,
    regions: Vec<RwLock<HostBuf>>,
    /// The runs of each object.
    plans: Vec<LayerPlan>,
}

impl SameRuns {
    /// Memory for `objects` objects of a shape.
    pub(crate) fn new(shape: Shape, objects: u32) -> Result<Self> {
        let (blocks, all) = shape.blocks(objects);
        let bytes = all as usize * shape.block_bytes();
        let mut regions = Vec::with_capacity(SECTIONS);
        for index in 0..SECTIONS {
            let mut region = HostBuf::allocate(bytes)?;
            region.fill(index.to_le_bytes()[0]);
            regions.push(RwLock::new(region));
        }
        let geometry = geometry(shape, all)?;
        let plan = |object: u32| {
            let (chunk, head) = (object / shape.heads, object % shape.heads);
            LayerPlan::new(&geometry, &blocks, chunk * CHUNK..(chunk + 1) * CHUNK, head..head + 1)
        };
        let plans = (0..objects).map(plan).collect::<kv_format::Result<_>>()?;
        Ok(Self { shape, blocks, regions, plans })
    }

    /// Objects of a chunk.
    pub(crate) fn heads(&self) -> usize {
        self.shape.heads as usize
    }

    /// Calls `run(place in the region, place in the section, bytes)` for each run of a section of an object.
    fn each_run(&self, object: usize, mut run: impl FnMut(usize, usize, usize)) {
        let heads = self.shape.heads as usize;
        let (chunk, head) = (object / heads, object % heads);
        let tokens = self.shape.block_tokens as usize;
        let per_chunk = CHUNK as usize / tokens;
        for (index, block) in self.blocks[chunk * per_chunk..][..per_chunk].iter().enumerate() {
            let (from, to) = (*block as usize * self.shape.block_bytes(), index * tokens * HEAD_BYTES);
            if heads == 1 {
                run(from, to, tokens * HEAD_BYTES);
            } else {
                for token in 0..tokens {
                    run(from + (token * heads + head) * HEAD_BYTES, to + token * HEAD_BYTES, HEAD_BYTES);
                }
            }
        }
    }

    /// Copies some sections of an object, from number `first` on, out of the engine's memory.
    pub(crate) fn gather(&self, object: usize, first: usize, piece: &mut [u8]) {
        for (region, section) in self.regions[first..].iter().zip(piece.chunks_exact_mut(SECTION_BYTES)) {
            let memory = region.read().unwrap_or_else(PoisonError::into_inner);
            self.each_run(object, |place, at, bytes| {
                section[at..at + bytes].copy_from_slice(&memory[place..place + bytes]);
            });
        }
    }

    /// Copies some sections of an object into the engine's memory.
    pub(crate) fn scatter(&self, object: usize, first: usize, piece: &[u8], stores: Stores) {
        for (region, section) in self.regions[first..].iter().zip(piece.chunks_exact(SECTION_BYTES)) {
            let mut memory = region.write().unwrap_or_else(PoisonError::into_inner);
            if stores == Stores::Cold {
                let (plan, kind) = (&self.plans[object], TensorKind::Key);
                kernels::scatter(plan, kind, section, &mut memory, Destination::Cold);
                continue;
            }
            self.each_run(object, |place, at, bytes| {
                memory[place..place + bytes].copy_from_slice(&section[at..at + bytes]);
            });
        }
    }
}
