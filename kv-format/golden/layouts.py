#!/usr/bin/env python3
"""Golden index vectors of the engines' KV layouts, made by numpy from the engines' own expressions and by no code of ours.

    python3 layouts.py FOLDER

writes FOLDER/<layout>.txt for every named layout and FOLDER/latent/<layout>.txt for one that has no name yet: mistral.rs keeps a latent
and its rotary part in two allocations, which no single base and strides describe. The committed ones are in tests/golden/layouts; `cargo xtask golden` compares and tests/layouts.rs reads them.

How: memory whose elements are their own indices (`np.arange`) goes through the allocation, view, permute and split expressions that
the engine applies to its memory. Element [block, token, head, dim] of what comes out is then the index at which the engine keeps it.
`view` refuses to copy, as torch's does, so an expression that the engine could not have written fails here. Where a kernel computes
addresses itself, its formula is checked beside the view.

The expressions are cited by repository, file and name. Read as files: vllm-project/vllm (kv_cache_layout.py and
kv_cache_interface.py of 0.33, rocm_attn.py, rocm_aiter_fa.py from before), ROCm/vllm (paged_attn.py, flash_attn.py),
vllm-project/vllm-gaudi 0.24, sgl-project/sglang 0.5, EricLBuehler/mistral.rs 0.9. Read as excerpts: vLLM's flash_attn.py,
flashinfer.py, gpu_model_runner.py and kv_connector_model_runner_mixin.py from before packed contents, csrc/cache_kernels.cu, ROCm/aiter
cache_kernels.cu. Not seen, and taken from descriptions of the releases: the MLA shapes of vllm-gaudi and SGLang, SGLang 0.5.23's joint
allocation of K and V, and 0.33's own call of `unbind(1)` in rocm_aiter_fa.py (the same call was seen in vllm/models/minimax_m3).

File format, line by line; `#` begins a comment:

    case NAME
    dtype D | layers L | heads H | key-dim K | value-dim V | latent-dim C | rope-dim R | block-tokens N | blocks B | page-bytes P
    ids FIRST LAST                 block ids of the vectors that follow
    region INDEX ELEMENTS          length of an allocation in elements
    tensor LAYER KIND REGION       then, one line a block:
    ID FIRST DELTA*COUNT ...       indices [token][head][dim] in elements of the region: the first, then differences run by run
"""

import pathlib
import sys

import numpy as np

DTYPE_BYTES = {"bf16": 2, "e4m3fnuz": 1, "e4m3fn": 1}


def view(array, *shape):
    """torch.Tensor.view: never a copy."""
    return np.reshape(array, shape, copy=False)


def permute(array, order):
    """torch.Tensor.permute."""
    return np.transpose(array, order)


class Rank:
    """Extents of one rank."""

    def __init__(self, dtype, heads, key_dim, value_dim, block, page_bytes=None, layers=2, blocks=3, latent=None):
        self.dtype, self.heads, self.key_dim, self.value_dim = dtype, heads, key_dim, value_dim
        self.block, self.page_bytes, self.layers, self.blocks, self.latent = block, page_bytes, layers, blocks, latent
        self.element_size = DTYPE_BYTES[dtype]
        self.x = 16 // self.element_size


class Vectors:
    """Indices of one case: regions, and for each (layer, kind) an array [block, token, head, dim]."""

    def __init__(self, rank, first_id=0):
        self.rank, self.first_id, self.regions, self.tensors = rank, first_id, [], []

    def allocate(self, *shape):
        """An allocation of the engine: torch.zeros(shape), whose elements are their own indices here."""
        self.regions.append(int(np.prod(shape)))
        return np.arange(self.regions[-1], dtype=np.int64).reshape(shape)

    def add(self, layer, kind, indices):
        """The indices of a tensor in the allocation made last."""
        shape = (self.rank.blocks, self.rank.block, self.rank.heads)
        assert indices.shape[:3] == shape, (indices.shape, shape)
        self.tensors.append((layer, kind, len(self.regions) - 1, indices))


# --- K and V views of attention kernels, as [block, token, head, dim] ------------------------------------------------------------


