//! The slice table: a fixed cut of a chunk by layers and KV heads, the same for every engine, so that ranks of any planned
//! parallelism read and write whole objects.

use std::ops::Range;

use super::KvGroup;
use super::groups::sharding;
use crate::{Error, Geometry, LayerSet, Result};

/// A fixed part of every chunk: some layers and some KV heads of one group.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Slice {
    /// Index of the KV group.
    pub group: u32,
    /// Layers of the model: the slice holds those of them that the group has, the first and the last included.
    pub layers: Range<u32>,
    /// KV heads of the model.
    pub heads: Range<u32>,
}

/// Every slice of a chunk, in the order of their indices.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct SliceTable {
    slices: Vec<Slice>,
    /// Layers of each group.
    groups: Vec<LayerSet>,
    /// Where pipeline stages may begin and end: sorted, from the model's first layer to behind its last.
    cuts: Vec<u32>,
}

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
        let layers: Vec<LayerSet> = groups.iter().map(|group| group.layers.clone()).collect();
        let model = layers.iter().flat_map(|set| set.ranges().to_vec()).collect::<LayerSet>().bounds();
        if let Some(cut) = stage_starts.iter().find(|cut| !model.contains(cut)) {
            return Err(Error::invalid(format!(
                "a pipeline stage starts at layer {cut}, but the KV groups have layers {model:?}"
            )));
        }
        let mut cuts = [stage_starts, &[model.start, model.end]].concat();
        cuts.sort_unstable();
        cuts.dedup();
        let mut slices = Vec::new();
        for ((index, group), own) in (0..).zip(groups).zip(&layers) {
            let heads = heads_per_slice(group.kv_heads, tensor_parallel)?;
            for stage in cuts.windows(2) {
                let layers = own.within(stage[0]..stage[1]).bounds();
                if layers.is_empty() {
                    continue;
                }
                for head in (0..group.kv_heads).step_by(heads as usize) {
                    slices.push(Slice { group: index, layers: layers.clone(), heads: head..head + heads });
                }
            }
        }
        Ok(Self { slices, groups: layers, cuts })
    }

    /// All slices.
    pub fn slices(&self) -> &[Slice] {
        &self.slices
    }

    /// The layers that a slice holds: its group's inside its range.
    pub fn layers(&self, slice: &Slice) -> LayerSet {
        self.groups
            .get(slice.group as usize)
            .map(|group| group.within(slice.layers.clone()))
            .unwrap_or_default()
    }

    /// The slices of its group that a rank holds, with their indices.
    ///
    /// # Errors
    /// [`Incompatible`](crate::ErrorKind::Incompatible) if the rank holds a part of a slice only: its parallelism was not planned
    /// when the namespace was made.
    pub fn held_by(&self, geometry: &Geometry) -> Result<Vec<(u32, &Slice)>> {
        let mut held = Vec::new();
        let mut cells = 0;
        let own = (0..).zip(&self.slices).filter(|(_, slice)| slice.group == geometry.group);
        for (index, slice) in own {
            let all = self.layers(slice);
            let layers = all.intersection(&geometry.layers).count();
            let heads = overlap(&slice.heads, &geometry.heads);
            if layers == 0 || heads == 0 {
                continue;
            }
            if layers < all.count() || heads < slice.heads.len() {
                return Err(Error::incompatible(format!(
                    "slice {index} (KV group {}, layers {all}, heads {:?}) is cut by a rank with layers {} and heads {:?}: plan this parallelism when the namespace is made",
                    slice.group, slice.heads, geometry.layers, geometry.heads
                )));
            }
            cells += u64::from(layers) * heads as u64;
            held.push((index, slice));
        }
        if cells != u64::from(geometry.layers.count()) * geometry.heads.len() as u64 {
            return Err(Error::incompatible(format!(
                "the rank holds layers {} and heads {:?} of KV group {}, but the namespace's slices cover only a part of them",
                geometry.layers, geometry.heads, geometry.group
            )));
        }
        Ok(held)
    }

    /// The slices that a rank with these geometries, one for each KV group, holds, with their indices in order.
    ///
    /// # Errors
    /// [`Incompatible`](crate::ErrorKind::Incompatible) as [`held_by`](Self::held_by), and if a group of the namespace is missing in
    /// whole or for some layers of the rank's pipeline stages: without it a chunk would be of no use. A group that is given twice is
    /// [`Invalid`](crate::ErrorKind::Invalid).
    pub fn held_by_rank<'a>(&'a self, geometries: &[Geometry]) -> Result<Vec<(u32, &'a Slice)>> {
        let layers = geometries.iter().flat_map(|geometry| geometry.layers.ranges().to_vec());
        let stages = self.stages(layers.collect::<LayerSet>().bounds());
        let mut held = Vec::new();
        for (index, group) in (0..).zip(&self.groups) {
            let expected = group.within(stages.clone());
            let mut own = geometries.iter().filter(|geometry| geometry.group == index);
            let (first, second) = (own.next(), own.next());
            if second.is_some() {
                return Err(Error::invalid(format!("two geometries describe KV group {index}")));
            }
            let found = first.map(|geometry| geometry.layers.clone()).unwrap_or_default();
            if found != expected {
                return Err(Error::incompatible(format!(
                    "the rank holds layers [{found}] of KV group {index}, but its pipeline stages (layers {stages:?}) have layers [{expected}] of it: describe every group, and plan the stages when the namespace is made"
                )));
            }
            if let Some(geometry) = first {
                held.extend(self.held_by(geometry)?);
            }
        }
        if let Some(geometry) =
            geometries.iter().find(|geometry| geometry.group as usize >= self.groups.len())
        {
            return Err(Error::incompatible(format!(
                "the rank has a KV group {}, but the namespace has {} groups",
                geometry.group,
                self.groups.len()
            )));
        }
        Ok(held)
    }

    /// The planned pipeline stages that together hold `layers`.
    fn stages(&self, layers: Range<u32>) -> Range<u32> {
        let start = self.cuts.iter().rev().find(|cut| **cut <= layers.start);
        let end = self.cuts.iter().find(|cut| **cut >= layers.end);
        start.copied().unwrap_or(layers.start)..end.copied().unwrap_or(layers.end)
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
        let (per_rank, _) = sharding(heads, degree)?;
        largest = gcd(largest, per_rank);
    }
    Ok(if heads <= HEADS_SLICED_SINGLY { 1 } else { largest })
}

fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::GroupRule;

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

    //= SPEC.md#slice-layers
    #[test]
    fn a_cut_falls_between_the_layers_of_groups_that_alternate() {
        let rule = GroupRule::FullAttention { key_dim: 8, value_dim: 8 };
        let alternate = |first: u32| KvGroup::new(rule, (first..8).step_by(2).collect::<LayerSet>(), 1);
        let table = SliceTable::plan(&[alternate(0), alternate(1)], &[], &[0, 3]).unwrap();
        let cut: Vec<_> = table.slices().iter().map(|slice| (slice.group, slice.layers.clone())).collect();
        assert_eq!(cut, [(0, 0..3), (0, 4..7), (1, 1..2), (1, 3..8)]);
        let layers: Vec<_> = table.slices().iter().map(|slice| table.layers(slice).to_string()).collect();
        assert_eq!(layers, ["0-1,2-3", "4-5,6-7", "1-2", "3-4,5-6,7-8"]);
    }
}
