//! From a layout's axes and a rank's extents to a checked geometry: the only place that knows both the catalogue and [`Geometry`].

use super::catalogue::{Allocation, Arrangement, Dim, Spare, arrangement};
use super::{EngineLayout, RankMemory, RankRegion, RankShape, RegionContents};
use crate::{
    Axis, Error, Geometry, GeometryParts, GroupRule, PagingLayout, Result, TensorBase, TensorGeometry,
    TensorKind,
};

/// Bytes of the groups that ROCm's kernels load at once.
const GROUP_BYTES: u32 = 16;

/// Builds the memory of `layout` on `rank`.
pub(super) fn memory(layout: EngineLayout, rank: &RankShape) -> Result<RankMemory> {
    let plan = Plan { layout, arrangement: arrangement(layout), rank, tensors: rank.rule.tensors() };
    plan.check()?;
    let bytes = u64::from(rank.dtype.bytes());
    let per_layer = plan.tensors.len() as u64;
    let mut tensors = Vec::new();
    for &(kind, dim) in &plan.tensors {
        let strides = plan.strides(kind, dim)?;
        let paging = plan.paging(&strides);
        tensors.push((strides, TensorGeometry { kind, dim, paging, bases: Vec::new() }));
    }
    let mut regions = Vec::new();
    for (local, layer) in (0..).zip(rank.layers.iter()) {
        let mut dims_before = 0;
        for (index, (strides, tensor)) in (0..).zip(&mut tensors) {
            let (region, contents, layer_offset) = match plan.arrangement.allocation {
                Allocation::Rank => (0, RegionContents::Rank, strides.of(Dim::Layer).checked_mul(local)),
                Allocation::Layer => (local, RegionContents::Layer(layer), Some(0)),
                Allocation::Tensor => {
                    (per_layer * local + index, RegionContents::Tensor(layer, tensor.kind), Some(0))
                }
            };
            if region == regions.len() as u64 {
                regions
                    .push(RankRegion { contents, bytes: plan.in_range(strides.total.checked_mul(bytes))? });
            }
            let side = if plan.arrangement.is_packed() { dims_before } else { strides.of(Dim::Side) * index };
            let offset = layer_offset.and_then(|offset| offset.checked_add(side)?.checked_mul(bytes));
            let region = u32::try_from(region).map_err(|_| plan.too_large())?;
            tensor.bases.push(TensorBase { region, offset: plan.in_range(offset)? });
            dims_before += u64::from(tensor.dim);
        }
    }
    let blocks = match plan.arrangement.spare {
        Spare::First => rank.blocks.checked_add(1).ok_or_else(|| plan.too_large())?,
        Spare::Nothing | Spare::Behind => rank.blocks,
    };
    let geometry = Geometry::new(GeometryParts {
        group: rank.group,
        dtype: rank.dtype,
        rope: rank.rope,
        layers: rank.layers.clone(),
        heads: rank.heads.clone(),
        replica: rank.replica,
        block_tokens: rank.block_tokens,
        blocks,
        scales: None,
        tensors: tensors.into_iter().map(|(_, tensor)| tensor).collect(),
        regions: regions.iter().map(|region| region.bytes).collect(),
    })?;
    Ok(RankMemory { geometry, regions })
}

/// Elements between neighbours along each axis, and elements of the whole allocation.
struct Strides {
    axes: Vec<(Dim, u64)>,
    total: u64,
}

impl Strides {
    /// The stride of an axis; 0 for one that the allocation has not.
    fn of(&self, dim: Dim) -> u64 {
        self.find(dim).unwrap_or(0)
    }

    fn find(&self, dim: Dim) -> Option<u64> {
        self.axes.iter().find(|(axis, _)| *axis == dim).map(|(_, stride)| *stride)
    }
}

/// A layout and a rank, on the way to a geometry.
struct Plan<'a> {
    layout: EngineLayout,
    arrangement: Arrangement,
    rank: &'a RankShape,
    /// Kinds of the group's tensors, and elements of a head of each.
    tensors: Vec<(TensorKind, u32)>,
}

