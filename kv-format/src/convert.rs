//! Conversion between engines' memory and sections, element by element: slow, obviously right, and the oracle for everything faster.

use std::ops::Range;

use crate::{Error, Geometry, Result, TensorKind};

/// Which elements of the model's KV: one section, or a part of one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SectionRange {
    /// Layer of the model.
    pub layer: u32,
    /// What the section holds.
    pub kind: TensorKind,
    /// Positions in the sequence.
    pub tokens: Range<u32>,
    /// KV heads of the model.
    pub heads: Range<u32>,
}

/// An engine's memory with the blocks of one sequence: token `t` is in block `blocks[t / block_tokens]`.
#[derive(Debug)]
pub struct Sequence<'a, Regions> {
    /// How the memory is laid out.
    pub geometry: &'a Geometry,
    /// The bytes of each region.
    pub regions: Regions,
    /// Block ids of the sequence.
    pub blocks: &'a [u32],
}

/// Copies a section out of an engine's memory, in the order `[token][head][dim]`; of a recurrent state one row for each block that the
/// tokens touch, of static scales the one row that there is.
///
/// # Errors
/// [`Invalid`](crate::ErrorKind::Invalid) if the range is not the rank's, a block id is missing, or a region is too short.
pub fn gather<R: AsRef<[u8]>>(from: &Sequence<'_, &[R]>, range: &SectionRange) -> Result<Vec<u8>> {
    let mut section = Vec::new();
    for_each_element(from.geometry, from.blocks, range, |region, bytes, _| {
        let element = from.regions.get(region).and_then(|region| region.as_ref().get(bytes.clone()));
        section.extend_from_slice(element.ok_or_else(|| outside(region, &bytes))?);
        Ok(())
    })?;
    Ok(section)
}

/// Copies a section into an engine's memory.
///
/// # Errors
/// As [`gather`], and if `section` has not exactly the range's bytes; then nothing was written.
pub fn scatter<R: AsMut<[u8]>>(
    to: &mut Sequence<'_, &mut [R]>,
    range: &SectionRange,
    section: &[u8],
) -> Result<()> {
    let mut expected = 0;
    for_each_element(to.geometry, to.blocks, range, |_, bytes, at| {
        expected = at + bytes.len();
        Ok(())
    })?;
    if section.len() != expected {
        return Err(Error::invalid(format!(
            "a section of {} bytes for {range:?}, which has {expected}",
            section.len()
        )));
    }
    let regions = &mut *to.regions;
    for_each_element(to.geometry, to.blocks, range, |region, bytes, at| {
        let element = regions.get_mut(region).and_then(|region| region.as_mut().get_mut(bytes.clone()));
        element.ok_or_else(|| outside(region, &bytes))?.copy_from_slice(&section[at..at + bytes.len()]);
        Ok(())
    })
}

/// Copies `tokens` from one engine's memory to another's: every layer and head that both hold.
///
/// # Errors
/// As [`gather`]; [`Incompatible`](crate::ErrorKind::Incompatible) if kinds, dtype, scales, head dims or rope pairing differ.
pub fn between<R: AsRef<[u8]>, W: AsMut<[u8]>>(
    from: &Sequence<'_, &[R]>,
    to: &mut Sequence<'_, &mut [W]>,
    tokens: Range<u32>,
) -> Result<()> {
    let (a, b) = (from.geometry, to.geometry);
    let form = |geometry: &Geometry| {
        let dims: Vec<_> = geometry.kinds().map(|kind| (kind, geometry.dim(kind))).collect();
        (geometry.dtype, geometry.scales, geometry.rope, dims)
    };
    if form(a) != form(b) {
        return Err(Error::incompatible(format!(
            "an engine's (dtype, scales, rope, dims) {:?} cannot become another's {:?}",
            form(a),
            form(b)
        )));
    }
    let heads = a.heads.start.max(b.heads.start)..a.heads.end.min(b.heads.end);
    for layer in a.layers.intersection(&b.layers) {
        for kind in a.kinds() {
            let range = SectionRange { layer, kind, tokens: tokens.clone(), heads: heads.clone() };
            scatter(to, &range, &gather(from, &range)?)?;
        }
    }
    Ok(())
}

/// Calls `element(region, byte range in the region, byte offset in the section)` for every element in section order.
fn for_each_element(
    geometry: &Geometry,
    blocks: &[u32],
    range: &SectionRange,
    mut element: impl FnMut(usize, Range<usize>, usize) -> Result<()>,
) -> Result<()> {
    let heads = &geometry.heads;
    let tensor = geometry.tensor(range.layer, range.kind).zip(geometry.paging(range.kind));
    let inside = heads.start <= range.heads.start && range.heads.end <= heads.end && !range.heads.is_empty();
    let (Some((tensor, paging)), true) = (tensor, inside) else {
        return Err(Error::invalid(format!(
            "{range:?} is not the rank's: it has layers {}, heads {heads:?}",
            geometry.layers
        )));
    };
    let bytes = geometry.dtype_of(range.kind).bytes() as usize;
    let rows = geometry.rows(range.kind, &range.tokens, blocks);
    let mut at = 0;
    for row in rows.rows {
        let block = rows.blocks.get((row / rows.per_block) as usize).filter(|id| **id < geometry.blocks);
        let block = *block.ok_or_else(|| {
            Error::invalid(format!("row {row} has no block among {} valid ones", rows.blocks.len()))
        })?;
        for head in geometry.local_heads(range.kind, &range.heads) {
            for dim in 0..geometry.dim(range.kind) {
                let index = paging.offset(block, row % rows.per_block, head, dim);
                let start = usize::try_from(tensor.offset + index * bytes as u64)
                    .map_err(|_| Error::invalid("the geometry exceeds this host's address space"))?;
                element(tensor.region as usize, start..start + bytes, at)?;
                at += bytes;
            }
        }
    }
    Ok(())
}

fn outside(region: usize, bytes: &Range<usize>) -> Error {
    Error::invalid(format!("bytes {bytes:?} are outside region {region} that was given"))
}
