//! Which bytes of an engine's memory belong where in a section: strided runs for one layer, and a base per layer.
//!
//! A section holds `[token][head][dim]` of one layer's tensor. All layers of a chunk have the same runs, so a plan holds them once
//! for each kind and adds per-layer bases: O(blocks + layers), however many elements it moves.

use std::ops::Range;
use std::sync::Arc;

use crate::geometry::Rows;
use crate::{Axis, Error, Geometry, PagingLayout, Result, Split, TensorGeometry, TensorKind};

/// Most elements of a section: those of the longest object, 2^48 bytes.
const MOST_ELEMENTS: u64 = 1 << 48;

/// One dim of a nest: how often it repeats, and how far each repetition steps, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct NestDim {
    /// Repetitions.
    pub count: u32,
    /// Bytes between repetitions in the engine's memory.
    pub device_stride: u64,
    /// Bytes between repetitions in the section.
    pub section_stride: u64,
}

/// A contiguous run repeated over nested dims, outermost first.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Nest {
    /// Bytes of one contiguous run.
    pub run_bytes: u64,
    /// The repetitions.
    pub dims: Vec<NestDim>,
}

/// A nest at its place: the runs of one block's tokens (or of a part of them).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct StridedRun {
    /// Byte offset from the tensor's base.
    pub device: u64,
    /// Byte offset from the section's start.
    pub section: u64,
    /// Index into [`LayerPlan::nests`].
    pub nest: u32,
}

/// The strided runs of one kind.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(crate) struct KindPlan {
    pub(crate) nests: Vec<Nest>,
    pub(crate) runs: Vec<StridedRun>,
    pub(crate) section_bytes: u64,
}

/// One layer's strided runs for a range of tokens and heads: the same for every layer.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct LayerPlan {
    pub(crate) kinds: Vec<(TensorKind, KindPlan)>,
}

/// One section of a transfer: which tensor, and where its bytes lie in the staging buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SectionPlace {
    /// Index of the registered region.
    pub region: u32,
    /// Byte offset of the tensor's base in the region.
    pub device: u64,
    /// Byte offset of the section in the staging buffer.
    pub staging: u64,
    /// What the section holds.
    pub kind: TensorKind,
}

/// What one device call moves: some sections, all with one plan. Every byte that it names is inside the geometry's regions.
#[derive(Debug, Clone)]
pub struct Transfer {
    /// The runs of each section.
    pub plan: Arc<LayerPlan>,
    /// The sections.
    pub sections: Vec<SectionPlace>,
}

impl LayerPlan {
    /// Plans `tokens` of a sequence whose `i`-th block of tokens is in block `blocks[i]`, for `heads` of the model.
    ///
    /// # Errors
    /// [`Invalid`](crate::ErrorKind::Invalid) for no tokens, heads of another rank, a block id out of range, too few
    /// block ids, or a section of more than 2^48 elements.
    pub fn new(geometry: &Geometry, blocks: &[u32], tokens: Range<u32>, heads: Range<u32>) -> Result<Self> {
        if heads.start < geometry.heads.start || heads.end > geometry.heads.end || heads.is_empty() {
            return Err(Error::invalid(format!(
                "heads {heads:?} are not among the rank's heads {:?}",
                geometry.heads
            )));
        }
        if tokens.is_empty() {
            return Err(Error::invalid(format!("tokens {tokens:?} are none")));
        }
        let per_block = geometry.block_tokens;
        let last = tokens.end.div_ceil(per_block) as usize;
        let Some(used) = blocks.get((tokens.start / per_block) as usize..last) else {
            return Err(Error::invalid(format!(
                "tokens {tokens:?} need {last} blocks of {per_block} tokens, but {} block ids were given",
                blocks.len()
            )));
        };
        if let Some(id) = used.iter().find(|id| **id >= geometry.blocks) {
            return Err(Error::invalid(format!(
                "block id {id}: the geometry has {} blocks",
                geometry.blocks
            )));
        }
        for tensor in &geometry.tensors {
            // Blocks may be named again and again, so that a section may be longer than the engine's memory.
            let per_token = u64::from(heads.end - heads.start) * u64::from(tensor.dim);
            let elements = per_token.checked_mul(u64::from(tokens.end - tokens.start));
            if elements.is_none_or(|elements| elements > MOST_ELEMENTS) {
                return Err(Error::invalid(format!(
                    "a section of tokens {tokens:?} and heads {heads:?} exceeds {MOST_ELEMENTS} elements"
                )));
            }
        }
        let plan = |tensor: &TensorGeometry| {
            let rows = geometry.rows(tensor.kind, &tokens, blocks);
            let heads = geometry.local_heads(tensor.kind, &heads);
            (tensor.kind, KindPlan::new(tensor, geometry.element_bytes(tensor.kind), &rows, &heads))
        };
        Ok(Self { kinds: geometry.tensors.iter().map(plan).collect() })
    }

