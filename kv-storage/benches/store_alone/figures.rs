//! Medians with their spread.

use std::fmt;

/// Median, least and most of some samples.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    least: f64,
    most: f64,
}

impl Spread {
    /// Of at least one sample.
    pub(crate) fn of(samples: &[f64]) -> Self {
        let mut sorted = samples.to_vec();
        sorted.sort_by(f64::total_cmp);
        Self { median: sorted[sorted.len() / 2], least: sorted[0], most: sorted[sorted.len() - 1] }
    }
}

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.2} ({:.2}-{:.2})", self.median, self.least, self.most)
    }
}

/// The ratio of two things, round by round: what slows a whole round cancels out.
pub(crate) fn ratio(achieved: &[f64], ceiling: &[f64]) -> Spread {
    let ratios: Vec<f64> = achieved.iter().zip(ceiling).map(|(a, c)| a / c).collect();
    Spread::of(&ratios)
}