impl Plan<'_> {
    /// What the engine itself asserts of the extents.
    fn check(&self) -> Result<()> {
        let expected = self.arrangement.tensors.kinds();
        let kinds = self.tensors.iter().map(|(kind, _)| *kind);
        if !kinds.clone().eq(expected.iter().copied()) {
            return self.refused(&format!(
                "a KV group of {:?}: this layout is for one of {expected:?}",
                kinds.collect::<Vec<_>>()
            ));
        }
        if let [(_, key_dim), (_, value_dim)] = self.tensors[..]
            && self.arrangement.one_head_size
            && key_dim != value_dim
        {
            return self.refused(&format!(
                "heads of {key_dim} elements in K and {value_dim} in V: this engine has one head size for both"
            ));
        }
        if let GroupRule::MlaLatent { latent_dim, rope_dim } = self.rank.rule {
            if self.rank.heads.len() > 1 {
                return self.refused(&format!("{} heads: a latent has one", self.rank.heads.len()));
            }
            self.in_range(latent_dim.checked_add(rope_dim))?;
        }
        let group = self.group();
        for &(kind, elements) in &self.tensors {
            let dims = self.arrangement.tensors.axes(kind);
            for (what, dim, extent) in [
                ("elements of a head", Dim::ElementGroup, elements),
                ("tokens of a block", Dim::TokenGroup, self.rank.block_tokens),
            ] {
                if dims.contains(&dim) && !extent.is_multiple_of(group) {
                    return self.refused(&format!(
                        "{extent} {what} of {kind:?} cannot be grouped by {group}, which is {GROUP_BYTES} bytes of {}",
                        self.rank.dtype.name()
                    ));
                }
            }
        }
        Ok(())
    }

    /// Elements of a group.
    fn group(&self) -> u32 {
        GROUP_BYTES / self.rank.dtype.bytes()
    }

    /// How many steps the allocation has along an axis.
    fn count(&self, dim: Dim, dims: &[Dim], head_dim: u32) -> u64 {
        let RankShape { block_tokens, blocks, .. } = *self.rank;
        let elements = if self.arrangement.is_packed() {
            self.tensors.iter().map(|(_, dim)| u64::from(*dim)).sum()
        } else {
            u64::from(head_dim)
        };
        let group = u64::from(self.group());
        match dim {
            Dim::Layer => u64::from(self.rank.layers.count()),
            Dim::Side => 2,
            Dim::Block => u64::from(blocks) + u64::from(self.arrangement.spare != Spare::Nothing),
            Dim::Head => self.rank.heads.len() as u64,
            Dim::Token if dims.contains(&Dim::TokenGroup) => group,
            Dim::Token => u64::from(block_tokens),
            Dim::TokenGroup => u64::from(block_tokens) / group,
            Dim::Element if dims.contains(&Dim::ElementGroup) => group,
            Dim::Element => elements,
            Dim::ElementGroup => elements / group,
        }
    }

    /// Row-major strides of the axes, with the engine's padding behind each page if there is any.
    fn strides(&self, kind: TensorKind, head_dim: u32) -> Result<Strides> {
        let dims = self.arrangement.tensors.axes(kind);
        let page = self.page_elements(dims, head_dim)?;
        let mut axes = Vec::with_capacity(dims.len());
        let mut span: u64 = 1;
        for (position, &dim) in dims.iter().enumerate().rev() {
            if let Some((last_outside, elements)) = page
                && position == last_outside
            {
                if elements < span {
                    let bytes = u64::from(self.rank.dtype.bytes());
                    return self.refused(&format!(
                        "pages of {} bytes: a page's content alone has {}",
                        elements * bytes,
                        span * bytes
                    ));
                }
                span = elements;
            }
            axes.push((dim, span));
            span = self.in_range(span.checked_mul(self.count(dim, dims, head_dim)))?;
        }
        Ok(Strides { axes, total: span })
    }

    /// Position of the innermost axis outside of a page, and elements of a page with its padding; `None` if pages are not padded.
    fn page_elements(&self, dims: &[Dim], head_dim: u32) -> Result<Option<(usize, u64)>> {
        let Some(page_bytes) = self.rank.page_bytes else {
            return Ok(None);
        };
        let refused = |why: &str| self.refused(&format!("pages of {page_bytes} bytes, but {why}"));
        let element = u64::from(self.rank.dtype.bytes());
        if !page_bytes.is_multiple_of(element) {
            return refused("an element would cross the border of a page");
        }
        let Some(outside) = dims.iter().rposition(|dim| matches!(dim, Dim::Layer | Dim::Block)) else {
            return refused("this layout has no pages");
        };
        if !self.arrangement.padded {
            return refused("this engine does not pad pages");
        }
        let others = dims.iter().take(outside).filter(|dim| !matches!(dim, Dim::Layer | Dim::Block));
        if others.map(|dim| self.count(*dim, dims, head_dim)).any(|count| count != 1) {
            return refused("an axis other than layers and blocks lies outside of a page");
        }
        Ok(Some((outside, page_bytes / element)))
    }

    fn paging(&self, strides: &Strides) -> PagingLayout {
        let axis = |inner, groups| match strides.find(groups) {
            Some(outer) => Axis::split(self.group(), outer, strides.of(inner)),
            None => Axis::strided(strides.of(inner)),
        };
        PagingLayout {
            block_stride: strides.of(Dim::Block),
            token: axis(Dim::Token, Dim::TokenGroup),
            head: Axis::strided(strides.of(Dim::Head)),
            dim: axis(Dim::Element, Dim::ElementGroup),
        }
    }

    fn in_range<T>(&self, value: Option<T>) -> Result<T> {
        value.ok_or_else(|| self.too_large())
    }

    fn refused<T>(&self, why: &str) -> Result<T> {
        Err(Error::invalid(format!("{}: {why}", self.layout)))
    }

    fn too_large(&self) -> Error {
        Error::invalid(format!("{}: these extents exceed the address space: {:?}", self.layout, self.rank))
    }
}