def from_x_packed(key_cache):
    """[B, H, D/x, N, x] -> [B, N, H, D]. Element d of a head is element d % x of its group d // x."""
    blocks, heads, groups, tokens, x = key_cache.shape
    indices = permute(key_cache, (0, 3, 1, 2, 4)).reshape(blocks, tokens, heads, groups * x)
    # vLLM csrc/cache_kernels.cu, reshape_and_cache_kernel (tgt_key_idx), for dense blocks.
    if key_cache.strides[0] == heads * groups * tokens * x * key_cache.itemsize:
        b, t, h, d = np.indices(indices.shape)
        formula = b * heads * groups * tokens * x + h * groups * tokens * x + d // x * tokens * x + t * x + d % x
        assert (indices == indices.flat[0] + formula).all()
    return indices


def from_transposed(value_cache):
    """[B, H, D, N] -> [B, N, H, D]."""
    blocks, heads, dim, tokens = value_cache.shape
    indices = permute(value_cache, (0, 3, 1, 2))
    # vLLM csrc/cache_kernels.cu, reshape_and_cache_kernel (tgt_value_idx), for dense blocks.
    if value_cache.strides[0] == heads * dim * tokens * value_cache.itemsize:
        b, t, h, d = np.indices(indices.shape)
        formula = b * heads * dim * tokens + h * dim * tokens + d * tokens + t
        assert (indices == indices[0, 0, 0, 0] + formula).all()
    return indices


def from_shuffled(value_cache):
    """[B, H, N/x, D, x] -> [B, N, H, D]. Token n of a block is token n % x of its group n // x."""
    blocks, heads, groups, dim, x = value_cache.shape
    indices = permute(value_cache, (0, 2, 4, 1, 3)).reshape(blocks, groups * x, heads, dim)
    # vLLM rocm_aiter_fa.py, reshape_and_cache_shuffle_kernel (dst_v_shuffle_offset); ROCm/aiter csrc/kernels/cache_kernels.cu,
    # reshape_and_cache_kernel with asmLayout, for dense blocks.
    if value_cache.strides[0] == heads * groups * dim * x * value_cache.itemsize:
        b, t, h, d = np.indices(indices.shape)
        formula = b * heads * dim * groups * x + h * dim * groups * x + t // x * dim * x + d * x + t % x
        assert (indices == indices.flat[0] + formula).all()
    return indices


