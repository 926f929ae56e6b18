//! The conversion of one flavour into another as a table, with what each code loses, and its use on bytes.

use std::fmt;

use super::code::SIGN;
use super::kernel::{Kernel, Tables};
use super::{Change, Changes, Flavour};
use crate::kernels::Destination;
use crate::{Error, ErrorKind, Result};

/// What a caller accepts to lose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Lossy {
    /// -0 may become +0, which no sum or product of attention can tell; any other change is refused.
    ZeroSign,
    /// All changes; what is too large or infinite becomes the largest value of its sign.
    Saturate,
    /// All changes; what is too large becomes infinity where the other flavour has it, else NaN, as in a cast of ml_dtypes.
    Overflow,
}

/// Where one piece of a scattered conversion begins on either side, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Run {
    /// Place in what is read.
    pub from: usize,
    /// Place in what is written.
    pub to: usize,
}

/// How elements of one flavour become elements of another.
#[derive(Clone)]
pub struct Recode {
    from: Flavour,
    to: Flavour,
    lossy: Option<Lossy>,
    scale_factor: f32,
    pub(super) tables: Tables,
}

impl Recode {
    /// The conversion that refuses bytes in which a code would change its value, even the sign of a zero.
    pub fn lossless(from: Flavour, to: Flavour) -> Self {
        Self::new(from, to, None)
    }

    /// The conversion that changes what it must, within what `lossy` permits, and counts it.
    pub fn lossy(from: Flavour, to: Flavour, lossy: Lossy) -> Self {
        Self::new(from, to, Some(lossy))
    }

    fn new(from: Flavour, to: Flavour, lossy: Option<Lossy>) -> Self {
        let scale_factor = scale_factor(from, to);
        let (mut codes, mut changes) = ([0; 256], [0; 256]);
        for code in 0..=u8::MAX {
            let (new, change) = recoded(from, to, scale_factor, lossy, code);
            codes[usize::from(code)] = new;
            changes[usize::from(code)] = change as u8;
        }
        Self { from, to, lossy, scale_factor, tables: Tables::new(codes, changes) }
    }

    /// The flavour that is read.
    pub fn from(&self) -> Flavour {
        self.from
    }

    /// The flavour that is written.
    pub fn to(&self) -> Flavour {
        self.to
    }

    /// The new code of every old one.
    pub fn codes(&self) -> &[u8; 256] {
        &self.tables.codes
    }

    /// What a code loses.
    pub fn change(&self, code: u8) -> Change {
        Change::ALL[usize::from(self.tables.changes[usize::from(code)])]
    }

    /// What a multiplier is multiplied with, a power of two; see [`scale`](Self::scale) for scales of either direction.
    pub fn scale_factor(&self) -> f32 {
        self.scale_factor
    }

    /// How many of `bytes` would change, by kind, whatever is permitted.
    pub fn count(&self, bytes: &[u8]) -> Changes {
        Changes::from_counts(Kernel::best().count(&self.tables, bytes))
    }

    /// Recodes `from` into `to`.
    ///
    /// # Errors
    /// * [`Invalid`](ErrorKind::Invalid) if the slices differ in length; `to` is as before.
    /// * [`Lossy`](ErrorKind::Lossy) with the number of elements that would change if that is not permitted; `to` is of no use then.
    pub fn copy(&self, from: &[u8], to: &mut [u8], destination: Destination) -> Result<Changes> {
        if from.len() != to.len() {
            return Err(Error::invalid(format!(
                "{} elements to recode into {} bytes: expected the same length",
                from.len(),
                to.len()
            )));
        }
        let counts = Kernel::best().copy(&self.tables, from, to, destination);
        self.permitted(Changes::from_counts(counts), from.len())
    }

    /// Recodes pieces of `len` bytes each, in the order of `runs`: a section into an engine's blocks, or blocks into a section.
    ///
    /// Faster than as many calls of [`copy`](Self::copy): what the next piece needs is fetched while one is recoded.
    ///
    /// # Errors
    /// * [`Invalid`](ErrorKind::Invalid) naming the first run that leaves a slice; `to` is as before.
    /// * [`Lossy`](ErrorKind::Lossy) with the number of elements that would change if that is not permitted; `to` is of no use then.
    pub fn copy_runs(
        &self,
        from: &[u8],
        to: &mut [u8],
        runs: &[Run],
        len: usize,
        destination: Destination,
    ) -> Result<Changes> {
        let fits = |start: usize, within: usize| start < within && len <= within - start;
        if let Some(run) = runs.iter().find(|run| !fits(run.from, from.len()) || !fits(run.to, to.len())) {
            return Err(Error::invalid(format!(
                "{run:?} of {len} bytes leaves the {} bytes that are read or the {} that are written",
                from.len(),
                to.len()
            )));
        }
        let counts = Kernel::best().copy_runs(&self.tables, (from, to), (runs, len), destination);
        self.permitted(Changes::from_counts(counts), runs.len().saturating_mul(len))
    }

