//! Layouts that engines have, by name: the geometry of a rank from a handful of extents, and the regions that it has to register.
//!
//! Layouts are not guessed from shapes: with two KV heads, half of them look alike. Whoever configures a rank says which it is.
//! Every entry is held against index vectors that numpy makes from the engine's own view, permute and split expressions
//! (`golden/layouts.py`, `tests/layouts.rs`), never against formulas of ours.

mod build;
mod catalogue;
mod rank;

use std::fmt;
use std::str::FromStr;

pub use rank::{RankMemory, RankRegion, RankShape, RegionContents};

use crate::{Error, Result, TensorKind};

/// How an engine lays out its paged KV memory.
///
/// Axes are named `L` layers, `B` blocks, `H` the rank's KV heads, `N` tokens of a block, `D` elements of a head, `C` the contents of
/// a token's head, K then V or the latent with its rotary part behind it, and `x` as many elements as 16 bytes have. The last axis is contiguous.
///
/// ```
/// use kv_format::*;
/// # fn main() -> kv_format::Result<()> {
/// let layout: EngineLayout = "vllm-lbhnc".parse()?;
/// let memory = layout.memory(&RankShape {
///     group: 0,
///     rule: GroupRule::FullAttention { key_dim: 128, value_dim: 128 },
///     dtype: Dtype::Bf16,
///     rope: RopePairing::RotateHalf,
///     layers: LayerSet::from(0..80),
///     heads: 0..1, // rank 0 of 8
///     replica: Replica::ONLY,
///     block_tokens: 16,
///     blocks: 1000,
///     page_bytes: None,
/// })?;
/// assert_eq!(memory.regions.len(), 1); // one allocation for all layers,
/// assert_eq!(memory.regions[0].bytes, 80 * 1000 * 16 * (128 + 128) * 2);
/// assert_eq!(memory.geometry.tensor(0, TensorKind::Value).unwrap().offset, 128 * 2); // in which V stands behind the K of the same token
/// # Ok(()) }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum EngineLayout {
    /// vLLM `[L, B, H, N, C]`, once called HND; what its NIXL connector prefers.
    ///
    /// One allocation for all layers. vLLM 0.33 `KVCacheLayout.LBHNC` (`vllm/v1/kv_cache_layout.py`), views by
    /// `create_kv_cache_views` (`vllm/v1/kv_cache_interface.py`), K and V by `transpose(1, 2).split(head_size, -1)` of the attention
    /// backends.
    VllmLbhnc,
    /// vLLM `[L, B, N, H, C]`, once called NHD; what its backends prefer. Otherwise as [`VllmLbhnc`](Self::VllmLbhnc).
    VllmLbnhc,
    /// vLLM `[L, H, B, N, C]`. Otherwise as [`VllmLbhnc`](Self::VllmLbhnc).
    VllmLhbnc,
    /// vLLM `[B, L, H, N, C]`: a block's pages of all layers are neighbours. Otherwise as [`VllmLbhnc`](Self::VllmLbhnc).
    VllmBlhnc,
    /// vLLM `[B, L, N, H, C]`. Otherwise as [`VllmLbhnc`](Self::VllmLbhnc).
    VllmBlnhc,
    /// vLLM `[B, H, L, N, C]`. Otherwise as [`VllmLbhnc`](Self::VllmLbhnc).
    VllmBhlnc,
    /// vLLM `ROCM_ATTN` in LHBNC with two head slots, K and V: `[L, 2, B, ..]`, K `[.., H, D/x, N, x]`, V `[.., H, D, N]`.
    ///
    /// One allocation for all layers. vLLM 0.33 `RocmAttentionBackend.customize_spec` (`vllm/v1/attention/backends/rocm_attn.py`) and
    /// `PagedAttention.split_kv_cache` (`vllm/v1/attention/ops/paged_attn.py`).
    VllmRocmLhbnc,
    /// vLLM `ROCM_ATTN` in LBHNC with two head slots: `[L, B, 2, ..]`. Otherwise as [`VllmRocmLhbnc`](Self::VllmRocmLhbnc).
    VllmRocmLbhnc,
    /// vLLM `ROCM_AITER_FA` with `VLLM_ROCM_SHUFFLE_KV_CACHE_LAYOUT=1` in LHBNC: `[L, 2, B, ..]`, K `[.., H, D/x, N, x]`,
    /// V `[.., H, N/x, D, x]`.
    ///
    /// One allocation for all layers. vLLM 0.33 `vllm/v1/attention/backends/rocm_aiter_fa.py`; the interior is that of
    /// `reshape_and_cache` with `asmLayout` in AITER (`csrc/kernels/cache_kernels.cu`).
    VllmShuffleLhbnc,
    /// The same in LBHNC: `[L, B, 2, ..]`. Otherwise as [`VllmShuffleLhbnc`](Self::VllmShuffleLhbnc).
    VllmShuffleLbhnc,
    /// vLLM with packed contents and an allocation per layer, `[B, H, N, C]`: between 0.22 and 0.33, and how a connector sees 0.33's
    /// LBHNC if it registers layer by layer.
    ///
    /// `get_kv_cache_shape` and `get_kv_cache_stride_order` of `vllm/v1/attention/backends/flash_attn.py` in that time; with two head
    /// sizes, of `flash_attn_diffkv.py`.
    VllmLayerHnd,
    /// The same with `VLLM_KV_CACHE_LAYOUT=NHD`: `[B, N, H, C]`. Otherwise as [`VllmLayerHnd`](Self::VllmLayerHnd).
    VllmLayerNhd,
    /// vLLM before packed contents, FlashInfer with cross-layer blocks in NHD: `[B, L, 2, N, H, D]`.
    ///
    /// One allocation for all layers. `allocate_uniform_kv_caches` of `vllm/v1/worker/kv_connector_model_runner_mixin.py`,
    /// `get_kv_cache_stride_order` of `vllm/v1/attention/backends/flashinfer.py`.
    VllmCrossLayerNhd,
    /// The same in HND: `[B, 2, H, L, N, D]`. Otherwise as [`VllmCrossLayerNhd`](Self::VllmCrossLayerNhd).
    VllmCrossLayerHnd,
    /// vLLM before packed contents (to 0.22 or so) `[2, B, N, H, D]`: FlashAttention, AITER, Triton; NHD.
    ///
    /// One allocation per layer. `get_kv_cache_shape` and `get_kv_cache_stride_order` of
    /// `vllm/v1/attention/backends/flash_attn.py`.
    VllmKvFirstNhd,
    /// The same with `VLLM_KV_CACHE_LAYOUT=HND`: `[2, B, H, N, D]`. Otherwise as [`VllmKvFirstNhd`](Self::VllmKvFirstNhd).
    VllmKvFirstHnd,
    /// vLLM before packed contents `[B, 2, N, H, D]`: FlashInfer; NHD.
    ///
    /// One allocation per layer. `get_kv_cache_shape` and `get_kv_cache_stride_order` of
    /// `vllm/v1/attention/backends/flashinfer.py`.
    VllmBlockFirstNhd,
    /// The same with `VLLM_KV_CACHE_LAYOUT=HND`: `[B, 2, H, N, D]`. Otherwise as [`VllmBlockFirstNhd`](Self::VllmBlockFirstNhd).
    VllmBlockFirstHnd,
    /// vLLM before packed contents, ROCm paged attention: `[2, B, ..]`, K `[.., H, D/x, N, x]`, V `[.., H, D, N]`.
    ///
    /// One allocation per layer. `PagedAttention.get_kv_cache_shape` and `split_kv_cache` of `vllm/attention/ops/paged_attn.py`.
    VllmKvFirstRocm,
    /// vLLM before packed contents, AITER shuffle: `[2, B, ..]`, K `[.., H, D/x, N, x]`, V `[.., H, N/x, D, x]`.
    ///
    /// One allocation per layer. `reshape_and_cache_shuffle_triton` of `vllm/v1/attention/backends/rocm_aiter_fa.py`.
    VllmKvFirstShuffle,
    /// vLLM on Gaudi: K and V apart, each `[(B + 1) * N, H, D]`; the last block takes what padding writes.
    ///
    /// Two allocations per layer. vllm-gaudi 0.24 `HPUPagedAttention.get_kv_cache_shape`
    /// (`vllm_gaudi/attention/ops/hpu_paged_attn.py`), `initialize_kv_cache` and `get_kv_caches_4D`
    /// (`vllm_gaudi/v1/worker/hpu_model_runner.py`).
    VllmGaudi,
    /// SGLang's token pool: K and V apart, each `[(1 + B) * N, H, D]`; page 0 takes what padding writes, so ids begin at 1.
    ///
    /// Two tensors per layer, each registered by itself; where SGLang carves them from one allocation they are ranges of it.
    /// SGLang 0.5 `MHATokenToKVPool` (`python/sglang/srt/mem_cache/memory_pool.py`). `B * N` is the pool's `size`.
    SglangNhd,
    /// The same with `SGLANG_USE_HND_KVCACHE=1`: `[1 + B, H, N, D]`. Otherwise as [`SglangNhd`](Self::SglangNhd).
    SglangHnd,
    /// The same with `SGLANG_AITER_KV_CACHE_LAYOUT=vectorized_5d`: K `[1 + B, H, D/x, N, x]`, V `[1 + B, H, N/x, D, x]`. Otherwise as
    /// [`SglangNhd`](Self::SglangNhd).
    SglangVectorized5d,
    /// mistral.rs `KvCacheLayout::Standard`: K and V apart, K `[B, H, D/x, N, x]`, V `[B, H, D, N]`.
    ///
    /// Two allocations per layer. mistral.rs 0.9 `CacheEngine::allocate_gpu_cache`
    /// (`mistralrs-core/src/paged_attention/cache_engine.rs`).
    MistralRsStandard,
    /// mistral.rs `KvCacheLayout::FlashInferHnd`: K and V apart, each `[B, H, N, D]`. Otherwise as
    /// [`MistralRsStandard`](Self::MistralRsStandard).
    MistralRsHnd,
    /// vLLM, latents, a block's page behind the other: `[L, B, N, C]`.
    ///
    /// One allocation for all layers. vLLM 0.33 `MLAAttentionSpec` (`vllm/v1/kv_cache_interface.py`): one head without V. With one head,
    /// LBHNC, LBNHC and LHBNC are this.
    VllmLbhncMla,
    /// vLLM, latents, a block's pages of all layers neighbours: `[B, L, N, C]`. With one head, BLHNC, BLNHC and BHLNC are this. Otherwise
    /// as [`VllmLbhncMla`](Self::VllmLbhncMla).
    VllmBlhncMla,
    /// vLLM, latents, with an allocation per layer: `[B, N, C]`.
    ///
    /// `get_kv_cache_shape` of `vllm/v1/attention/backends/mla/common.py`.
    VllmLayerMla,
    /// vLLM on Gaudi, latents: `[(B + 1) * N, C]`; the last block takes what padding writes.
    ///
    /// One allocation per layer. vllm-gaudi 0.24, otherwise as [`VllmGaudi`](Self::VllmGaudi).
    VllmGaudiMla,
    /// SGLang's token pool of latents: `[(1 + B) * N, 1, C]`; page 0 takes what padding writes, so ids begin at 1.
    ///
    /// One tensor per layer. SGLang 0.5 `MLATokenToKVPool` (`python/sglang/srt/mem_cache/memory_pool.py`).
    SglangMla,
}

