//! How one tensor is paged, as data: an affine map from (block, token, head, dim) to an element offset, in which each of the inner
//! dims may be split once. No engine layout needs more, and strided runs are derived from it without knowing its name.

use crate::{Error, Result};

/// Most elements that a tensor spans, and longest stride of any dim, of one too: far above any memory, and far enough below overflow
/// that plans multiply freely.
const MOST_ELEMENTS: u64 = 1 << 56;

/// Most pieces of a block's footprint, when tensors that interleave are proved to be apart.
const MOST_PIECES: usize = 1 << 20;

/// How an index of one dim becomes an offset in elements.
///
/// Unsplit, index `i` lies at `i * stride`. Split by `inner`, it lies at `(i / inner) * outer_stride + (i % inner) * stride`:
/// ROCm's x-packed K splits the head dim by 16 bytes' worth of elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Axis {
    /// Elements between neighbours, within a split group if there is a split.
    pub stride: u64,
    /// The split, if any.
    pub split: Option<Split>,
}

/// The split of a dim into groups.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Split {
    /// Length of a group; must divide the dim.
    pub inner: u32,
    /// Elements between neighbouring groups.
    pub outer_stride: u64,
}

impl Axis {
    /// An unsplit dim.
    pub const fn strided(stride: u64) -> Self {
        Self { stride, split: None }
    }

    /// A dim split into groups of `inner`.
    pub const fn split(inner: u32, outer_stride: u64, stride: u64) -> Self {
        Self { stride, split: Some(Split { inner, outer_stride }) }
    }

    /// Offset of index `i` in elements.
    pub fn offset(&self, i: u32) -> u64 {
        match self.split {
            None => u64::from(i) * self.stride,
            Some(Split { inner, outer_stride }) => {
                u64::from(i / inner) * outer_stride + u64::from(i % inner) * self.stride
            }
        }
    }
}

/// How one tensor (the K or the V of a layer) is paged. All strides are in elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PagingLayout {
    /// Elements between neighbouring blocks.
    pub block_stride: u64,
    /// The token within its block.
    pub token: Axis,
    /// The rank's KV head, from 0.
    pub head: Axis,
    /// The element of the head.
    pub dim: Axis,
}

impl PagingLayout {
    /// `[block, token, head, dim]`: token-major (NHD), as on Gaudi and in many CUDA engines.
    pub fn token_major(block_tokens: u32, heads: u32, dim: u32) -> Self {
        let (tokens, heads, dim) = (u64::from(block_tokens), u64::from(heads), u64::from(dim));
        Self {
            block_stride: tokens * heads * dim,
            token: Axis::strided(heads * dim),
            head: Axis::strided(dim),
            dim: Axis::strided(1),
        }
    }

    /// `[block, head, token, dim]`: head-major (HND).
    pub fn head_major(block_tokens: u32, heads: u32, dim: u32) -> Self {
        let (tokens, heads, dim) = (u64::from(block_tokens), u64::from(heads), u64::from(dim));
        Self {
            block_stride: tokens * heads * dim,
            token: Axis::strided(dim),
            head: Axis::strided(tokens * dim),
            dim: Axis::strided(1),
        }
    }

    /// `[block, head, dim / x, token, x]`: the x-packed K of ROCm paged attention; `x` is 16 bytes in elements.
    pub fn x_packed(block_tokens: u32, heads: u32, dim: u32, x: u32) -> Self {
        let (tokens, heads, dim) = (u64::from(block_tokens), u64::from(heads), u64::from(dim));
        Self {
            block_stride: tokens * heads * dim,
            token: Axis::strided(u64::from(x)),
            head: Axis::strided(tokens * dim),
            dim: Axis::split(x, tokens * u64::from(x), 1),
        }
    }