    /// The kinds of sections that it plans, in order.
    pub fn kinds(&self) -> impl Iterator<Item = TensorKind> + '_ {
        self.kinds.iter().map(|(kind, _)| *kind)
    }

    /// Bytes of one section.
    pub fn section_bytes(&self, kind: TensorKind) -> u64 {
        self.kind(kind).map_or(0, |plan| plan.section_bytes)
    }

    /// The strided runs of one kind.
    pub fn runs(&self, kind: TensorKind) -> &[StridedRun] {
        self.kind(kind).map_or(&[], |plan| &plan.runs)
    }

    /// The nests that the runs of one kind refer to.
    pub fn nests(&self, kind: TensorKind) -> &[Nest] {
        self.kind(kind).map_or(&[], |plan| &plan.nests)
    }

    /// Bytes of the shortest contiguous run of one kind; `None` if it moves nothing.
    pub fn shortest_run(&self, kind: TensorKind) -> Option<u64> {
        self.nests(kind).iter().map(|nest| nest.run_bytes).min()
    }

    /// Calls `copy(device offset from the tensor's base, offset in the section, bytes)` for every contiguous run of one kind.
    pub fn for_each_run(&self, kind: TensorKind, mut copy: impl FnMut(u64, u64, u64)) {
        let nests = self.nests(kind);
        for run in self.runs(kind) {
            if let Some(nest) = nests.get(run.nest as usize) {
                walk(&nest.dims, run.device, run.section, nest.run_bytes, &mut copy);
            }
        }
    }

    fn kind(&self, kind: TensorKind) -> Option<&KindPlan> {
        self.kinds.iter().find(|(planned, _)| *planned == kind).map(|(_, plan)| plan)
    }
}

/// Visits a nest, outermost dim first.
fn walk(dims: &[NestDim], device: u64, section: u64, bytes: u64, copy: &mut impl FnMut(u64, u64, u64)) {
    let Some((dim, inner)) = dims.split_first() else {
        return copy(device, section, bytes);
    };
    for i in 0..u64::from(dim.count) {
        walk(inner, device + i * dim.device_stride, section + i * dim.section_stride, bytes, copy);
    }
}

impl KindPlan {
    /// `heads` count from the rank's first.
    fn new(tensor: &TensorGeometry, bytes: u64, rows: &Rows<'_>, heads: &Range<u32>) -> Self {
        let TensorGeometry { dim, paging, .. } = tensor;
        let mut plan = Self::of_section(rows, heads, u64::from(*dim) * bytes);
        let mut nests = Nests::default();
        for_each_piece(rows, &paging.token, |id, row, piece| {
            let at = Place { device: paging.offset(id, piece.start, 0, 0) * bytes, row, rows: piece };
            plan.push_piece(&mut nests, paging, &at, heads, (*dim, bytes));
        });
        plan
    }

    /// A plan of a section of these rows and heads, without runs.
    pub(crate) fn of_section(rows: &Rows<'_>, heads: &Range<u32>, head_bytes: u64) -> Self {
        let (rows, heads) = (rows.rows.end - rows.rows.start, heads.end - heads.start);
        Self { section_bytes: u64::from(rows) * u64::from(heads) * head_bytes, ..Self::default() }
    }

    /// Adds the runs of one piece: some rows of one block, in which the token axis is regular. `dim` is the number of elements of a
    /// head, and the bytes of one.
    pub(crate) fn push_piece(
        &mut self,
        nests: &mut Nests,
        paging: &PagingLayout,
        at: &Place,
        heads: &Range<u32>,
        dim: (u32, u64),
    ) {
        let (dim, bytes) = dim;
        let head_bytes = u64::from(dim) * bytes;
        let row_bytes = u64::from(heads.end - heads.start) * head_bytes;
        let count = at.rows.end - at.rows.start;
        for group in pieces(&paging.head, heads) {
            let nest = self.intern(nests, (count, group.end - group.start), |dims| {
                axis_dims(dims, &paging.token, count, bytes, row_bytes);
                axis_dims(dims, &paging.head, group.end - group.start, bytes, head_bytes);
                axis_dims(dims, &paging.dim, dim, bytes, bytes);
                bytes
            });
            let device = at.device + paging.head.offset(group.start) * bytes;
            let section = u64::from(at.row) * row_bytes + u64::from(group.start - heads.start) * head_bytes;
            self.runs.push(StridedRun { device, section, nest });
        }
    }

