//! What one rank moves for some chunks and layers, as data: which objects, which byte ranges of them, and which strided runs, split into
//! the step of the device and the step of the host.
//!
//! The runs of a chunk are the same for every layer, and for every slice but for where its heads begin, so the plan holds them once per
//! chunk, and the sections with their places once per slice: O(blocks + layers), whatever is moved.

mod row_plan;
mod rows;
mod steps;

use std::ops::Range;
use std::sync::Arc;

use crate::{
    Chunk, Error, Geometry, LayerPlan, Namespace, NamespaceDigest, ObjectLayout, ObjectName, PagingLayout,
    Result, Slice, TensorBase, TensorKind,
};
pub use row_plan::RowPlan;
use rows::RowAreas;
pub use steps::{HostStep, Movement, RowMove, Steps};

/// Which runs a device can gather and scatter itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Granularity {
    /// Any run, down to one element: a kernel does it.
    AnyRun,
    /// Rows of at least so many bytes: descriptors of a DMA engine. Smaller pieces are interleaved on the host.
    Rows {
        /// Smallest row worth a descriptor, in bytes.
        min_bytes: u64,
    },
}

/// The part of one object that a rank moves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectPart {
    /// Its name in a store.
    pub name: ObjectName,
    /// Position of its chunk among those that were planned.
    pub chunk: usize,
    /// Bytes of the object.
    pub object_len: u64,
    /// Bytes of its header, which begins the object.
    pub header_len: u64,
    /// The bytes of the sections of the planned layers, with the padding between them.
    pub bytes: Range<u64>,
    /// Whether this rank writes it, if it saves: one of the ranks that hold a slice does.
    pub writes: bool,
}

/// What one rank moves for some chunks and layers.
#[derive(Debug)]
pub struct RankPlan {
    namespace: NamespaceDigest,
    geometries: Vec<Geometry>,
    slices: Vec<SlicePlan>,
    chunks: Vec<ChunkPlan>,
}

/// One slice: what is the same for all chunks.
#[derive(Debug)]
struct SlicePlan {
    index: u32,
    slice: Slice,
    /// Position among the geometries.
    group: usize,
    /// Which of the chunk's plans of the group, and how far its heads are behind those of that plan, for each kind, in bytes.
    direct: usize,
    shifts: Vec<(TensorKind, u64)>,
    /// Layout of a full chunk, and of the tail if one was planned.
    full: Option<Window>,
    tail: Option<Window>,
    /// Where the tensor of each section of the window begins.
    bases: Vec<TensorBase>,
}

/// The sections of the planned layers in an object.
#[derive(Debug)]
struct Window {
    layout: ObjectLayout,
    sections: Range<usize>,
    bytes: Range<u64>,
}

/// One chunk: what is the same for all layers.
#[derive(Debug)]
struct ChunkPlan {
    chunk: Chunk,
    groups: Vec<GroupPlan>,
}

/// The runs of one chunk in one KV group.
#[derive(Debug)]
struct GroupPlan {
    /// One plan for each of the group's ranges of heads that differ by more than where they begin.
    direct: Vec<Arc<LayerPlan>>,
    /// The kinds that the device cannot move directly.
    rows: Option<RowAreas>,
}

