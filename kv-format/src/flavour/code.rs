//! What the 256 codes of each flavour are worth, from the few numbers that define a flavour.

use crate::{Dtype, Error, Result};

/// An FP8 format: one that has these values and no others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Flavour {
    /// OCP E4M3: bias 7, largest 448, no infinity, NaN 0x7F and 0xFF.
    E4m3Fn,
    /// E4M3 FNUZ: bias 8, largest 240, no infinity, no -0, NaN 0x80.
    E4m3Fnuz,
    /// E4M3 as IEEE 754 would have it: bias 7, largest 240, infinities 0x78 and 0xF8, NaN above them. `float8_e4m3` of ml_dtypes.
    E4m3Ieee,
    /// E5M2: bias 15, largest 57344, infinities 0x7C and 0xFC, NaN above them.
    E5m2,
    /// E5M2 FNUZ: bias 16, largest 57344, no infinity, no -0, NaN 0x80.
    E5m2Fnuz,
}

/// The numbers that define a flavour. Codes are without sign, except `nan`.
struct Definition {
    mantissa_bits: u32,
    bias: i32,
    largest: u8,
    infinity: Option<u8>,
    nan: u8,
    negative_zero: bool,
}

/// The bit of a code that holds the sign.
pub(super) const SIGN: u8 = 0x80;

impl Flavour {
    /// Every flavour.
    pub const ALL: [Self; 5] = [Self::E4m3Fn, Self::E4m3Fnuz, Self::E4m3Ieee, Self::E5m2, Self::E5m2Fnuz];

    /// The dtype whose elements have this flavour.
    pub fn dtype(self) -> Dtype {
        match self {
            Self::E4m3Fn => Dtype::E4m3Fn,
            Self::E4m3Fnuz => Dtype::E4m3Fnuz,
            Self::E4m3Ieee => Dtype::E4m3Ieee,
            Self::E5m2 => Dtype::E5m2,
            Self::E5m2Fnuz => Dtype::E5m2Fnuz,
        }
    }

    /// What a code is worth, exactly, without any scale.
    pub fn value(self, code: u8) -> f32 {
        if self.is_nan(code) {
            return f32::NAN;
        }
        let magnitude = code & !SIGN;
        let value = match self.definition().infinity {
            Some(infinity) if infinity == magnitude => f32::INFINITY,
            _ => self.magnitude(magnitude),
        };
        if code & SIGN == 0 { value } else { -value }
    }

    /// Whether a code is no number.
    pub fn is_nan(self, code: u8) -> bool {
        let Definition { largest, infinity, negative_zero, .. } = self.definition();
        if negative_zero { code & !SIGN > infinity.unwrap_or(largest) } else { code == SIGN }
    }

    /// The largest value.
    pub fn largest(self) -> f32 {
        self.magnitude(self.definition().largest)
    }

    /// The code of the largest value, without sign.
    pub(super) fn largest_code(self) -> u8 {
        self.definition().largest
    }

    /// The code of infinity, without sign.
    pub(super) fn infinity_code(self) -> Option<u8> {
        self.definition().infinity
    }

    /// Whether -0 is another code than +0; the flavours without it have no sign at a NaN either.
    pub(super) fn negative_zero(self) -> bool {
        self.definition().negative_zero
    }

    /// The NaN that another flavour's NaN becomes: the quiet one where there is a choice. `sign` is the other's.
    pub(super) fn nan_code(self, sign: u8) -> u8 {
        self.definition().nan | if self.negative_zero() { sign } else { 0 }
    }

    /// The code without sign that is nearest to a number which is not negative, ties to even; above [`largest_code`](Self::largest_code)
    /// if there is none.
    pub(super) fn nearest(self, number: f32) -> u8 {
        let below = (0..SIGN).rev().find(|code| self.magnitude(*code) <= number).unwrap_or(0);
        let (down, up) = (number - self.magnitude(below), self.magnitude(below + 1) - number);
        if down < up || (down == up && below % 2 == 0) { below } else { below + 1 }
    }

    /// What a code without sign would be worth if every code were a number: the rounding rule goes on beyond the largest.
    fn magnitude(self, code: u8) -> f32 {
        let Definition { mantissa_bits, bias, .. } = self.definition();
        let (exponent, mantissa) = (code >> mantissa_bits, code & ((1 << mantissa_bits) - 1));
        // The subnormals have the exponent of the lowest normals and lack their leading one.
        let leading = if exponent == 0 { 0 } else { 1 << mantissa_bits };
        let unit = i32::from(exponent.max(1)) - bias - mantissa_bits.cast_signed();
        f32::from(leading + mantissa) * power_of_two(unit)
    }

    fn definition(self) -> Definition {
        let (mantissa_bits, bias, largest, infinity, nan, negative_zero) = match self {
            Self::E4m3Fn => (3, 7, 0x7E, None, 0x7F, true),
            Self::E4m3Fnuz => (3, 8, 0x7F, None, SIGN, false),
            Self::E4m3Ieee => (3, 7, 0x77, Some(0x78), 0x7C, true),
            Self::E5m2 => (2, 15, 0x7B, Some(0x7C), 0x7E, true),
            Self::E5m2Fnuz => (2, 16, 0x7F, None, SIGN, false),
        };
        Definition { mantissa_bits, bias, largest, infinity, nan, negative_zero }
    }
}

impl TryFrom<Dtype> for Flavour {
    type Error = Error;

    /// # Errors
    /// [`Invalid`](crate::ErrorKind::Invalid) for a dtype that is not FP8.
    fn try_from(dtype: Dtype) -> Result<Self> {
        Self::ALL
            .into_iter()
            .find(|flavour| flavour.dtype() == dtype)
            .ok_or_else(|| Error::invalid(format!("{} is no FP8 flavour: nothing to recode", dtype.name())))
    }
}

/// 2 to the power of `exponent`, which is that of a normal number.
fn power_of_two(exponent: i32) -> f32 {
    f32::from_bits((127 + exponent).cast_unsigned() << 23)
}
