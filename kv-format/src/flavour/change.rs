//! What a recode loses: the kinds, and how many elements of each.

use std::fmt;
use std::ops::{Add, AddAssign};

/// What a recode does to one code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
#[repr(u8)]
pub enum Change {
    /// Nothing: value x scale is the same, or it is still no number.
    None = 0,
    /// -0 becomes +0.
    ZeroSign = 1,
    /// The nearest value is taken.
    Rounded = 2,
    /// The nearest value is zero, and it was not.
    Flushed = 3,
    /// A finite value is beyond the other flavour's largest.
    TooLarge = 4,
    /// An infinity, which the other flavour has not.
    Infinity = 5,
}

impl Change {
    /// Every kind of change, by its number.
    pub const ALL: [Self; 6] =
        [Self::None, Self::ZeroSign, Self::Rounded, Self::Flushed, Self::TooLarge, Self::Infinity];
}

/// How many elements were changed, by kind. Sums over pieces are sums of these.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub struct Changes {
    /// -0 that became +0.
    pub zero_sign: u64,
    /// Elements that became the nearest value, which is not zero.
    pub rounded: u64,
    /// Elements that became zero.
    pub flushed: u64,
    /// Finite elements beyond the largest value.
    pub too_large: u64,
    /// Infinities that the other flavour has not.
    pub infinite: u64,
}

impl Changes {
    /// Elements that were changed.
    pub fn total(&self) -> u64 {
        let Self { zero_sign, rounded, flushed, too_large, infinite } = self;
        zero_sign + rounded + flushed + too_large + infinite
    }

    pub(super) fn from_counts(counts: [u64; Change::ALL.len()]) -> Self {
        let [_, zero_sign, rounded, flushed, too_large, infinite] = counts;
        Self { zero_sign, rounded, flushed, too_large, infinite }
    }
}

impl Add for Changes {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            zero_sign: self.zero_sign + other.zero_sign,
            rounded: self.rounded + other.rounded,
            flushed: self.flushed + other.flushed,
            too_large: self.too_large + other.too_large,
            infinite: self.infinite + other.infinite,
        }
    }
}

impl AddAssign for Changes {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

impl fmt::Display for Changes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { zero_sign, rounded, flushed, too_large, infinite } = self;
        let kinds = [
            (zero_sign, "-0 to +0"),
            (rounded, "rounded"),
            (flushed, "flushed to zero"),
            (too_large, "too large"),
            (infinite, "infinite"),
        ];
        let mut separator = "";
        for (count, kind) in kinds.into_iter().filter(|(count, _)| **count > 0) {
            write!(f, "{separator}{count} {kind}")?;
            separator = ", ";
        }
        if separator.is_empty() { f.write_str("none") } else { Ok(()) }
    }
}