def split_kv_cache(kv_cache, rank):
    """vLLM vllm/v1/attention/ops/paged_attn.py (before: vllm/attention/ops/paged_attn.py), PagedAttention.split_kv_cache."""
    num_blocks = kv_cache.shape[1]
    key_cache = view(kv_cache[0], num_blocks, rank.heads, rank.key_dim // rank.x, -1, rank.x)
    value_cache = view(kv_cache[1], num_blocks, rank.heads, rank.key_dim, -1)
    return from_x_packed(key_cache), from_transposed(value_cache)


def view_as_shuffle(key_cache, value_cache, rank):
    """vLLM rocm_aiter_fa.py, reshape_and_cache_shuffle_triton: key_cache.view_as(k_cache_template), the same of V."""
    blocks, x = key_cache.shape[0], rank.x
    new_key_cache = view(key_cache, blocks, rank.heads, rank.key_dim // x, rank.block, x)
    new_value_cache = view(value_cache, blocks, rank.heads, rank.block // x, rank.key_dim, x)
    return from_x_packed(new_key_cache), from_shuffled(new_value_cache)


# --- vLLM 0.33: one allocation for all layers, logically [L, B, H, N, C] ---------------------------------------------------------

# vLLM vllm/v1/kv_cache_layout.py, KVCacheLayout: the physical order of the logical axes L 0, B 1, H 2, N 3, C 4.
KV_CACHE_LAYOUT = {
    "lbhnc": (0, 1, 2, 3, 4),
    "lbnhc": (0, 1, 3, 2, 4),
    "lhbnc": (0, 2, 1, 3, 4),
    "blhnc": (1, 0, 2, 3, 4),
    "blnhc": (1, 0, 3, 2, 4),
    "bhlnc": (1, 2, 0, 3, 4),
}


def logical_view(vectors, layout, num_heads, content):
    """vLLM vllm/v1/kv_cache_interface.py, compute_layout_strides and create_kv_cache_views, as the physical array that they stride.

    The physical array has the layout's order of axes and is seen through the inverse permutation. With page_size_padded, the stride
    of the innermost of L and B becomes the padded page, and every axis outside of it but L and B has to be 1.
    """
    rank = vectors.rank
    order = KV_CACHE_LAYOUT[layout]
    shape = (rank.layers, rank.blocks, num_heads, rank.block, content)
    physical_shape = tuple(shape[axis] for axis in order)
    inverse = tuple(order.index(axis) for axis in range(5))
    if rank.page_bytes is None:
        return permute(vectors.allocate(*physical_shape), inverse)
    page_grid_end = max(order.index(0), order.index(1)) + 1
    grid, tail = physical_shape[:page_grid_end], physical_shape[page_grid_end:]
    assert np.prod(grid) == rank.layers * rank.blocks, "page padding requires axes outside of the page to be L, B or 1"
    assert rank.page_bytes % rank.element_size == 0
    pages = vectors.allocate(*grid, rank.page_bytes // rank.element_size)
    return permute(view(pages[..., : np.prod(tail)], *grid, *tail), inverse)


def vllm_packed(layout, rank):
    """K and V packed in the content dim: AttentionSpec.state_content_size_bytes is (head_size + head_size_v) elements."""
    vectors = Vectors(rank)
    logical = logical_view(vectors, layout, rank.heads, rank.key_dim + rank.value_dim)
    for layer in range(rank.layers):
        kv_cache = logical[layer]
        # vLLM flash_attn.py, triton_attn.py: kv_cache.transpose(1, 2).split(head_size, dim=-1).
        key_cache, value_cache = np.split(kv_cache.swapaxes(1, 2), [rank.key_dim], axis=-1)
        vectors.add(layer, "key", key_cache)
        vectors.add(layer, "value", value_cache)
    return vectors


def vllm_rocm_slots(layout, rank):
    """vLLM rocm_attn.py: customize_spec has num_head_slots=2 and contents of num_kv_heads * head_size; forward calls
    split_kv_cache(kv_cache.transpose(0, 1), ...)."""
    vectors = Vectors(rank)
    logical = logical_view(vectors, layout, 2, rank.heads * rank.key_dim)
    for layer in range(rank.layers):
        key_cache, value_cache = split_kv_cache(logical[layer].swapaxes(0, 1), rank)
        vectors.add(layer, "key", key_cache)
        vectors.add(layer, "value", value_cache)
    return vectors


def vllm_shuffle_slots(layout, rank):
    """vLLM rocm_aiter_fa.py with VLLM_ROCM_SHUFFLE_KV_CACHE_LAYOUT=1: two head slots, kv_cache.unbind(1), then view_as."""
    vectors = Vectors(rank)
    logical = logical_view(vectors, layout, 2, rank.heads * rank.key_dim)
    for layer in range(rank.layers):
        kv_cache = logical[layer]
        key_cache, value_cache = view_as_shuffle(kv_cache[:, 0], kv_cache[:, 1], rank)
        vectors.add(layer, "key", key_cache)
        vectors.add(layer, "value", value_cache)
    return vectors


# --- vLLM before 0.33: one allocation per layer, or for all layers where a connector asked for it --------------------------------


def reshape_kv_cache(vectors, shape, stride_order):
    """vLLM vllm/v1/worker/gpu_model_runner.py, _reshape_kv_cache_tensors:
    raw.view(dtype).view(tuple(shape[i] for i in stride_order)).permute(*inv_order)."""
    inv_order = [stride_order.index(i) for i in range(len(stride_order))]
    return permute(vectors.allocate(*(shape[i] for i in stride_order)), inv_order)


def vllm_kv_first(stride_order, rank):
    """vLLM flash_attn.py: get_kv_cache_shape is (2, num_blocks, block_size, num_kv_heads, head_size); kv_cache.unbind(0).
    get_kv_cache_stride_order: NHD (0, 1, 2, 3, 4), HND (0, 1, 3, 2, 4)."""
    vectors = Vectors(rank)
    for layer in range(rank.layers):
        shape = (2, rank.blocks, rank.block, rank.heads, rank.key_dim)
        kv_cache = reshape_kv_cache(vectors, shape, stride_order)
        vectors.add(layer, "key", kv_cache[0])
        vectors.add(layer, "value", kv_cache[1])
    return vectors


def vllm_block_first(stride_order, rank):
    """vLLM flashinfer.py: get_kv_cache_shape is (num_blocks, 2, block_size, num_kv_heads, head_size); kv_cache[:, 0], [:, 1].
    get_kv_cache_stride_order: NHD (0, 1, 2, 3, 4), HND (0, 1, 3, 2, 4)."""
    vectors = Vectors(rank)
    for layer in range(rank.layers):
        shape = (rank.blocks, 2, rank.block, rank.heads, rank.key_dim)
        kv_cache = reshape_kv_cache(vectors, shape, stride_order)
        vectors.add(layer, "key", kv_cache[:, 0])
        vectors.add(layer, "value", kv_cache[:, 1])
    return vectors


def vllm_layer_packed(stride_order, rank):
    """vLLM flash_attn.py with packed contents, an allocation per layer: get_kv_cache_shape is (num_blocks, num_kv_heads, block_size,
    2 * head_size); get_kv_cache_stride_order: HND (0, 1, 2, 3), NHD (0, 2, 1, 3); kv_cache.transpose(1, 2).split(head_size, dim=-1).
    With two head sizes flash_attn_diffkv.py has head_size + head_size_v elements, K first."""
    vectors = Vectors(rank)
    for layer in range(rank.layers):
        shape = (rank.blocks, rank.heads, rank.block, rank.key_dim + rank.value_dim)
        kv_cache = reshape_kv_cache(vectors, shape, stride_order)
        key_cache, value_cache = np.split(kv_cache.swapaxes(1, 2), [rank.key_dim], axis=-1)
        vectors.add(layer, "key", key_cache)
        vectors.add(layer, "value", value_cache)
    return vectors


def vllm_cross_layer(stride_order, rank):
    """vLLM vllm/v1/worker/kv_connector_model_runner_mixin.py, allocate_uniform_kv_caches: (num_layers,) + get_kv_cache_shape in the
    stride order with layers, permuted back, tensor[layer]. flashinfer.py, get_kv_cache_stride_order(include_num_layers_dimension):
    NHD (1, 0, 2, 3, 4, 5), HND (1, 2, 4, 0, 3, 5)."""
    vectors = Vectors(rank)
    shape = (rank.layers, rank.blocks, 2, rank.block, rank.heads, rank.key_dim)
    kv_caches = reshape_kv_cache(vectors, shape, stride_order)
    for layer in range(rank.layers):
        vectors.add(layer, "key", kv_caches[layer][:, 0])
        vectors.add(layer, "value", kv_caches[layer][:, 1])
    return vectors


def vllm_kv_first_rocm(rank):
    """vLLM vllm/attention/ops/paged_attn.py: get_kv_cache_shape is (2, num_blocks, block_size * num_kv_heads * head_size)."""
    vectors = Vectors(rank)
    for layer in range(rank.layers):
        kv_cache = vectors.allocate(2, rank.blocks, rank.block * rank.heads * rank.key_dim)
        key_cache, value_cache = split_kv_cache(kv_cache, rank)
        vectors.add(layer, "key", key_cache)
        vectors.add(layer, "value", value_cache)
    return vectors


def vllm_kv_first_shuffle(rank):
    """vLLM rocm_aiter_fa.py before packed contents: get_kv_cache_shape as flash_attn.py; kv_cache.unbind(0), then view_as."""
    vectors = Vectors(rank)
    for layer in range(rank.layers):
        kv_cache = vectors.allocate(2, rank.blocks, rank.block, rank.heads, rank.key_dim)
        key_cache, value_cache = view_as_shuffle(kv_cache[0], kv_cache[1], rank)
        vectors.add(layer, "key", key_cache)
        vectors.add(layer, "value", value_cache)
    return vectors


# --- Engines with K and V apart --------------------------------------------------------------------------------------------------


def vllm_gaudi(rank):
    """vllm-gaudi hpu_paged_attn.py: get_kv_cache_shape is (num_blocks * block_size, num_kv_heads, head_size), called with
    num_blocks + 1 by hpu_model_runner.py, initialize_kv_cache (_PAD_BLOCK_ID is num_blocks); get_kv_caches_4D:
    cache.view(-1, block_size, *cache.shape[1:])[:num_blocks]."""
    vectors = Vectors(rank)
    for layer in range(rank.layers):
        for kind in ("key", "value"):
            cache = vectors.allocate((rank.blocks + 1) * rank.block, rank.heads, rank.key_dim)
            cache_4d = view(cache, -1, rank.block, *cache.shape[1:])[: rank.blocks]
            vectors.add(layer, kind, cache_4d)
    return vectors


def sglang(layout, rank):
    """SGLang python/sglang/srt/mem_cache/memory_pool.py, MHATokenToKVPool: _kv_buffer_shapes and _create_buffers_normal. Slot
    page * page_size + offset; the slots of page 0 take dummy writes, so tokens live in pages 1 to size / page_size."""
    vectors = Vectors(rank, first_id=1)
    pages = rank.blocks + 1
    for layer in range(rank.layers):
        for kind, dim in (("key", rank.key_dim), ("value", rank.value_dim)):
            if layout == "nhd":
                size = rank.blocks * rank.block
                slots = vectors.allocate(size + rank.block, rank.heads, dim)
                indices = view(slots, pages, rank.block, rank.heads, dim)
            elif layout == "hnd":
                indices = permute(vectors.allocate(pages, rank.heads, rank.block, dim), (0, 2, 1, 3))
            elif kind == "key":
                indices = from_x_packed(vectors.allocate(pages, rank.heads, dim // rank.x, rank.block, rank.x))
            else:
                indices = from_shuffled(vectors.allocate(pages, rank.heads, rank.block // rank.x, dim, rank.x))
            vectors.add(layer, kind, indices[1:])
    return vectors


def mistralrs_standard(rank):
    """mistral.rs mistralrs-core/src/paged_attention/cache_engine.rs: calculate_key_block_shape, calculate_value_block_shape."""
    vectors = Vectors(rank)
    for layer in range(rank.layers):
        key_blocks = vectors.allocate(rank.blocks, rank.heads, rank.key_dim // rank.x, rank.block, rank.x)
        vectors.add(layer, "key", from_x_packed(key_blocks))
        value_blocks = vectors.allocate(rank.blocks, rank.heads, rank.value_dim, rank.block)
        vectors.add(layer, "value", from_transposed(value_blocks))
    return vectors


def mistralrs_hnd(rank):
    """The same file, KvCacheLayout::FlashInferHnd: calculate_flashinfer_block_shape for both."""
    vectors = Vectors(rank)
    for layer in range(rank.layers):
        for kind in ("key", "value"):
            blocks = vectors.allocate(rank.blocks, rank.heads, rank.block, rank.key_dim)
            vectors.add(layer, kind, permute(blocks, (0, 2, 1, 3)))
    return vectors


# --- Latent attention (MLA): one row of latent and rope elements per token --------------------------------------------------------


def latent_layers(rank, first_id, allocate):
    """One allocation per layer that `allocate(vectors)` turns into [block, token, 1, latent + rope]."""
    vectors = Vectors(rank, first_id)
    for layer in range(rank.layers):
        vectors.add(layer, "latent", allocate(vectors))
    return vectors


def vllm_layer_mla(rank):
    """vLLM vllm/v1/attention/backends/mla/common.py: get_kv_cache_shape is (num_blocks, block_size, head_size), head_size 512 + 64."""
    return latent_layers(rank, 0, lambda v: v.allocate(rank.blocks, rank.block, sum(rank.latent))[:, :, None])


def vllm_mla(layout, rank):
    """vLLM 0.33 MLAAttentionSpec: one head, head_size_v 0, so the contents are one latent row."""
    vectors = Vectors(rank)
    logical = logical_view(vectors, layout, 1, sum(rank.latent))
    for layer in range(rank.layers):
        vectors.add(layer, "latent", logical[layer].swapaxes(1, 2))
    return vectors


def vllm_gaudi_mla(rank):
    """vllm-gaudi: get_kv_cache_shape of the MLA backend is (num_blocks * block_size, 576), with num_blocks + 1; V is None."""

    def allocate(vectors):
        cache = vectors.allocate((rank.blocks + 1) * rank.block, sum(rank.latent))
        return view(cache, -1, rank.block, 1, sum(rank.latent))[: rank.blocks]

    return latent_layers(rank, 0, allocate)


def sglang_mla(rank):
    """SGLang memory_pool.py, MLATokenToKVPool: (size + page_size, 1, kv_lora_rank + qk_rope_head_dim)."""

    def allocate(vectors):
        slots = vectors.allocate(rank.blocks * rank.block + rank.block, 1, sum(rank.latent))
        return view(slots, -1, rank.block, 1, sum(rank.latent))[1:]

    return latent_layers(rank, 1, allocate)


def mistralrs_mla(rank):
    """mistral.rs cache_engine.rs, KvCacheLayout::Mla: (num_blocks, block_size, kv_lora_rank) and (.., kpe_head_dim)."""
    vectors = Vectors(rank)
    for layer in range(rank.layers):
        for kind, dim in zip(("latent", "rope"), rank.latent):
            vectors.add(layer, kind, vectors.allocate(rank.blocks, rank.block, dim)[:, :, None])
    return vectors


# --- Cases ---------------------------------------------------------------------------------------------------------------------------


def cases():
    """(layout, case, vectors) of every named layout. Heads of K and V differ in size where the engine has two sizes."""
    for layout in KV_CACHE_LAYOUT:
        name = f"vllm-{layout}"
        yield name, "bf16", vllm_packed(layout, Rank("bf16", 3, 16, 32, 16))
        yield name, "e4m3fnuz-one-head", vllm_packed(layout, Rank("e4m3fnuz", 1, 32, 16, 32))
        # 128 bytes behind the contents of each page; with several heads outside of it, vLLM does not pad.
        heads = 1 if layout in ("lhbnc", "bhlnc") else 2
        page = heads * 16 * (32 + 16) * 2 + 128
        yield name, "bf16-padded", vllm_packed(layout, Rank("bf16", heads, 32, 16, 16, page_bytes=page))
    for layout in ("lhbnc", "lbhnc"):
        for name, make in (("rocm", vllm_rocm_slots), ("shuffle", vllm_shuffle_slots)):
            yield f"vllm-{name}-{layout}", "bf16", make(layout, Rank("bf16", 3, 16, 16, 16))
            yield f"vllm-{name}-{layout}", "e4m3fnuz", make(layout, Rank("e4m3fnuz", 2, 32, 32, 32))
    for name, make in (("rocm", vllm_rocm_slots), ("shuffle", vllm_shuffle_slots)):
        page = 2 * 16 * 2 * 16 * 2 + 32
        yield f"vllm-{name}-lbhnc", "bf16-padded", make("lbhnc", Rank("bf16", 2, 16, 16, 16, page_bytes=page))
    yield "vllm-layer-hnd", "bf16", vllm_layer_packed((0, 1, 2, 3), Rank("bf16", 3, 16, 32, 16))
    yield "vllm-layer-nhd", "bf16", vllm_layer_packed((0, 2, 1, 3), Rank("bf16", 3, 16, 32, 16))
    yield "vllm-cross-layer-nhd", "bf16", vllm_cross_layer((1, 0, 2, 3, 4, 5), Rank("bf16", 3, 16, 16, 16))
    yield "vllm-cross-layer-hnd", "bf16", vllm_cross_layer((1, 2, 4, 0, 3, 5), Rank("bf16", 3, 16, 16, 16))
    nhd, hnd = (0, 1, 2, 3, 4), (0, 1, 3, 2, 4)
    for order_name, order in (("nhd", nhd), ("hnd", hnd)):
        yield f"vllm-kv-first-{order_name}", "bf16", vllm_kv_first(order, Rank("bf16", 3, 16, 16, 16))
        yield f"vllm-block-first-{order_name}", "bf16", vllm_block_first(order, Rank("bf16", 3, 16, 16, 16))
    for name, make in (("rocm", vllm_kv_first_rocm), ("shuffle", vllm_kv_first_shuffle)):
        yield f"vllm-kv-first-{name}", "bf16", make(Rank("bf16", 3, 16, 16, 16))
        yield f"vllm-kv-first-{name}", "e4m3fnuz", make(Rank("e4m3fnuz", 2, 32, 32, 32))
    yield "vllm-gaudi", "bf16", vllm_gaudi(Rank("bf16", 3, 16, 16, 128))
    yield "vllm-gaudi", "e4m3fn", vllm_gaudi(Rank("e4m3fn", 1, 32, 32, 128))
    for layout, name in (("nhd", "nhd"), ("hnd", "hnd"), ("vectorized_5d", "vectorized-5d")):
        yield f"sglang-{name}", "bf16", sglang(layout, Rank("bf16", 3, 16, 32, 16))
    yield "sglang-vectorized-5d", "e4m3fnuz", sglang("vectorized_5d", Rank("e4m3fnuz", 2, 32, 16, 64))
    yield "sglang-nhd", "bf16-page-1", sglang("nhd", Rank("bf16", 2, 16, 16, 1, blocks=9))
    yield "mistralrs-standard", "bf16", mistralrs_standard(Rank("bf16", 3, 32, 16, 32))
    yield "mistralrs-standard", "e4m3fn", mistralrs_standard(Rank("e4m3fn", 2, 32, 16, 16))
    yield "mistralrs-hnd", "bf16", mistralrs_hnd(Rank("bf16", 3, 32, 32, 16))


def latent_cases():
    """(layout, case, vectors) of latent attention: 32 + 8 elements stand for 512 + 64."""

    def rank(block, page_bytes=None, dtype="bf16"):
        return Rank(dtype, 1, 0, 0, block, latent=(32, 8), page_bytes=page_bytes)

    yield "vllm-layer-mla", "bf16", vllm_layer_mla(rank(16))
    for layout in ("lbhnc", "blhnc"):
        yield f"vllm-{layout}-mla", "bf16", vllm_mla(layout, rank(16))
        yield f"vllm-{layout}-mla", "bf16-padded", vllm_mla(layout, rank(16, page_bytes=16 * 40 * 2 + 64))
    yield "vllm-gaudi-mla", "bf16", vllm_gaudi_mla(rank(128))
    yield "vllm-gaudi-mla", "e4m3fn", vllm_gaudi_mla(rank(128, dtype="e4m3fn"))
    yield "sglang-mla", "bf16", sglang_mla(rank(16))
    yield "sglang-mla", "bf16-page-1", sglang_mla(rank(1))


def latent_cases_apart():
    """The same where latent and rotary part are allocations of their own."""
    yield "mistralrs-mla", "bf16", mistralrs_mla(Rank("bf16", 1, 0, 0, 16, latent=(32, 8)))


# --- Files ---------------------------------------------------------------------------------------------------------------------------


def runs(indices):
    """The first index, then the differences of neighbours as DELTA*COUNT."""
    flat = indices.reshape(-1)
    words = [str(flat[0])]
    deltas = np.diff(flat)
    starts = np.flatnonzero(np.concatenate(([True], deltas[1:] != deltas[:-1]))) if len(deltas) else []
    ends = [*starts[1:], len(deltas)]
    words += [f"{deltas[start]}*{end - start}" for start, end in zip(starts, ends)]
    return " ".join(words)


def text(case, vectors):
    """One case as text."""
    rank = vectors.rank
    lines = [f"case {case}", f"dtype {rank.dtype}", f"layers {rank.layers}"]
    if rank.latent:
        lines += [f"latent-dim {rank.latent[0]}", f"rope-dim {rank.latent[1]}"]
    else:
        lines += [f"heads {rank.heads}", f"key-dim {rank.key_dim}", f"value-dim {rank.value_dim}"]
    lines += [f"block-tokens {rank.block}", f"blocks {rank.blocks}"]
    if rank.page_bytes is not None:
        lines.append(f"page-bytes {rank.page_bytes}")
    lines.append(f"ids {vectors.first_id} {vectors.first_id + rank.blocks - 1}")
    lines += [f"region {index} {elements}" for index, elements in enumerate(vectors.regions)]
    for layer, kind, region, indices in vectors.tensors:
        lines.append(f"tensor {layer} {kind} {region}")
        lines += [f"{vectors.first_id + block} {runs(indices[block])}" for block in range(rank.blocks)]
    return "\n".join(lines) + "\n"


def distinct(name, vectors):
    """No two elements of an engine's memory share an index, and each has one."""
    for region, elements in enumerate(vectors.regions):
        used = np.concatenate([indices.reshape(-1) for _, _, where, indices in vectors.tensors if where == region])
        assert len(np.unique(used)) == len(used), name
        assert 0 <= used.min() and used.max() < elements, name


def main(folder):
    files = {}
    for subfolder, made in (("", cases()), ("", latent_cases()), ("latent/", latent_cases_apart())):
        for layout, case, vectors in made:
            distinct(f"{layout} {case}", vectors)
            files.setdefault(f"{subfolder}{layout}.txt", []).append(text(case, vectors))
    for path, parts in files.items():
        target = pathlib.Path(folder) / path
        target.parent.mkdir(parents=True, exist_ok=True)
        head = "# Made by golden/layouts.py, which says how to read it. Not written by hand.\n"
        target.write_text(head + "".join(parts))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: layouts.py FOLDER")
    main(sys.argv[1])