    /// Recodes bytes where they are.
    ///
    /// # Errors
    /// [`Lossy`](ErrorKind::Lossy) with the number of elements that would change if that is not permitted; `bytes` are as before.
    pub fn in_place(&self, bytes: &mut [u8]) -> Result<Changes> {
        if self.lossy.is_none_or(|lossy| lossy == Lossy::ZeroSign) {
            self.permitted(self.count(bytes), bytes.len())?;
        }
        Ok(Changes::from_counts(Kernel::best().in_place(&self.tables, bytes)))
    }

    fn permitted(&self, changes: Changes, elements: usize) -> Result<Changes> {
        let refused = match self.lossy {
            None => changes.total(),
            Some(Lossy::ZeroSign) => changes.total() - changes.zero_sign,
            Some(Lossy::Saturate | Lossy::Overflow) => 0,
        };
        if refused == 0 {
            return Ok(changes);
        }
        let (from, to) = (self.from.dtype().name(), self.to.dtype().name());
        Err(Error::new(
            ErrorKind::Lossy,
            format!(
                "{from} to {to} changes {refused} of {elements} elements ({changes}): permit it by name (Lossy), or treat it as a miss"
            ),
        ))
    }
}

impl fmt::Debug for Recode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { from, to, lossy, scale_factor, .. } = self;
        f.debug_struct("Recode")
            .field("from", from)
            .field("to", to)
            .field("lossy", lossy)
            .field("scale_factor", scale_factor)
            .finish_non_exhaustive()
    }
}

/// SPEC.md, `flavour-recode`: the factor that keeps the codes where two flavours differ in their bias only, or that brings e4m3fn,
/// whose largest value is above 240, into the range of e4m3-ieee.
fn scale_factor(from: Flavour, to: Flavour) -> f32 {
    match (from, to) {
        (Flavour::E4m3Fnuz, Flavour::E4m3Fn) | (Flavour::E5m2Fnuz, Flavour::E5m2) => 0.5,
        (Flavour::E4m3Fn, Flavour::E4m3Fnuz | Flavour::E4m3Ieee) | (Flavour::E5m2, Flavour::E5m2Fnuz) => 2.0,
        _ => 1.0,
    }
}

/// The new code of one code, and what it loses.
fn recoded(from: Flavour, to: Flavour, factor: f32, lossy: Option<Lossy>, code: u8) -> (u8, Change) {
    if from == to {
        return (code, Change::None);
    }
    let sign = code & SIGN;
    if from.is_nan(code) {
        // The one NaN of a flavour without -0 has no sign, whatever its highest bit.
        return (to.nan_code(if from.negative_zero() { sign } else { 0 }), Change::None);
    }
    let wanted = from.value(code).abs() / factor;
    if let (true, Some(infinity)) = (wanted.is_infinite(), to.infinity_code()) {
        return (sign | infinity, Change::None);
    }
    if wanted > to.largest() {
        let change = if wanted.is_infinite() { Change::Infinity } else { Change::TooLarge };
        let new = match (lossy, to.infinity_code()) {
            (Some(Lossy::Overflow), Some(infinity)) => sign | infinity,
            (Some(Lossy::Overflow), None) => to.nan_code(sign),
            _ => sign | to.largest_code(),
        };
        return (new, change);
    }
    let nearest = to.nearest(wanted);
    if nearest == 0 {
        let change = match (wanted == 0.0, to.negative_zero() || sign == 0) {
            (false, _) => Change::Flushed,
            (true, true) => Change::None,
            (true, false) => Change::ZeroSign,
        };
        return (if to.negative_zero() { sign } else { 0 }, change);
    }
    let change = if to.value(nearest) == wanted { Change::None } else { Change::Rounded };
    (sign | nearest, change)
}