    /// Adds one run of a nest that is made for `key` if there is none yet.
    pub(crate) fn intern(
        &mut self,
        nests: &mut Nests,
        key: (u32, u32),
        make: impl FnOnce(&mut Vec<NestDim>) -> u64,
    ) -> u32 {
        if let Some((_, nest)) = nests.0.iter().find(|(known, _)| *known == key) {
            return *nest;
        }
        let mut dims = Vec::with_capacity(6);
        let element_bytes = make(&mut dims);
        let nest = coalesce(dims, element_bytes);
        let known = self.nests.iter().position(|other| *other == nest);
        let index = known.unwrap_or_else(|| {
            self.nests.push(nest);
            self.nests.len() - 1
        });
        let index = u32::try_from(index).unwrap_or(u32::MAX);
        nests.0.push((key, index));
        index
    }
}

/// The nests of a plan by what they depend on: rows and heads of a piece. Whole blocks all have the same, so there are few.
#[derive(Debug, Default)]
pub(crate) struct Nests(Vec<((u32, u32), u32)>);

/// Where a piece is.
#[derive(Debug)]
pub(crate) struct Place {
    /// Bytes from the tensor's base to head 0 of the first row.
    pub(crate) device: u64,
    /// First row, counted from the section's.
    pub(crate) row: u32,
    /// The rows in their block.
    pub(crate) rows: Range<u32>,
}

/// Calls `visit(block id, first row counted from the section's, rows in the block)` for the rows of a section, cut so that each piece
/// lies in one block and is regular under the split of the token axis.
pub(crate) fn for_each_piece(rows: &Rows<'_>, token: &Axis, mut visit: impl FnMut(u32, u32, Range<u32>)) {
    let Rows { rows, per_block, blocks } = rows;
    let first = rows.start / per_block;
    let used = blocks.iter().take(rows.end.div_ceil(*per_block) as usize).skip(first as usize);
    for (&id, start) in used.zip((first * per_block..).step_by(*per_block as usize)) {
        let within = rows.start.max(start) - start..rows.end.min(start.saturating_add(*per_block)) - start;
        for piece in pieces(token, &within) {
            visit(id, start + piece.start - rows.start, piece);
        }
    }
}

/// Cuts a range so that each piece is regular under the axis's split: it lies within one group, or is whole groups.
pub(crate) fn pieces(axis: &Axis, range: &Range<u32>) -> impl Iterator<Item = Range<u32>> + use<> {
    let cuts = match axis.split {
        None => [range.clone(), 0..0, 0..0],
        Some(Split { inner, .. }) => {
            let first_whole = range.start.next_multiple_of(inner).min(range.end);
            let last_whole = (range.end / inner * inner).max(first_whole);
            [range.start..first_whole, first_whole..last_whole, last_whole..range.end]
        }
    };
    cuts.into_iter().filter(|piece| !piece.is_empty())
}

/// Adds the dims of `count` neighbours along an axis, whose section stride is `section_stride` bytes.
fn axis_dims(dims: &mut Vec<NestDim>, axis: &Axis, count: u32, bytes: u64, section_stride: u64) {
    let mut push = |count, device: u64, section_stride| {
        dims.push(NestDim { count, device_stride: device * bytes, section_stride });
    };
    match axis.split {
        Some(Split { inner, outer_stride }) if count > inner => {
            push(count / inner, outer_stride, section_stride * u64::from(inner));
            push(inner, axis.stride, section_stride);
        }
        _ => push(count, axis.stride, section_stride),
    }
}

/// Drops dims of one, and merges inner dims that are contiguous on both sides into the run and neighbours into each other.
fn coalesce(dims: Vec<NestDim>, element_bytes: u64) -> Nest {
    let mut kept: Vec<NestDim> = Vec::with_capacity(dims.len());
    let mut run_bytes = element_bytes;
    for dim in dims.into_iter().rev().filter(|dim| dim.count > 1) {
        if kept.is_empty() && dim.device_stride == run_bytes && dim.section_stride == run_bytes {
            run_bytes *= u64::from(dim.count);
            continue;
        }
        if let Some(inner) = kept.last_mut() {
            let (reach, merged) = (u64::from(inner.count), inner.count.checked_mul(dim.count));
            if let Some(count) = merged
                && dim.device_stride == inner.device_stride * reach
                && dim.section_stride == inner.section_stride * reach
            {
                inner.count = count;
                continue;
            }
        }
        kept.push(dim);
    }
    kept.reverse();
    Nest { run_bytes, dims: kept }
}
