//! FP8 flavours: what their codes are worth, and how elements and scales of one become those of another.
//!
//! Two devices that both "have FP8" often do not have the same one: MI300X computes in e4m3fnuz, Gaudi3 in e4m3fn, and one byte is worth
//! twice as much on the one as on the other. A reader whose flavour is not the stored one therefore misses, unless it recodes: an
//! element is worth code x scale, so the codes are kept where the two flavours allow it, and the scale takes the difference.
//!
//! | from, to | codes | scale | what may change |
//! |---|---|---|---|
//! | e4m3fnuz, e4m3fn | kept | x 1/2 | the largest code of either sign (240 becomes 2 x 224 x 1/2) |
//! | e4m3fn, e4m3fnuz | kept | x 2 | the sign of zero |
//! | e5m2fnuz, e5m2 | kept | x 1/2 | the top four codes of either sign |
//! | e5m2, e5m2fnuz | kept | x 2 | the sign of zero; infinities |
//! | e4m3fn, e4m3-ieee | value / 2 | x 2 | 16 codes near zero, by half a unit |
//! | e4m3fnuz, e4m3-ieee | same value | kept | 16 codes near zero, by half a unit |
//! | e4m3-ieee, e4m3fnuz | same value | kept | the sign of zero; infinities |
//! | e4m3-ieee, e4m3fn | kept | kept | infinities |
//! | any e4m3, any e5m2, and back | same value | kept | whatever the other cannot hold: most codes |
//!
//! All of it follows from one rule: the new code is the one nearest to value / factor, ties to even, and the scale is multiplied with
//! the factor (SPEC.md, `flavour-recode`). A [`Recode`] is that rule as a table of 256 codes, and says of each code what it loses.
//! Nothing is lost by accident: [`Recode::lossless`] refuses bytes that hold a code which would change, and [`Recode::lossy`] wants the
//! loss named and returns how many elements had it.
//!
//! ```
//! use kv_format::flavour::{Flavour, Lossy, Recode};
//! use kv_format::{ErrorKind, ScaleDirection};
//! # fn main() -> kv_format::Result<()> {
//! let strict = Recode::lossless(Flavour::E4m3Fnuz, Flavour::E4m3Fn);
//! let mut codes = [0x38, 0xB8, 0x80]; // 0.5, -0.5, NaN
//! let mut scales = [0.25];
//! strict.in_place(&mut codes)?;
//! strict.scales(ScaleDirection::Multiply, &mut scales)?;
//! assert_eq!((codes, scales), ([0x38, 0xB8, 0x7F], [0.125])); // 1 x 0.125 is 0.5 x 0.25, exactly
//!
//! let mut codes = [0x38, 0x7F]; // 240 x 2 is more than e4m3fn has
//! assert_eq!(strict.in_place(&mut codes).unwrap_err().kind(), ErrorKind::Lossy);
//! let changes = Recode::lossy(Flavour::E4m3Fnuz, Flavour::E4m3Fn, Lossy::Saturate).in_place(&mut codes)?;
//! assert_eq!((codes, changes.too_large, changes.total()), ([0x38, 0x7E], 1, 1));
//! # Ok(()) }
//! ```
//!
//! # What counts as a change
//!
//! A change is an element whose value, times its scale, is another than before; -0 and +0 are two values here. A NaN that becomes a NaN
//! is none, though its sign and payload may differ, since most flavours have one NaN only. Where the other flavour has signed NaNs a
//! signed NaN keeps its sign.
//!
//! # Scales
//!
//! Elements without scales have the scale 1. Where the factor is not 1, recoded elements need the factor as their scale: an engine
//! that goes on with 1 reads half or twice of every value. That is no exotic case: engines skip the doubling for e4m3fnuz when a
//! checkpoint brings no scales.

mod change;
mod code;
mod kernel;
mod recode;
mod scale;
#[cfg(target_arch = "x86_64")]
#[expect(unsafe_code, reason = "vector loads and stores, and calls of functions that need a CPU feature")]
mod simd;

pub use change::{Change, Changes};
pub use code::Flavour;
pub use recode::{Lossy, Recode, Run};