impl EngineLayout {
    /// Every layout that this version knows.
    pub const ALL: [Self; 31] = [
        Self::VllmLbhnc,
        Self::VllmLbnhc,
        Self::VllmLhbnc,
        Self::VllmBlhnc,
        Self::VllmBlnhc,
        Self::VllmBhlnc,
        Self::VllmRocmLhbnc,
        Self::VllmRocmLbhnc,
        Self::VllmShuffleLhbnc,
        Self::VllmShuffleLbhnc,
        Self::VllmLayerHnd,
        Self::VllmLayerNhd,
        Self::VllmCrossLayerNhd,
        Self::VllmCrossLayerHnd,
        Self::VllmKvFirstNhd,
        Self::VllmKvFirstHnd,
        Self::VllmBlockFirstNhd,
        Self::VllmBlockFirstHnd,
        Self::VllmKvFirstRocm,
        Self::VllmKvFirstShuffle,
        Self::VllmGaudi,
        Self::SglangNhd,
        Self::SglangHnd,
        Self::SglangVectorized5d,
        Self::MistralRsStandard,
        Self::MistralRsHnd,
        Self::VllmLbhncMla,
        Self::VllmBlhncMla,
        Self::VllmLayerMla,
        Self::VllmGaudiMla,
        Self::SglangMla,
    ];

