//! Row areas: where a device moves nothing shorter than a row, it moves rows of the engine's memory as they are, with all heads of the
//! rank, and the host interleaves them with the sections of the slices.
//!
//! A row area holds one tensor's elements in the order in which they lie in the engine's memory, without the gaps. Each piece of it
//! (some tokens of one block) is an affine layout of its own, so that the host's runs follow from it as the device's do.

use std::ops::Range;
use std::sync::Arc;

use super::HostStep;
use crate::geometry::Rows;
use crate::plan::{KindPlan, Nests, Place, for_each_piece};
use crate::{
    Axis, Error, Geometry, LayerPlan, NestDim, PagingLayout, Result, Split, StridedRun, TensorGeometry,
    TensorKind,
};

/// Pieces begin at cache lines.
const LINE: u64 = 64;

/// The rows of a chunk in one KV group: the kinds whose direct runs are too short for the device.
#[derive(Debug)]
pub(super) struct RowAreas {
    /// Runs between the engine's memory and the row areas.
    pub(super) device: Arc<LayerPlan>,
    areas: Vec<Area>,
}

/// The row area of one kind.
#[derive(Debug)]
struct Area {
    kind: TensorKind,
    dim: u32,
    bytes: u64,
    rows: u32,
    pieces: Vec<Piece>,
}

/// Rows of one block in an area.
#[derive(Debug)]
struct Piece {
    /// First byte in the area.
    start: u64,
    /// First row in the section.
    row: u32,
    rows: u32,
    /// Where an element is, in elements from the piece's first byte.
    layout: PagingLayout,
}

impl RowAreas {
    /// Plans the row areas of `kinds`.
    ///
    /// # Errors
    /// `Invalid` if the engine's memory has no contiguous rows of `min_bytes`.
    pub(super) fn new(
        geometry: &Geometry,
        kinds: &[TensorKind],
        blocks: &[u32],
        tokens: &Range<u32>,
        min_bytes: u64,
    ) -> Result<Self> {
        let planned = Self::plan(geometry, kinds, blocks, tokens);
        for tensor in geometry.tensors.iter().filter(|tensor| kinds.contains(&tensor.kind)) {
            if let Some(short) = planned.device.shortest_run(tensor.kind).filter(|run| *run < min_bytes) {
                return Err(Error::invalid(format!(
                    "{:?} of KV group {}: tokens {tokens:?} lie in contiguous rows of {short} bytes, but the device moves none below {min_bytes}: use a paging layout in which all heads of a token are neighbours, whole blocks, or a device that moves any run",
                    tensor.kind, geometry.group
                )));
            }
        }
        Ok(planned)
    }

    /// Plans the row areas of `kinds`, however long the rows are.
    pub(super) fn plan(
        geometry: &Geometry,
        kinds: &[TensorKind],
        blocks: &[u32],
        tokens: &Range<u32>,
    ) -> Self {
        let (mut plans, mut areas) = (Vec::new(), Vec::new());
        for tensor in geometry.tensors.iter().filter(|tensor| kinds.contains(&tensor.kind)) {
            let rows = geometry.rows(tensor.kind, tokens, blocks);
            let (plan, area) = area(geometry, tensor, &rows);
            plans.push((tensor.kind, plan));
            areas.push(area);
        }
        Self { device: Arc::new(LayerPlan { kinds: plans }), areas }
    }

    /// Runs between the row areas and the sections of a slice with these heads of the model.
    pub(super) fn host(&self, geometry: &Geometry, heads: &Range<u32>) -> HostStep {
        let plan = |area: &Area| {
            let heads = geometry.local_heads(area.kind, heads);
            (area.kind, area.host(&heads))
        };
        HostStep {
            plan: Arc::new(LayerPlan { kinds: self.areas.iter().map(plan).collect() }),
            moves: Vec::new(),
        }
    }
}

impl Area {
    /// Runs between the area and a section of these heads, counted from the rank's first.
    fn host(&self, heads: &Range<u32>) -> KindPlan {
        let rows = Rows { rows: 0..self.rows, per_block: 1, blocks: &[] };
        let mut plan = KindPlan::of_section(&rows, heads, u64::from(self.dim) * self.bytes);
        for piece in &self.pieces {
            // Pieces differ in their layouts, so none shares a nest by the numbers of its rows and heads.
            let mut nests = Nests::default();
            let at = Place { device: piece.start, row: piece.row, rows: 0..piece.rows };
            plan.push_piece(&mut nests, &piece.layout, &at, heads, (self.dim, self.bytes));
        }
        plan
    }
}

