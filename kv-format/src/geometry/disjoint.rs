//! Proof that no two tensors of a rank share a byte.

use super::{Geometry, TensorGeometry};
use crate::{Error, Result};

/// Most pieces that the blocks of all tensors are cut into, those of each layer counted: a few times what a model has whose layers, heads
/// and tokens all take turns, and proved in a second.
const MOST_PIECES: usize = 1 << 21;

/// One layer's tensor in a region.
struct Placed<'a> {
    start: u64,
    end: u64,
    geometry: &'a Geometry,
    tensor: &'a TensorGeometry,
}

impl Placed<'_> {
    /// Bytes from one block to the next, if the tensor has more than one.
    fn block_stride(&self) -> Option<u64> {
        let [blocks, ..] = self.geometry.extents(self.tensor);
        (blocks > 1)
            .then_some(self.tensor.paging.block_stride * self.geometry.element_bytes(self.tensor.kind))
    }

    /// Contiguous intervals (start in the region, bytes) of its first block.
    fn footprint(&self) -> Result<Vec<(u64, u64)>> {
        let bytes = self.geometry.element_bytes(self.tensor.kind);
        let [_, rows, heads, dim] = self.geometry.extents(self.tensor);
        let runs = self.tensor.paging.block_footprint(rows, heads, dim)?;
        Ok(runs.into_iter().map(|(start, len)| (self.start + start * bytes, len * bytes)).collect())
    }
}

/// Proves that no two tensors of these geometries, which have the same regions, share a byte: their extents are apart, or they
/// interleave with one block stride and their footprints within a block are apart.
pub(super) fn check(geometries: &[&Geometry]) -> Result<()> {
    let regions = geometries.first().map_or(0, |first| first.regions.len());
    let mut placed: Vec<Vec<Placed<'_>>> = (0..regions).map(|_| Vec::new()).collect();
    for geometry in geometries {
        for tensor in &geometry.tensors {
            let span = geometry.span(tensor)?;
            for base in &tensor.bases {
                if let Some(region) = placed.get_mut(base.region as usize) {
                    let (start, end) = (base.offset, base.offset.saturating_add(span));
                    region.push(Placed { start, end, geometry, tensor });
                }
            }
        }
    }
    let mut pieces = MOST_PIECES;
    for (region, tensors) in placed.iter_mut().enumerate() {
        tensors.sort_unstable_by_key(|tensor| (tensor.start, tensor.end));
        // Tensors whose extents meet, directly or through others, must interleave; such clusters are independent of each other.
        let (mut first, mut reach) = (0, 0);
        for index in 0..=tensors.len() {
            let next = tensors.get(index);
            if next.is_none_or(|next| next.start >= reach) {
                check_interleaved(region, &tensors[first..index], &mut pieces)?;
                first = index;
            }
            reach = next.map_or(reach, |next| reach.max(next.end));
        }
    }
    Ok(())
}

/// Proves that tensors whose extents meet take turns within the block stride. One that has a single block may lie in any block's gap:
/// it is held against every block. `pieces` is how many more the blocks may have.
fn check_interleaved(region: usize, tensors: &[Placed<'_>], pieces: &mut usize) -> Result<()> {
    if tensors.len() < 2 {
        return Ok(());
    }
    let overlap = || {
        Error::invalid(format!(
            "geometry: tensors of region {region} overlap, or interleave with different block strides"
        ))
    };
    let mut strides = tensors.iter().filter_map(Placed::block_stride);
    let stride = strides.next();
    if stride == Some(0) || strides.any(|other| Some(other) != stride) {
        return Err(overlap());
    }
    let mut taken = Vec::new();
    for tensor in tensors {
        let footprint = tensor.footprint()?;
        *pieces = pieces.checked_sub(footprint.len()).ok_or_else(|| {
            Error::invalid(format!(
                "geometry: the blocks of tensors that take turns have more than {MOST_PIECES} pieces: give the tensors regions of their own"
            ))
        })?;
        let mut own = Vec::new();
        for (start, len) in footprint {
            let Some(stride) = stride else {
                own.push((start, len));
                continue;
            };
            if len > stride {
                return Err(overlap());
            }
            let start = start % stride;
            let head = len.min(stride - start);
            own.push((start, head));
            own.push((0, len - head));
        }
        // What lies outside of the blocks (vLLM's LHBNC has heads there) folds onto itself. No tensor meets itself, which `span`
        // proved, so each is counted once.
        taken.append(&mut union(own));
    }
    if disjoint(taken) { Ok(()) } else { Err(overlap()) }
}

/// The same bytes as intervals that do not overlap.
fn union(mut intervals: Vec<(u64, u64)>) -> Vec<(u64, u64)> {
    intervals.sort_unstable();
    let mut apart: Vec<(u64, u64)> = Vec::with_capacity(intervals.len());
    for (start, len) in intervals {
        match apart.last_mut() {
            Some((last, reach)) if start <= *last + *reach => *reach = (*reach).max(start + len - *last),
            _ => apart.push((start, len)),
        }
    }
    apart
}

/// Whether no two intervals `(start, len)` share a byte.
fn disjoint(mut intervals: Vec<(u64, u64)>) -> bool {
    intervals.retain(|(_, len)| *len > 0);
    intervals.sort_unstable();
    intervals.windows(2).all(|pair| matches!(pair, [(start, len), (next, _)] if start + len <= *next))
}
