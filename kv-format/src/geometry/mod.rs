//! Geometry: what is needed to find element (layer, K or V, token, head, dim) in one rank's share of an engine's paged KV memory.

mod named;
mod paging;

use std::ops::{Deref, Range};

pub use named::{EngineLayout, RankMemory, RankRegion, RankShape, RegionContents};
pub use paging::{Axis, PagingLayout, Split};

use crate::{Dtype, Error, Result, RopePairing};

/// K or V.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u16)]
pub enum TensorKind {
    /// Attention keys.
    Key = 1,
    /// Attention values.
    Value = 2,
}

impl TensorKind {
    /// Both, in the order in which an object holds them.
    pub const BOTH: [Self; 2] = [Self::Key, Self::Value];

    /// The header's number.
    pub fn code(self) -> u16 {
        self as u16
    }
}

/// Which of several ranks that hold the same KV heads this one is (tensor parallelism above the number of KV heads).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Replica {
    /// From 0, below `count`.
    pub index: u32,
    /// 1 if no other rank holds these heads.
    pub count: u32,
}

impl Replica {
    /// The only holder.
    pub const ONLY: Self = Self { index: 0, count: 1 };

    /// Whether this replica writes a slice of the chunk: one of them does, in turns.
    pub fn writes(&self, chunk_index: u32) -> bool {
        chunk_index % self.count == self.index
    }
}

/// Where the K or the V of one layer begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TensorBase {
    /// Index of the registered region.
    pub region: u32,
    /// Byte offset of element (block 0, token 0, head 0, dim 0).
    pub offset: u64,
}

/// The parts of a [`Geometry`], for construction.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct GeometryParts {
    /// Type of an element.
    pub dtype: Dtype,
    /// Which elements of a head are rotated together.
    pub rope: RopePairing,
    /// Layers of the model that this rank holds (pipeline parallelism).
    pub layers: Range<u32>,
    /// KV heads of the model that this rank holds (tensor parallelism).
    pub heads: Range<u32>,
    /// Which of the ranks with these heads this one is.
    pub replica: Replica,
    /// Elements of a head of K.
    pub key_dim: u32,
    /// Elements of a head of V.
    pub value_dim: u32,
    /// Tokens of a block.
    pub block_tokens: u32,
    /// Blocks of every tensor; block ids are below.
    pub blocks: u32,
    /// How each K is paged.
    pub key: PagingLayout,
    /// How each V is paged.
    pub value: PagingLayout,
    /// For each layer of `layers` its K, then its V.
    pub tensors: Vec<TensorBase>,
    /// Length in bytes of each region that the engine registers.
    pub regions: Vec<u64>,
}

/// A rank's paged KV memory, checked: every element lies in its region, and no two share a byte.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Geometry(GeometryParts);

impl Geometry {
    /// Checks that the parts agree.
    ///
    /// # Errors
    /// [`Invalid`](crate::ErrorKind::Invalid) naming the parts that contradict each other: an empty range, a tensor that leaves its
    /// region, two elements at one address.
    pub fn new(parts: GeometryParts) -> Result<Self> {
        let geometry = Self(parts);
        geometry.check_extents()?;
        let spans = [geometry.span(TensorKind::Key)?, geometry.span(TensorKind::Value)?];
        for (index, tensor) in geometry.tensors.iter().enumerate() {
            let len = geometry.regions.get(tensor.region as usize).ok_or_else(|| {
                Error::invalid(format!(
                    "tensor {index} lies in region {}, but there are {}",
                    tensor.region,
                    geometry.regions.len()
                ))
            })?;
            let end = spans[index % 2].checked_add(tensor.offset);
            if end.is_none_or(|end| end > *len) {
                return Err(Error::invalid(format!(
                    "tensor {index} needs {} bytes from offset {} of region {}, which has {len} bytes",
                    spans[index % 2],
                    tensor.offset,
                    tensor.region
                )));
            }
        }
        for region in 0..geometry.regions.len() {
            geometry.check_disjoint(region, spans)?;
        }
        Ok(geometry)
    }

    /// Elements of a head of K or V.
    pub fn dim(&self, kind: TensorKind) -> u32 {
        match kind {
            TensorKind::Key => self.key_dim,
            TensorKind::Value => self.value_dim,
        }
    }

    /// How K or V is paged.
    pub fn paging(&self, kind: TensorKind) -> &PagingLayout {
        match kind {
            TensorKind::Key => &self.key,
            TensorKind::Value => &self.value,
        }
    }