/// The device's runs of one kind into its row area, and the area.
fn area(geometry: &Geometry, tensor: &TensorGeometry, rows: &Rows<'_>) -> (KindPlan, Area) {
    let TensorGeometry { kind, dim, paging, .. } = tensor;
    let bytes = geometry.element_bytes(*kind);
    let heads = geometry.local_heads(*kind, &geometry.heads);
    let row_bytes = u64::from(heads.end) * u64::from(*dim) * bytes;
    let mut plan = KindPlan::default();
    let mut nests = Nests::default();
    let mut area =
        Area { kind: *kind, dim: *dim, bytes, rows: rows.rows.end - rows.rows.start, pieces: Vec::new() };
    for_each_piece(rows, &paging.token, |id, row, piece| {
        let count = piece.end - piece.start;
        let start = plan.section_bytes.next_multiple_of(LINE);
        let layout = match area.pieces.iter().find(|known| known.rows == count) {
            Some(known) => known.layout,
            None => packed(paging, count, heads.end, *dim),
        };
        let nest = plan.intern(&mut nests, (count, heads.end), |dims| {
            *dims = device_dims(paging, &layout, [count, heads.end, *dim], bytes);
            bytes
        });
        let device = paging.offset(id, piece.start, 0, 0) * bytes;
        plan.runs.push(StridedRun { device, section: start, nest });
        plan.section_bytes = start + u64::from(count) * row_bytes;
        area.pieces.push(Piece { start, row, rows: count, layout });
    });
    (plan, area)
}

/// One step of an axis: which axis, whether it is the step between the groups of a split, how often, how far in the engine's memory.
#[derive(Debug, Clone, Copy)]
struct Step {
    axis: usize,
    outer: bool,
    count: u32,
    stride: u64,
}

/// The steps of token, head and dim with these extents, the densest first.
fn steps(paging: &PagingLayout, extents: [u32; 3]) -> Vec<Step> {
    let mut steps = Vec::with_capacity(6);
    for (axis, (of, count)) in [paging.token, paging.head, paging.dim].into_iter().zip(extents).enumerate() {
        match of.split {
            Some(Split { inner, outer_stride }) if count > inner => {
                steps.push(Step { axis, outer: true, count: count / inner, stride: outer_stride });
                steps.push(Step { axis, outer: false, count: inner, stride: of.stride });
            }
            _ => steps.push(Step { axis, outer: false, count, stride: of.stride }),
        }
    }
    // Steps of one stay where they are: their stride is never taken.
    steps.sort_by_key(|step| (step.count > 1, step.stride));
    steps
}

/// The layout of a piece without the gaps, in the order of the engine's memory.
fn packed(paging: &PagingLayout, rows: u32, heads: u32, dim: u32) -> PagingLayout {
    let mut axes = [paging.token, paging.head, paging.dim].map(|axis| Axis { stride: 0, ..axis });
    let mut reach = 1;
    for (axis, count) in axes.iter_mut().zip([rows, heads, dim]) {
        // A piece inside one group has no split of its own.
        axis.split = axis.split.filter(|split| count > split.inner);
    }
    for step in steps(paging, [rows, heads, dim]) {
        let Some(axis) = axes.get_mut(step.axis) else { continue };
        match &mut axis.split {
            Some(split) if step.outer => split.outer_stride = reach,
            _ => axis.stride = reach,
        }
        reach *= u64::from(step.count);
    }
    let [token, head, dim] = axes;
    PagingLayout { block_stride: 0, token, head, dim }
}

/// The dims between the engine's memory and the packed layout, outermost first.
fn device_dims(paging: &PagingLayout, packed: &PagingLayout, extents: [u32; 3], bytes: u64) -> Vec<NestDim> {
    let own = steps(paging, extents).into_iter().rev();
    let packed = [packed.token, packed.head, packed.dim];
    own.map(|step| {
        let axis = packed.get(step.axis).copied().unwrap_or(Axis::strided(0));
        let to = match axis.split {
            Some(split) if step.outer => split.outer_stride,
            _ => axis.stride,
        };
        NestDim { count: step.count, device_stride: step.stride * bytes, section_stride: to * bytes }
    })
    .collect()
}