impl RankPlan {
    /// Plans the movement of `chunks` in the layers of the model that `layers` names, for a rank with these geometries, one for each
    /// KV group; `blocks` are the block ids of the sequence in the order of the geometries.
    ///
    /// # Errors
    /// * [`Incompatible`](crate::ErrorKind::Incompatible) if the rank lacks a group or cuts a slice.
    /// * [`Invalid`](crate::ErrorKind::Invalid) for block ids that are missing or out of range, and for a geometry in which the device
    ///   finds no contiguous rows that are long enough for it.
    pub fn new(
        namespace: &Namespace,
        geometries: &[Geometry],
        chunks: &[Chunk],
        blocks: &[&[u32]],
        layers: Range<u32>,
        granularity: Granularity,
    ) -> Result<Self> {
        if blocks.len() != geometries.len() {
            return Err(Error::invalid(format!(
                "{} lists of block ids for {} KV groups: expected one each",
                blocks.len(),
                geometries.len()
            )));
        }
        let mut slices = Vec::new();
        let mut heads: Vec<Vec<Range<u32>>> = vec![Vec::new(); geometries.len()];
        for (index, slice) in namespace.slices().held_by_rank(geometries)? {
            let group = geometries.iter().position(|geometry| geometry.group == slice.group);
            let group = group.ok_or_else(|| Error::invalid("a slice of a group without geometry"))?;
            let planned = SlicePlan::new(namespace, (index, slice), &layers, chunks, &geometries[group])?;
            if let Some(mut planned) = planned {
                planned.group = group;
                planned.share(&geometries[group], &mut heads[group]);
                slices.push(planned);
            }
        }
        let min_bytes = match granularity {
            Granularity::AnyRun => 0,
            Granularity::Rows { min_bytes } => min_bytes,
        };
        let mut planned = Vec::with_capacity(chunks.len());
        for chunk in chunks {
            let of = |((geometry, blocks), heads): ((&Geometry, &&[u32]), &Vec<Range<u32>>)| {
                GroupPlan::new(geometry, blocks, &chunk.tokens, heads, min_bytes)
            };
            let groups = geometries.iter().zip(blocks).zip(&heads).map(of).collect::<Result<_>>()?;
            planned.push(ChunkPlan { chunk: chunk.clone(), groups });
        }
        let (namespace, geometries) = (namespace.digest(), geometries.to_vec());
        Ok(Self { namespace, geometries, slices, chunks: planned })
    }

    /// The parts of objects that move, chunk by chunk, in the order of slices.
    pub fn objects(&self) -> impl Iterator<Item = ObjectPart> + '_ {
        (0..self.chunks.len()).flat_map(|chunk| self.objects_of(chunk))
    }

    /// Number of chunks.
    pub fn chunk_count(&self) -> usize {
        self.chunks.len()
    }

    fn objects_of(&self, number: usize) -> impl Iterator<Item = ObjectPart> + '_ {
        let chunk = self.chunks.get(number).map(|planned| &planned.chunk);
        self.slices.iter().filter_map(move |slice| {
            let (chunk, window) = (chunk?, slice.window(chunk?)?);
            let name = ObjectName {
                namespace: self.namespace,
                key: chunk.key,
                chunk_index: chunk.index,
                slice: slice.index,
            };
            Some(ObjectPart {
                name,
                chunk: number,
                object_len: window.layout.object_len,
                header_len: window.layout.header_len,
                bytes: window.bytes.clone(),
                writes: self.geometries.get(slice.group)?.replica.writes(chunk.index),
            })
        })
    }
}

impl SlicePlan {
    /// `None` if the slice has none of the layers.
    fn new(
        namespace: &Namespace,
        (index, slice): (u32, &Slice),
        layers: &Range<u32>,
        chunks: &[Chunk],
        geometry: &Geometry,
    ) -> Result<Option<Self>> {
        let window = |tail: bool| {
            let chunk = chunks.iter().rev().find(|chunk| chunk.tail == tail);
            chunk.map(|chunk| Window::new(namespace, slice, chunk, layers)).transpose()
        };
        let (full, tail) = (window(false)?.flatten(), window(true)?.flatten());
        let Some(any) = full.as_ref().or(tail.as_ref()) else { return Ok(None) };
        let base = |section: &crate::Section| geometry.tensor(section.layer, section.kind);
        let bases = any.layout.sections[any.sections.clone()].iter().map(base).collect::<Option<_>>();
        let bases = bases.ok_or_else(|| Error::invalid("a slice that the rank does not hold"))?;
        let slice = slice.clone();
        Ok(Some(Self { index, slice, group: 0, direct: 0, shifts: Vec::new(), full, tail, bases }))
    }