    /// `[block, head, dim, token]`: the transposed V of ROCm paged attention.
    pub fn transposed(block_tokens: u32, heads: u32, dim: u32) -> Self {
        let (tokens, heads, dim) = (u64::from(block_tokens), u64::from(heads), u64::from(dim));
        Self {
            block_stride: tokens * heads * dim,
            token: Axis::strided(1),
            head: Axis::strided(tokens * dim),
            dim: Axis::strided(tokens),
        }
    }

    /// Offset in elements of one element of the tensor.
    pub fn offset(&self, block: u32, token: u32, head: u32, dim: u32) -> u64 {
        u64::from(block) * self.block_stride
            + self.token.offset(token)
            + self.head.offset(head)
            + self.dim.offset(dim)
    }

    /// Elements from the first to behind the last one of a tensor with these extents, after proving that no two indices share an
    /// element: sorted by stride, each dim must step over all that the smaller ones reach.
    pub(crate) fn span(&self, blocks: u32, tokens: u32, heads: u32, dim: u32) -> Result<u64> {
        nested_span(&mut self.dims(blocks, tokens, heads, dim)?)
    }

    /// Contiguous intervals `(start, len)` in elements of one block's footprint.
    pub(crate) fn block_footprint(&self, tokens: u32, heads: u32, dim: u32) -> Result<Vec<(u64, u64)>> {
        let mut dims = self.dims(1, tokens, heads, dim)?;
        dims.sort_unstable_by_key(|&(stride, count)| (stride, count));
        let (mut len, mut starts) = (1, vec![0]);
        for (stride, count) in dims.into_iter().filter(|&(_, count)| count > 1) {
            if starts.len() == 1 && stride == len {
                len *= u64::from(count);
            } else {
                if starts.len().saturating_mul(count as usize) > MOST_PIECES {
                    return Err(Error::invalid(format!(
                        "a block has more than {MOST_PIECES} pieces between those of other tensors: give the tensors regions of their own"
                    )));
                }
                starts =
                    (0..count).flat_map(|i| starts.iter().map(move |s| s + u64::from(i) * stride)).collect();
            }
        }
        Ok(starts.into_iter().map(|start| (start, len)).collect())
    }

    /// Every dim as (stride, count), splits taken apart.
    fn dims(&self, blocks: u32, tokens: u32, heads: u32, dim: u32) -> Result<Vec<(u64, u32)>> {
        let mut dims = vec![(self.block_stride, blocks)];
        for (name, axis, count) in
            [("token", self.token, tokens), ("head", self.head, heads), ("dim", self.dim, dim)]
        {
            match axis.split {
                None => dims.push((axis.stride, count)),
                Some(Split { inner, outer_stride }) => {
                    if inner == 0 || !count.is_multiple_of(inner) {
                        return Err(Error::invalid(format!(
                            "the {name} dim of {count} is split by {inner}, which does not divide it"
                        )));
                    }
                    dims.push((axis.stride, inner));
                    dims.push((outer_stride, count / inner));
                }
            }
        }
        Ok(dims)
    }
}

/// Span of nested dims in elements; an error if two indices could share an element.
fn nested_span(dims: &mut [(u64, u32)]) -> Result<u64> {
    dims.sort_unstable();
    let too_long = |what: String| Error::invalid(format!("{what} exceeds {MOST_ELEMENTS} elements"));
    if let Some((stride, count)) = dims.last().filter(|(stride, _)| *stride > MOST_ELEMENTS) {
        return Err(too_long(format!("the stride {stride} of a dim of {count}")));
    }
    let mut span: u64 = 1;
    for &(stride, count) in dims.iter().filter(|(_, count)| *count > 1) {
        if stride < span {
            return Err(Error::invalid(format!(
                "two elements of the paging layout would share an address: a dim of {count} steps by {stride} elements over a span of {span}"
            )));
        }
        span = stride
            .checked_mul(u64::from(count - 1))
            .and_then(|reach| reach.checked_add(span))
            .filter(|span| *span <= MOST_ELEMENTS)
            .ok_or_else(|| too_long(format!("a dim of {count} with stride {stride}")))?;
    }
    Ok(span)
}
