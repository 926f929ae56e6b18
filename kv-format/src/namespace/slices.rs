//! The slice table: a fixed cut of a chunk by layers and KV heads, the same for every engine, so that ranks of any planned
//! parallelism read and write whole objects.

use std::ops::Range;

use super::KvGroup;
use crate::{Error, Geometry, Result};

/// A fixed part of every chunk: some layers and some KV heads of one group.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Slice {
    /// Index of the KV group.
    pub group: u32,
    /// Layers of the model.
    pub layers: Range<u32>,
    /// KV heads of the model.
    pub heads: Range<u32>,
}

/// Every slice of a chunk, in the order of their indices.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct SliceTable(Vec<Slice>);

/// Up to this many KV heads, every head is a slice of its own.
const HEADS_SLICED_SINGLY: u32 = 16;

impl SliceTable {
    /// The table for engines whose tensor parallelism is one of `tensor_parallel` and whose pipeline stages begin at
    /// `stage_starts` (layers; 0 is implied).
    ///
    /// One slice per KV head up to 16 heads; else the most heads that divide the heads per rank of every planned degree.
    ///
    /// # Errors
    /// [`Invalid`](crate::ErrorKind::Invalid) for a degree that neither divides a group's heads nor is a multiple of them, or a
    /// stage start outside the layers.
    pub fn plan(groups: &[KvGroup], tensor_parallel: &[u32], stage_starts: &[u32]) -> Result<Self> {
        let mut slices = Vec::new();
        for (index, group) in (0..).zip(groups) {
            let heads = heads_per_slice(group.kv_heads, tensor_parallel)?;
            let mut cuts: Vec<u32> =
                stage_starts.iter().copied().filter(|cut| group.layers.contains(cut)).collect();
            cuts.extend([group.layers.start, group.layers.end]);
            cuts.sort_unstable();
            cuts.dedup();
            for layers in cuts.windows(2).map(|pair| pair[0]..pair[1]) {
                for head in (0..group.kv_heads).step_by(heads as usize) {
                    slices.push(Slice { group: index, layers: layers.clone(), heads: head..head + heads });
                }
            }
        }
        if let Some(cut) =
            stage_starts.iter().find(|cut| !groups.iter().any(|group| group.layers.contains(cut)))
        {
            return Err(Error::invalid(format!(
                "a pipeline stage starts at layer {cut}, which no KV group has"
            )));
        }
        Ok(Self(slices))
    }

    /// All slices.
    pub fn slices(&self) -> &[Slice] {
        &self.0
    }

    /// The slices that a rank holds, with their indices.
    ///
    /// # Errors
    /// [`Incompatible`](crate::ErrorKind::Incompatible) if the rank holds a part of a slice only: its parallelism was not planned
    /// when the namespace was made.
    pub fn held_by(&self, geometry: &Geometry) -> Result<Vec<(u32, &Slice)>> {
        let mut held = Vec::new();
        let mut cells = 0;
        for (index, slice) in (0..).zip(&self.0) {
            let (layers, heads) =
                (overlap(&slice.layers, &geometry.layers), overlap(&slice.heads, &geometry.heads));
            if layers == 0 || heads == 0 {
                continue;
            }
            if layers < slice.layers.len() || heads < slice.heads.len() {
                return Err(Error::incompatible(format!(
                    "slice {index} (layers {:?}, heads {:?}) is cut by a rank with layers {:?} and heads {:?}: plan this parallelism when the namespace is made",
                    slice.layers, slice.heads, geometry.layers, geometry.heads
                )));
            }
            cells += layers * heads;
            held.push((index, slice));
        }
        if cells != geometry.layers.len() * geometry.heads.len() {
            return Err(Error::incompatible(format!(
                "the rank holds layers {:?} and heads {:?}, but the namespace's slices cover only a part of them",
                geometry.layers, geometry.heads
            )));
        }
        Ok(held)
    }
}

/// Length of the intersection.
fn overlap(a: &Range<u32>, b: &Range<u32>) -> usize {
    (a.start.max(b.start)..a.end.min(b.end)).len()
}

/// Heads of one slice, so that no planned degree cuts a slice.
fn heads_per_slice(heads: u32, tensor_parallel: &[u32]) -> Result<u32> {
    let mut largest = heads;
    for &degree in tensor_parallel {
        let shards = degree > 0 && heads.is_multiple_of(degree);
        let replicates = degree > 0 && degree.is_multiple_of(heads);
        if !shards && !replicates {
            return Err(Error::invalid(format!(
                "tensor parallelism {degree} neither divides {heads} KV heads nor is a multiple of them"
            )));
        }
        largest = gcd(largest, (heads / degree).max(1));
    }
    Ok(if heads <= HEADS_SLICED_SINGLY { 1 } else { largest })
}

fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(heads: u32, tp: &[u32], stages: &[u32]) -> Result<SliceTable> {
        SliceTable::plan(&[KvGroup::full_attention(80, heads, 128)], tp, stages)
    }

    //= SPEC.md#slice-table-plan
    #[test]
    fn heads_per_slice_serve_every_planned_degree() {
        assert_eq!(table(8, &[1, 8, 16], &[]).unwrap().slices().len(), 8, "one slice a head");
        assert_eq!(table(32, &[1, 2, 4], &[]).unwrap().slices().len(), 4, "eight heads a slice");
        assert_eq!(table(32, &[64], &[]).unwrap().slices().len(), 32);
        assert_eq!(table(32, &[], &[]).unwrap().slices().len(), 1);
        let staged = table(8, &[8], &[0, 40]).unwrap();
        assert_eq!(staged.slices().len(), 16);
        assert_eq!(staged.slices()[8], Slice { group: 0, layers: 40..80, heads: 0..1 });
        for (tp, stages) in [([3], vec![]), ([0], vec![]), ([8], vec![80])] {
            assert!(table(8, &tp, &stages).is_err(), "TP {tp:?}, stages {stages:?}");
        }
    }
}
