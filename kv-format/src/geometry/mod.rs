//! Geometry: what is needed to find element (layer, kind, token, head, dim) of one KV group in one rank's share of an engine's paged
//! memory.

mod disjoint;
mod named;
mod paging;
mod parts;

use std::ops::{Deref, Range};

pub use named::{EngineLayout, RankMemory, RankRegion, RankShape, RegionContents};
pub use paging::{Axis, PagingLayout, Split};
pub use parts::{AttentionParts, GeometryParts, Replica, TensorBase, TensorGeometry};

use crate::{Dtype, Error, Result, Scales, TensorKind};

/// One KV group of a rank's paged memory, checked: every element lies in its region, and no two share a byte.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Geometry(GeometryParts);

/// The rows of a section: row `r` is row `r % per_block` of the block with the id `blocks[r / per_block]`.
#[derive(Debug, Clone)]
pub(crate) struct Rows<'a> {
    pub(crate) rows: Range<u32>,
    pub(crate) per_block: u32,
    pub(crate) blocks: &'a [u32],
}

impl Geometry {
    /// Checks that the parts agree.
    ///
    /// # Errors
    /// [`Invalid`](crate::ErrorKind::Invalid) naming the parts that contradict each other: an empty range, kinds that are no KV group,
    /// a tensor that leaves its region, two elements at one address, tensors that take turns in more than two million pieces.
    pub fn new(parts: impl Into<GeometryParts>) -> Result<Self> {
        let geometry = Self(parts.into());
        geometry.check_extents()?;
        geometry.check_kinds()?;
        for tensor in &geometry.tensors {
            geometry.check_places(tensor)?;
        }
        disjoint::check(&[&geometry])?;
        Ok(geometry)
    }

    /// Checks that the geometries of one rank, one for each KV group, describe the same regions and share no byte of them.
    ///
    /// # Errors
    /// [`Invalid`](crate::ErrorKind::Invalid) naming what contradicts: other regions, a group twice, tensors that overlap.
    pub fn check_together(geometries: &[Self]) -> Result<()> {
        for (index, geometry) in geometries.iter().enumerate() {
            let before = &geometries[..index];
            if before.iter().any(|other| other.group == geometry.group) {
                return Err(Error::invalid(format!("two geometries describe KV group {}", geometry.group)));
            }
            if let Some(other) = before.iter().find(|other| other.regions != geometry.regions) {
                return Err(Error::invalid(format!(
                    "KV group {} has regions of {:?} bytes, KV group {} of {:?}: a rank's groups share one list",
                    other.group, other.regions, geometry.group, geometry.regions
                )));
            }
        }
        disjoint::check(&geometries.iter().collect::<Vec<_>>())
    }

