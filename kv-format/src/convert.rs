//! Conversion between engines' memory and sections, element by element: slow, obviously right, and the oracle for everything faster.

use std::ops::Range;

use crate::{Error, Geometry, Result, TensorKind};

/// Which elements of the model's KV: one section, or a part of one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SectionRange {
    /// Layer of the model.
    pub layer: u32,
    /// K or V.
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

/// Copies a section out of an engine's memory, in the order `[token][head][dim]`.
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
    let dim = to.geometry.dim(range.kind) as usize * to.geometry.dtype.bytes() as usize;
    let expected = range.tokens.len() * range.heads.len() * dim;
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
/// As [`gather`]; [`Incompatible`](crate::ErrorKind::Incompatible) if dtype, head dims or rope pairing differ.
pub fn between<R: AsRef<[u8]>, W: AsMut<[u8]>>(
    from: &Sequence<'_, &[R]>,
    to: &mut Sequence<'_, &mut [W]>,
    tokens: Range<u32>,
) -> Result<()> {
    let (a, b) = (from.geometry, to.geometry);
    if (a.dtype, a.key_dim, a.value_dim, a.rope) != (b.dtype, b.key_dim, b.value_dim, b.rope) {
        return Err(Error::incompatible(format!(
            "{:?} with dims {}/{} and {:?} rope cannot become {:?} with dims {}/{} and {:?} rope",
            a.dtype, a.key_dim, a.value_dim, a.rope, b.dtype, b.key_dim, b.value_dim, b.rope
        )));
    }
    let heads = a.heads.start.max(b.heads.start)..a.heads.end.min(b.heads.end);
    for layer in a.layers.start.max(b.layers.start)..a.layers.end.min(b.layers.end) {
        for kind in TensorKind::BOTH {
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
    let tensor = geometry.tensor(range.layer, range.kind);
    let (Some(tensor), true) = (tensor, heads.start <= range.heads.start && range.heads.end <= heads.end)
    else {
        return Err(Error::invalid(format!(
            "{range:?} is not the rank's: it has layers {:?}, heads {heads:?}",
            geometry.layers
        )));
    };
    let paging = geometry.paging(range.kind);
    let bytes = geometry.dtype.bytes() as usize;
    let mut at = 0;
    for token in range.tokens.clone() {
        let block = blocks.get((token / geometry.block_tokens) as usize).filter(|id| **id < geometry.blocks);
        let block = *block.ok_or_else(|| {
            Error::invalid(format!("token {token} has no block among {} valid ones", blocks.len()))
        })?;
        for head in range.heads.clone() {
            for dim in 0..geometry.dim(range.kind) {
                let index = paging.offset(block, token % geometry.block_tokens, head - heads.start, dim);
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