    /// Number of KV heads that the rank holds.
    pub fn head_count(&self) -> u32 {
        self.heads.end - self.heads.start
    }

    /// Where a layer's K or V begins; `None` for a layer of another rank.
    pub fn tensor(&self, layer: u32, kind: TensorKind) -> Option<TensorBase> {
        let index = layer.checked_sub(self.layers.start)? as usize;
        let within = usize::from(kind == TensorKind::Value);
        self.tensors.get(2 * index + within).copied()
    }

    /// Bytes from the first to behind the last element of a tensor.
    fn span(&self, kind: TensorKind) -> Result<u64> {
        let elements =
            self.paging(kind).span(self.blocks, self.block_tokens, self.head_count(), self.dim(kind))?;
        elements
            .checked_mul(u64::from(self.dtype.bytes()))
            .ok_or_else(|| Error::invalid("a tensor of the geometry exceeds the address space"))
    }

    fn check_extents(&self) -> Result<()> {
        let extents = [
            ("layers", self.layers.end.saturating_sub(self.layers.start)),
            ("heads", self.heads.end.saturating_sub(self.heads.start)),
            ("key_dim", self.key_dim),
            ("value_dim", self.value_dim),
            ("block_tokens", self.block_tokens),
            ("blocks", self.blocks),
        ];
        if let Some((name, _)) = extents.iter().find(|(_, extent)| *extent == 0) {
            return Err(Error::invalid(format!("geometry: {name} is empty")));
        }
        if self.replica.index >= self.replica.count {
            let Replica { index, count } = self.replica;
            return Err(Error::invalid(format!("geometry: replica {index} of {count}: indices start at 0")));
        }
        let expected = 2 * u64::from(self.layers.end - self.layers.start);
        if self.tensors.len() as u64 != expected {
            return Err(Error::invalid(format!(
                "geometry: {} tensor bases for layers {:?}: expected {expected}, a K and a V each",
                self.tensors.len(),
                self.layers
            )));
        }
        Ok(())
    }

    /// Proves that the tensors of a region do not overlap: their extents are apart, or they interleave with one block stride and
    /// their footprints within a block are apart.
    fn check_disjoint(&self, region: usize, spans: [u64; 2]) -> Result<()> {
        let mut tensors: Vec<(u64, u64, TensorKind)> = Vec::new();
        for (index, tensor) in
            self.tensors.iter().enumerate().filter(|(_, tensor)| tensor.region as usize == region)
        {
            tensors.push((tensor.offset, tensor.offset + spans[index % 2], TensorKind::BOTH[index % 2]));
        }
        tensors.sort_unstable();
        // Tensors whose extents meet, directly or through others, must interleave; such groups are independent of each other.
        let (mut first, mut reach) = (0, 0);
        for index in 0..=tensors.len() {
            let next = tensors.get(index);
            if next.is_none_or(|(start, ..)| *start >= reach) {
                self.check_interleaved(region, &tensors[first..index])?;
                first = index;
            }
            reach = next.map_or(reach, |(_, end, _)| reach.max(*end));
        }
        Ok(())
    }

    /// Proves that tensors whose extents meet take turns within the block stride.
    fn check_interleaved(&self, region: usize, tensors: &[(u64, u64, TensorKind)]) -> Result<()> {
        if tensors.len() < 2 {
            return Ok(());
        }
        let overlap = || {
            Error::invalid(format!(
                "geometry: tensors of region {region} overlap, or interleave with different block strides"
            ))
        };
        if self.key.block_stride != self.value.block_stride || self.key.block_stride == 0 {
            return Err(overlap());
        }
        let bytes = u64::from(self.dtype.bytes());
        let stride = self.key.block_stride * bytes;
        let mut folded = Vec::new();
        for &(offset, _, kind) in tensors {
            let mut own = Vec::new();
            for (start, len) in
                self.paging(kind).block_footprint(self.block_tokens, self.head_count(), self.dim(kind))?
            {
                let (start, len) = ((offset + start * bytes) % stride, len * bytes);
                let head = len.min(stride - start);
                own.push((start, head));
                own.push((0, len - head));
            }
            // What lies outside of the blocks (vLLM's LHBNC has heads there) folds onto itself. No tensor meets itself, which `span`
            // proved, so each is counted once.
            folded.append(&mut union(own));
        }
        if disjoint(folded) { Ok(()) } else { Err(overlap()) }
    }
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

impl Deref for Geometry {
    type Target = GeometryParts;

    fn deref(&self) -> &GeometryParts {
        &self.0
    }
}