    /// Finds among `planned` a range of heads whose runs are this slice's but for where they begin, or adds its own.
    fn share(&mut self, geometry: &Geometry, planned: &mut Vec<Range<u32>>) {
        let shifts = |from: &Range<u32>| -> Option<Vec<(TensorKind, u64)>> {
            let of = |tensor: &crate::TensorGeometry| {
                let local = |heads| geometry.local_heads(tensor.kind, heads);
                let elements = shift(&tensor.paging, &local(from), &local(&self.slice.heads))?;
                Some((tensor.kind, elements * geometry.element_bytes(tensor.kind)))
            };
            geometry.tensors.iter().map(of).collect()
        };
        let known = planned.iter().enumerate().find_map(|(index, heads)| Some((index, shifts(heads)?)));
        let own = || geometry.kinds().map(|kind| (kind, 0)).collect();
        (self.direct, self.shifts) = known.unwrap_or_else(|| {
            planned.push(self.slice.heads.clone());
            (planned.len() - 1, own())
        });
    }

    fn window(&self, chunk: &Chunk) -> Option<&Window> {
        if chunk.tail { self.tail.as_ref() } else { self.full.as_ref() }
    }

    /// Bytes from the heads of the shared plan to the slice's.
    fn shift(&self, kind: TensorKind) -> u64 {
        self.shifts.iter().find(|(shifted, _)| *shifted == kind).map_or(0, |(_, bytes)| *bytes)
    }
}

impl Window {
    /// `None` if the slice has none of the layers.
    fn new(namespace: &Namespace, slice: &Slice, chunk: &Chunk, layers: &Range<u32>) -> Result<Option<Self>> {
        let layout = ObjectLayout::new(namespace, slice, chunk.tokens.end - chunk.tokens.start)?;
        let first = layout.sections.partition_point(|section| section.layer < layers.start);
        let end = layout.sections.partition_point(|section| section.layer < layers.end);
        let bytes = match layout.sections.get(first..end) {
            Some([first, .., last]) => first.offset..last.offset + last.len,
            Some([only]) => only.offset..only.offset + only.len,
            _ => return Ok(None),
        };
        Ok(Some(Self { layout, sections: first..end, bytes }))
    }
}

impl GroupPlan {
    fn new(
        geometry: &Geometry,
        blocks: &[u32],
        tokens: &Range<u32>,
        heads: &[Range<u32>],
        min_bytes: u64,
    ) -> Result<Self> {
        let plan = |heads: &Range<u32>| LayerPlan::new(geometry, blocks, tokens.clone(), heads.clone());
        let mut direct = heads.iter().map(plan).collect::<Result<Vec<_>>>()?;
        let too_short = |kind: &TensorKind| {
            direct.iter().any(|plan| plan.nests(*kind).iter().any(|nest| nest.run_bytes < min_bytes))
        };
        let kinds: Vec<TensorKind> = geometry.kinds().filter(too_short).collect();
        let rows = match kinds.as_slice() {
            [] => None,
            kinds => Some(RowAreas::new(geometry, kinds, blocks, tokens, min_bytes)?),
        };
        for plan in &mut direct {
            plan.kinds.retain(|(kind, _)| !kinds.contains(kind));
        }
        Ok(Self { direct: direct.into_iter().map(Arc::new).collect(), rows })
    }
}

/// Elements from the heads `from` to the heads `to`, if that is the same for each of them.
fn shift(paging: &PagingLayout, from: &Range<u32>, to: &Range<u32>) -> Option<u64> {
    let distance = |(from, to)| paging.head.offset(to).checked_sub(paging.head.offset(from));
    let first = distance((from.start, to.start))?;
    let same =
        from.len() == to.len() && from.clone().zip(to.clone()).all(|pair| distance(pair) == Some(first));
    same.then_some(first)
}
