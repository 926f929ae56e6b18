//! What is moved: an engine's paged memory with shuffled blocks, one layer's K and V, and sections of 256 tokens beside it.

use kv_format::{
    AttentionParts, Axis, Dtype, Geometry, LayerPlan, PagingLayout, Replica, RopePairing, TensorBase,
    TensorKind,
};

/// Elements of a head.
const DIM: u32 = 128;

/// Tokens of a section.
const CHUNK: u32 = 256;

/// Bytes of an element: bf16.
const BYTES: u64 = 2;

/// How an engine keeps K and V. Recoding between FP8 flavours would be one more variant here and a row of `relayout::KERNELS`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Engine {
    TokenMajor,
    HeadMajor,
    Packed,
    Rocm,
    Shuffled,
    Gaudi,
}

/// One layer of an engine's memory and the plans of every chunk. Two threads have a half each, laid out alike.
pub(crate) struct Scene {
    plans: Vec<LayerPlan>,
    /// Where K and V begin in a half.
    bases: [usize; 2],
    section: usize,
}

impl Scene {
    /// Sections of `bytes` bytes in all, in as many shuffled blocks out of twice as many.
    pub(crate) fn new(engine: Engine, heads: u32, bytes: usize) -> Self {
        let block = if engine == Engine::Gaudi { 128 } else { 16 };
        let block_bytes = u64::from(block * heads * DIM) * BYTES;
        let blocks = u32::try_from(2 * bytes as u64 / 2 / block_bytes).unwrap();
        let (key, value) = engine.paging(block, heads);
        let region = u64::from(blocks) * block_bytes;
        let tensor = |offset| TensorBase { region: 0, offset };
        let tensors = match engine {
            Engine::Packed => [tensor(0), tensor(u64::from(DIM) * BYTES)],
            _ => [tensor(0), tensor(region)],
        };
        let geometry = Geometry::new(AttentionParts {
            dtype: Dtype::Bf16,
            rope: RopePairing::RotateHalf,
            layers: 0..1,
            heads: 0..heads,
            replica: Replica::ONLY,
            key_dim: DIM,
            value_dim: DIM,
            block_tokens: block,
            blocks,
            key,
            value,
            tensors: tensors.to_vec(),
            regions: vec![2 * region],
        })
        .unwrap();
        let ids = shuffled(blocks);
        let tokens = blocks / 2 * block;
        let plans = (0..tokens / CHUNK)
            .map(|chunk| {
                LayerPlan::new(&geometry, &ids, chunk * CHUNK..(chunk + 1) * CHUNK, 0..heads).unwrap()
            })
            .collect();
        let section = usize::try_from(u64::from(CHUNK * heads * DIM) * BYTES).unwrap();
        let bases = tensors.map(|tensor| usize::try_from(tensor.offset).unwrap());
        Self { plans, bases, section }
    }

    /// Calls `move_one(plan, kind, base in the half, start of the section)` for K and V of every chunk.
    pub(crate) fn each(
        &self,
        mut move_one: impl FnMut(&LayerPlan, TensorKind, usize, std::ops::Range<usize>),
    ) {
        for (chunk, plan) in self.plans.iter().enumerate() {
            for (index, kind) in TensorKind::BOTH.into_iter().enumerate() {
                let start = (2 * chunk + index) * self.section;
                move_one(plan, kind, self.bases[index], start..start + self.section);
            }
        }
    }
}

impl Engine {
    fn paging(self, block: u32, heads: u32) -> (PagingLayout, PagingLayout) {
        let x_packed = PagingLayout::x_packed(block, heads, DIM, 8);
        let (tokens, wide) = (u64::from(block), u64::from(DIM));
        match self {
            Self::TokenMajor | Self::Gaudi => {
                let layout = PagingLayout::token_major(block, heads, DIM);
                (layout, layout)
            }
            Self::HeadMajor => {
                let layout = PagingLayout::head_major(block, heads, DIM);
                (layout, layout)
            }
            // [block, token, head, K then V].
            Self::Packed => {
                let layout = PagingLayout {
                    block_stride: 2 * tokens * u64::from(heads) * wide,
                    token: Axis::strided(2 * u64::from(heads) * wide),
                    head: Axis::strided(2 * wide),
                    dim: Axis::strided(1),
                };
                (layout, layout)
            }
            Self::Rocm => (x_packed, PagingLayout::transposed(block, heads, DIM)),
            // V: [block, head, token / 8, dim, 8].
            Self::Shuffled => {
                let value = PagingLayout {
                    block_stride: tokens * u64::from(heads) * wide,
                    token: Axis::split(8, 8 * wide, 1),
                    head: Axis::strided(tokens * wide),
                    dim: Axis::strided(8),
                };
                (x_packed, value)
            }
        }
    }
}

/// The numbers below `count` in an order that is the same in every run.
fn shuffled(count: u32) -> Vec<u32> {
    let mut ids: Vec<u32> = (0..count).collect();
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    for i in (1..ids.len()).rev() {
        // Knuth's multiplier for linear congruential generators; the upper bits are good.
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let below = u64::try_from(i + 1).unwrap();
        ids.swap(i, usize::try_from((state >> 33) % below).unwrap());
    }
    ids
}