    /// The name for configuration; [`FromStr`] reads it.
    pub fn name(self) -> &'static str {
        match self {
            Self::VllmLbhnc => "vllm-lbhnc",
            Self::VllmLbnhc => "vllm-lbnhc",
            Self::VllmLhbnc => "vllm-lhbnc",
            Self::VllmBlhnc => "vllm-blhnc",
            Self::VllmBlnhc => "vllm-blnhc",
            Self::VllmBhlnc => "vllm-bhlnc",
            Self::VllmRocmLhbnc => "vllm-rocm-lhbnc",
            Self::VllmRocmLbhnc => "vllm-rocm-lbhnc",
            Self::VllmShuffleLhbnc => "vllm-shuffle-lhbnc",
            Self::VllmShuffleLbhnc => "vllm-shuffle-lbhnc",
            Self::VllmLayerHnd => "vllm-layer-hnd",
            Self::VllmLayerNhd => "vllm-layer-nhd",
            Self::VllmCrossLayerNhd => "vllm-cross-layer-nhd",
            Self::VllmCrossLayerHnd => "vllm-cross-layer-hnd",
            Self::VllmKvFirstNhd => "vllm-kv-first-nhd",
            Self::VllmKvFirstHnd => "vllm-kv-first-hnd",
            Self::VllmBlockFirstNhd => "vllm-block-first-nhd",
            Self::VllmBlockFirstHnd => "vllm-block-first-hnd",
            Self::VllmKvFirstRocm => "vllm-kv-first-rocm",
            Self::VllmKvFirstShuffle => "vllm-kv-first-shuffle",
            Self::VllmGaudi => "vllm-gaudi",
            Self::SglangNhd => "sglang-nhd",
            Self::SglangHnd => "sglang-hnd",
            Self::SglangVectorized5d => "sglang-vectorized-5d",
            Self::MistralRsStandard => "mistralrs-standard",
            Self::MistralRsHnd => "mistralrs-hnd",
            Self::VllmLbhncMla => "vllm-lbhnc-mla",
            Self::VllmBlhncMla => "vllm-blhnc-mla",
            Self::VllmLayerMla => "vllm-layer-mla",
            Self::VllmGaudiMla => "vllm-gaudi-mla",
            Self::SglangMla => "sglang-mla",
        }
    }

    /// The kinds of tensors that each layer has: K and V, or a latent.
    pub fn kinds(self) -> &'static [TensorKind] {
        catalogue::arrangement(self).tensors.kinds()
    }

    /// The geometry of a rank with this layout, and the regions that it has to register.
    ///
    /// # Errors
    /// [`Invalid`](crate::ErrorKind::Invalid) naming the layout and what it cannot be: a KV group of other kinds, extents that the
    /// engine itself refuses (heads of two sizes, groups that do not divide, pages that cannot be padded), an empty one, or more than
    /// the address space holds.
    pub fn memory(self, rank: &RankShape) -> Result<RankMemory> {
        build::memory(self, rank)
    }
}

