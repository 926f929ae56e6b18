//! Sets of a model's layers: a hybrid model alternates between groups, so a group's layers need not be neighbours.

use std::fmt;
use std::ops::Range;

/// Layers of a model, as sorted ranges that neither touch nor overlap. The text is `0-5,6-11`, each range without its end.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct LayerSet(Vec<Range<u32>>);

impl LayerSet {
    /// The ranges, sorted, apart from each other.
    pub fn ranges(&self) -> &[Range<u32>] {
        &self.0
    }

    /// Whether there is no layer.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Number of layers.
    pub fn count(&self) -> u32 {
        self.0.iter().map(|range| range.end - range.start).sum()
    }

    /// From the first layer to behind the last one; `0..0` if there is none.
    pub fn bounds(&self) -> Range<u32> {
        match (self.0.first(), self.0.last()) {
            (Some(first), Some(last)) => first.start..last.end,
            _ => 0..0,
        }
    }

    /// Whether a layer is in the set.
    pub fn contains(&self, layer: u32) -> bool {
        self.0.iter().any(|range| range.contains(&layer))
    }

    /// How many layers of the set are before `layer`, if that is in the set.
    pub fn position(&self, layer: u32) -> Option<u32> {
        let mut before = 0;
        for range in &self.0 {
            if range.contains(&layer) {
                return Some(before + (layer - range.start));
            }
            before += range.end - range.start;
        }
        None
    }

    /// The layers of the set in order.
    pub fn iter(&self) -> impl Iterator<Item = u32> + Clone + '_ {
        self.0.iter().flat_map(Clone::clone)
    }

    /// The layers that are in `range` too.
    #[must_use]
    pub fn within(&self, range: Range<u32>) -> Self {
        let cut = |own: &Range<u32>| own.start.max(range.start)..own.end.min(range.end);
        Self(self.0.iter().map(cut).filter(|part| !part.is_empty()).collect())
    }

    /// The layers that both sets have.
    #[must_use]
    pub fn intersection(&self, other: &Self) -> Self {
        self.0.iter().flat_map(|range| other.within(range.clone()).0).collect()
    }
}

impl From<Range<u32>> for LayerSet {
    fn from(range: Range<u32>) -> Self {
        [range].into_iter().collect()
    }
}

/// Ranges in any order; those that touch or overlap become one, empty ones none.
impl FromIterator<Range<u32>> for LayerSet {
    fn from_iter<I: IntoIterator<Item = Range<u32>>>(ranges: I) -> Self {
        let mut given: Vec<Range<u32>> = ranges.into_iter().filter(|range| !range.is_empty()).collect();
        given.sort_unstable_by_key(|range| (range.start, range.end));
        let mut apart: Vec<Range<u32>> = Vec::with_capacity(given.len());
        for range in given {
            match apart.last_mut() {
                Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
                _ => apart.push(range),
            }
        }
        Self(apart)
    }
}

/// Layers in any order.
impl FromIterator<u32> for LayerSet {
    fn from_iter<I: IntoIterator<Item = u32>>(layers: I) -> Self {
        layers.into_iter().filter_map(|layer| Some(layer..layer.checked_add(1)?)).collect()
    }
}

impl IntoIterator for LayerSet {
    type Item = u32;
    type IntoIter = std::iter::Flatten<std::vec::IntoIter<Range<u32>>>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter().flatten()
    }
}

impl fmt::Display for LayerSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, range) in self.0.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            write!(f, "{comma}{}-{}", range.start, range.end)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_has_one_form_whatever_it_was_made_of() {
        let alternating: LayerSet = [4, 0, 2, 2].into_iter().collect();
        assert_eq!(alternating.to_string(), "0-1,2-3,4-5");
        assert_eq!((alternating.count(), alternating.bounds()), (3, 0..5));
        assert_eq!(alternating.iter().collect::<Vec<_>>(), [0, 2, 4]);
        assert_eq!(
            [0, 1, 2, 3, 4].map(|layer| alternating.position(layer)),
            [Some(0), None, Some(1), None, Some(2)]
        );
        let ranges: LayerSet = [6..11, 0..3, 3..5, 2..4, 7..7].into_iter().collect();
        assert_eq!(ranges.to_string(), "0-5,6-11");
        assert_eq!(ranges.within(4..8).to_string(), "4-5,6-8");
        assert_eq!(ranges.intersection(&alternating), [0..1, 2..3, 4..5].into_iter().collect());
        assert_eq!(LayerSet::from(5..5), LayerSet::default());
        assert_eq!(LayerSet::default().bounds(), 0..0);
    }
}