    /// The kinds of tensors that each layer has, in order.
    pub fn kinds(&self) -> impl Iterator<Item = TensorKind> + Clone + '_ {
        self.tensors.iter().map(|tensor| tensor.kind)
    }

    /// The tensors of one kind.
    pub fn tensors_of(&self, kind: TensorKind) -> Option<&TensorGeometry> {
        self.tensors.iter().find(|tensor| tensor.kind == kind)
    }

    /// Elements of a head; 0 if the group has no tensors of this kind.
    pub fn dim(&self, kind: TensorKind) -> u32 {
        self.tensors_of(kind).map_or(0, |tensor| tensor.dim)
    }

    /// How the tensors of a kind are paged.
    pub fn paging(&self, kind: TensorKind) -> Option<&PagingLayout> {
        Some(&self.tensors_of(kind)?.paging)
    }

    /// Type of an element of a kind: the group's, or that of its scales.
    pub fn dtype_of(&self, kind: TensorKind) -> Dtype {
        match self.scales {
            Some(Scales { dtype, .. }) if kind.is_scale() => dtype,
            _ => self.dtype,
        }
    }

    /// Number of KV heads that the rank holds.
    pub fn head_count(&self) -> u32 {
        self.heads.end - self.heads.start
    }

    /// Where a layer's tensor of a kind begins; `None` for a layer of another rank or a kind that the group does not have.
    pub fn tensor(&self, layer: u32, kind: TensorKind) -> Option<TensorBase> {
        let index = self.layers.position(layer)? as usize;
        self.tensors_of(kind)?.bases.get(index).copied()
    }

    /// Whether the tensors of a kind do not depend on the token: scales per tensor or per head, one row for all blocks.
    pub fn is_static(&self, kind: TensorKind) -> bool {
        kind.is_static(self.scales.map(|scales| scales.granularity))
    }

    /// The heads of a kind's tensors that belong to `heads` of the model, counted from the rank's first: one stands for all where
    /// scales are per tensor.
    pub(crate) fn local_heads(&self, kind: TensorKind, heads: &Range<u32>) -> Range<u32> {
        let [_, count, _] = self.shape(kind, 1, self.head_count(), 1);
        if count < self.head_count() {
            0..1
        } else {
            heads.start - self.heads.start..heads.end - self.heads.start
        }
    }

    /// The rows of a section of `tokens`, and the blocks among `blocks` that hold them.
    pub(crate) fn rows<'a>(&self, kind: TensorKind, tokens: &Range<u32>, blocks: &'a [u32]) -> Rows<'a> {
        if self.is_static(kind) {
            return Rows { rows: 0..1, per_block: 1, blocks: &[0] };
        }
        if kind == TensorKind::State {
            let rows = tokens.start / self.block_tokens..tokens.end.div_ceil(self.block_tokens);
            return Rows { rows, per_block: 1, blocks };
        }
        Rows { rows: tokens.clone(), per_block: self.block_tokens, blocks }
    }

    /// Bytes of an element.
    pub(crate) fn element_bytes(&self, kind: TensorKind) -> u64 {
        u64::from(self.dtype_of(kind).bytes())
    }

    /// Blocks, rows of a block, heads, elements of a head.
    fn extents(&self, tensor: &TensorGeometry) -> [u32; 4] {
        let [rows, heads, dim] = self.shape(tensor.kind, self.block_tokens, self.head_count(), tensor.dim);
        [if self.is_static(tensor.kind) { 1 } else { self.blocks }, rows, heads, dim]
    }

    fn shape(&self, kind: TensorKind, rows: u32, heads: u32, dim: u32) -> [u32; 3] {
        kind.shape(self.scales.map(|scales| scales.granularity), rows, heads, dim)
    }

    /// Bytes from the first to behind the last element of a tensor.
    fn span(&self, tensor: &TensorGeometry) -> Result<u64> {
        let [blocks, rows, heads, dim] = self.extents(tensor);
        let elements = tensor.paging.span(blocks, rows, heads, dim)?;
        elements
            .checked_mul(self.element_bytes(tensor.kind))
            .ok_or_else(|| Error::invalid("a tensor of the geometry exceeds the address space"))
    }

    fn check_extents(&self) -> Result<()> {
        let extents = [
            ("layers", self.layers.count()),
            ("heads", self.heads.end.saturating_sub(self.heads.start)),
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
        Ok(())
    }

    fn check_kinds(&self) -> Result<()> {
        let kinds: Vec<TensorKind> = self.kinds().collect();
        if !TensorKind::are_a_group(&kinds, self.scales.is_some()) {
            return Err(Error::invalid(format!(
                "geometry: tensors {kinds:?} with scales {:?}: expected all kinds of one KV group in their order, each with its scales if there are some",
                self.scales
            )));
        }
        if let Some(scales) = self.scales.filter(|scales| !Scales::DTYPES.contains(&scales.dtype)) {
            return Err(Error::invalid(format!("geometry: scales {scales}: expected f32 or bf16")));
        }
        for tensor in &self.tensors {
            let TensorGeometry { kind, dim, .. } = tensor;
            if *dim == 0 || kind.is_scale() && *dim != 1 {
                return Err(Error::invalid(format!("geometry: heads of {dim} elements in {kind:?}")));
            }
        }
        Ok(())
    }

    /// Every tensor of a kind lies inside its region.
    fn check_places(&self, tensor: &TensorGeometry) -> Result<()> {
        let TensorGeometry { kind, bases, .. } = tensor;
        if bases.len() as u64 != u64::from(self.layers.count()) {
            return Err(Error::invalid(format!(
                "geometry: {} bases of {kind:?} for layers {}: expected one each",
                bases.len(),
                self.layers
            )));
        }
        let span = self.span(tensor)?;
        for (layer, base) in self.layers.iter().zip(bases) {
            let TensorBase { region, offset } = *base;
            let len = self.regions.get(region as usize).ok_or_else(|| {
                Error::invalid(format!(
                    "{kind:?} of layer {layer} lies in region {region}, but there are {}",
                    self.regions.len()
                ))
            })?;
            if span.checked_add(offset).is_none_or(|end| end > *len) {
                return Err(Error::invalid(format!(
                    "{kind:?} of layer {layer} needs {span} bytes from offset {offset} of region {region}, which has {len} bytes"
                )));
            }
        }
        Ok(())
    }
}

impl Deref for Geometry {
    type Target = GeometryParts;

    fn deref(&self) -> &GeometryParts {
        &self.0
    }
}