impl fmt::Display for EngineLayout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for EngineLayout {
    type Err = Error;

    /// Reads a name.
    ///
    /// # Errors
    /// [`Invalid`](crate::ErrorKind::Invalid) listing the names, for any other text.
    fn from_str(text: &str) -> Result<Self> {
        Self::ALL.into_iter().find(|layout| layout.name() == text).ok_or_else(|| {
            let names = Self::ALL.map(Self::name).join(", ");
            Error::invalid(format!("engine layout {text:?}: expected one of {names}"))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Dtype, ErrorKind, GroupRule, LayerSet, Replica, RopePairing};

    fn rank() -> RankShape {
        RankShape {
            group: 0,
            rule: GroupRule::FullAttention { key_dim: 16, value_dim: 16 },
            dtype: Dtype::Bf16,
            rope: RopePairing::RotateHalf,
            layers: LayerSet::from(3..5),
            heads: 0..2,
            replica: Replica::ONLY,
            block_tokens: 16,
            blocks: 3,
            page_bytes: None,
        }
    }

    fn latent() -> RankShape {
        let rule = GroupRule::MlaLatent { latent_dim: 24, rope_dim: 8 };
        RankShape { rule, heads: 0..1, ..rank() }
    }

    /// A rank of the group that a layout is for.
    fn rank_of(layout: EngineLayout) -> RankShape {
        if layout.kinds() == TensorKind::BOTH { rank() } else { latent() }
    }

    #[test]
    fn names_are_read_back_and_others_are_refused_with_the_list() {
        for layout in EngineLayout::ALL {
            assert_eq!(layout.to_string().parse::<EngineLayout>().unwrap(), layout);
        }
        let error = "vllm".parse::<EngineLayout>().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(error.to_string().contains("mistralrs-hnd"), "{error}");
    }

    #[test]
    fn regions_are_what_the_engine_allocates() {
        let tokens = 16 * 2 * 16 * 2; // bytes of a block of K
        for (layout, regions, bytes, blocks) in [
            (EngineLayout::VllmBhlnc, 1, 2 * 3 * 2 * tokens, 3),
            (EngineLayout::VllmKvFirstRocm, 2, 3 * 2 * tokens, 3),
            (EngineLayout::VllmGaudi, 4, 4 * tokens, 3),
            (EngineLayout::SglangVectorized5d, 4, 4 * tokens, 4),
            (EngineLayout::MistralRsStandard, 4, 3 * tokens, 3),
        ] {
            let memory = layout.memory(&rank()).unwrap();
            assert_eq!(memory.regions.len(), regions, "{layout}");
            assert!(
                memory.regions.iter().all(|region| region.bytes == bytes),
                "{layout}: {:?}",
                memory.regions
            );
            assert_eq!(memory.geometry.blocks, blocks, "{layout}");
        }
        for (layout, regions, elements, blocks) in [
            (EngineLayout::VllmBlhncMla, 1, 2 * 3 * 16 * 32, 3),
            (EngineLayout::VllmLayerMla, 2, 3 * 16 * 32, 3),
            (EngineLayout::VllmGaudiMla, 2, 4 * 16 * 32, 3),
            (EngineLayout::SglangMla, 2, 4 * 16 * 32, 4),
        ] {
            let memory = layout.memory(&latent()).unwrap();
            assert_eq!(memory.regions.len(), regions, "{layout}");
            assert!(memory.regions.iter().all(|region| region.bytes == 2 * elements), "{layout}");
            assert_eq!(memory.geometry.blocks, blocks, "{layout}");
        }
        let gaudi = EngineLayout::VllmGaudi.memory(&rank()).unwrap();
        assert_eq!(gaudi.regions[3].contents, RegionContents::Tensor(4, TensorKind::Value));
    }

    /// Layers and heads inside of a block's stride, around it, and both sides of K and V: none is taken for an overlap.
    #[test]
    fn every_layout_builds_at_the_extents_of_a_real_model() {
        for layout in EngineLayout::ALL {
            let (rule, heads) = match rank_of(layout).rule {
                GroupRule::MlaLatent { .. } => (GroupRule::MlaLatent { latent_dim: 512, rope_dim: 64 }, 0..1),
                _ => (GroupRule::FullAttention { key_dim: 128, value_dim: 128 }, 2..10),
            };
            let layers = LayerSet::from(40..80);
            let real = RankShape { rule, heads, layers, block_tokens: 128, blocks: 9000, ..rank() };
            layout.memory(&real).unwrap();
            let one = RankShape { dtype: Dtype::E4m3Fnuz, layers: (0..1).into(), blocks: 1, ..real };
            layout.memory(&one).unwrap();
        }
    }

    #[test]
    fn what_the_engine_refuses_is_refused() {
        let attention = |key_dim, value_dim| RankShape {
            rule: GroupRule::FullAttention { key_dim, value_dim },
            ..rank()
        };
        let (two_sizes, odd_dim) = (attention(16, 32), attention(12, 12));
        let odd_block = RankShape { block_tokens: 12, ..rank() };
        let padded = |page_bytes| RankShape { page_bytes: Some(page_bytes), ..rank() };
        let page = 16 * 2 * 32 * 2; // bytes of a page's contents
        let vast = RankShape { blocks: u32::MAX, block_tokens: u32::MAX, ..attention(u32::MAX, 16) };
        let wide = GroupRule::MlaLatent { latent_dim: u32::MAX, rope_dim: 1 };
        let index = RankShape { rule: GroupRule::SparseIndex { dim: 16 }, heads: 0..1, ..rank() };
        for (layout, shape) in [
            (EngineLayout::VllmGaudi, &two_sizes),
            (EngineLayout::VllmRocmLhbnc, &two_sizes),
            (EngineLayout::MistralRsHnd, &two_sizes),
            (EngineLayout::MistralRsStandard, &odd_dim),
            (EngineLayout::SglangVectorized5d, &odd_block),
            (EngineLayout::VllmKvFirstNhd, &padded(page)),
            (EngineLayout::VllmGaudi, &padded(page)),
            (EngineLayout::VllmLayerHnd, &padded(page)),
            (EngineLayout::VllmCrossLayerNhd, &padded(page)),
            (EngineLayout::VllmCrossLayerHnd, &two_sizes),
            (EngineLayout::VllmLbhnc, &padded(page - 2)),
            (EngineLayout::VllmLbhnc, &padded(page + 1)),
            (EngineLayout::VllmLhbnc, &padded(page)),
            (EngineLayout::VllmBhlnc, &padded(page)),
            (EngineLayout::VllmRocmLhbnc, &padded(page)),
            (EngineLayout::VllmLbhnc, &vast),
            (EngineLayout::SglangNhd, &RankShape { blocks: u32::MAX, ..rank() }),
            (EngineLayout::VllmLbhnc, &RankShape { heads: 2..2, ..rank() }),
            (EngineLayout::VllmLbhnc, &RankShape { blocks: 0, ..rank() }),
            (EngineLayout::VllmLbhnc, &RankShape { layers: LayerSet::default(), ..rank() }),
            (EngineLayout::VllmLbhnc, &latent()),
            (EngineLayout::VllmLbhnc, &index),
            (EngineLayout::VllmLbhncMla, &index),
            (EngineLayout::VllmLbhncMla, &rank()),
            (EngineLayout::SglangMla, &RankShape { heads: 0..2, ..latent() }),
            (EngineLayout::SglangMla, &RankShape { rule: wide, ..latent() }),
            (EngineLayout::VllmLayerMla, &RankShape { page_bytes: Some(16 * 32 * 2), ..latent() }),
            (EngineLayout::VllmLbhncMla, &RankShape { page_bytes: Some(16 * 32 * 2 - 2), ..latent() }),
        ] {
            let error = layout.memory(shape).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Invalid, "{layout} {shape:?}");
        }
        assert!(EngineLayout::MistralRsStandard.memory(&two_sizes).is_ok());
        assert!(EngineLayout::VllmRocmLbhnc.memory(&padded(page + 64)).is_ok());
        // One head lies outside of no page: vLLM pads then.
        let one_head = RankShape { heads: 1..2, ..padded(page) };
        assert!(EngineLayout::VllmLhbnc.memory(&one_head).is_ok());
    }
}
