//! What a noisy machine needs to give honest figures: measuring in turns, medians with their spread, and the word for a target.

use std::fmt;

/// Median, least and most of some samples.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
}

impl Spread {
    /// `None` without samples. The median of an even number is the mean of the middle two.
    pub(crate) fn of(samples: &[f64]) -> Option<Self> {
        let mut sorted = samples.to_vec();
        sorted.sort_by(f64::total_cmp);
        let (min, max) = (*sorted.first()?, *sorted.last()?);
        let upper = sorted.get(sorted.len() / 2)?;
        let lower = sorted.get((sorted.len() - 1) / 2)?;
        Some(Self { median: f64::midpoint(*lower, *upper), min, max })
    }
}

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.2} ({:.2}-{:.2})", self.median, self.min, self.max)
    }
}

/// Spread of the ratio of two things round by round: what slows a whole round cancels out.
pub(crate) fn ratio(achieved: &[f64], ceiling: &[f64]) -> Option<Spread> {
    let ratios: Vec<f64> =
        achieved.iter().zip(ceiling).map(|(achieved, ceiling)| achieved / ceiling).collect();
    Spread::of(&ratios)
}

/// Measures `count` things in turns, A B C C B A ..., so that what disturbs the machine disturbs all of them, and what one leaves behind
/// is not always the same one's to bear. The first round warms everything up and is dropped. Returns the samples of each thing in the
/// order of the rounds.
pub(crate) fn in_turns<E>(
    rounds: usize,
    count: usize,
    mut measure: impl FnMut(usize, usize) -> Result<f64, E>,
) -> Result<Vec<Vec<f64>>, E> {
    let mut samples = vec![Vec::with_capacity(rounds); count];
    for round in 0..=rounds {
        let back = round % 2 == 1;
        for turn in 0..count {
            let thing = if back { count - 1 - turn } else { turn };
            let sample = measure(round, thing)?;
            if round > 0 {
                samples[thing].push(sample);
            }
        }
    }
    Ok(samples)
}

/// The word for an absolute target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Met,
    Below,
    /// The best plain loop of this run does not reach it either.
    OutOfReach,
}

impl Verdict {
    /// Judges what was achieved by the least that the target asks for and by the ceiling of the same run.
    pub(crate) fn of(achieved: f64, ceiling: f64, target: f64) -> Self {
        if achieved >= target {
            Self::Met
        } else if ceiling < target {
            Self::OutOfReach
        } else {
            Self::Below
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Met => "met",
            Self::Below => "below",
            Self::OutOfReach => "out of reach here",
        })
    }
}
