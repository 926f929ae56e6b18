//! Element types as exact flavours: two FP8 formats that share a name but not a value are two types.

use crate::{Error, Result};

/// The type of one stored element.
///
/// The numbers are those of the object header (SPEC.md, `dtype-codes`). This version converts and verifies all of them as opaque
/// elements of their size; it never changes a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
#[repr(u16)]
pub enum Dtype {
    /// bfloat16.
    Bf16 = 1,
    /// IEEE binary16.
    F16 = 2,
    /// IEEE binary32.
    F32 = 3,
    /// Signed 8-bit integer.
    Int8 = 4,
    /// OCP FP8 E4M3 (bias 7, largest 448, no infinity): MI350, Gaudi3, NVIDIA.
    E4m3Fn = 5,
    /// FP8 E4M3 FNUZ (bias 8, largest 240, no negative zero): MI300X.
    E4m3Fnuz = 6,
    /// FP8 E4M3 with infinities (bias 7, largest 240): Gaudi2.
    E4m3Ieee = 7,
    /// FP8 E5M2 (bias 15).
    E5m2 = 8,
    /// FP8 E5M2 FNUZ (bias 16).
    E5m2Fnuz = 9,
}

impl Dtype {
    /// Every dtype that this version knows.
    pub const ALL: [Self; 9] = [
        Self::Bf16,
        Self::F16,
        Self::F32,
        Self::Int8,
        Self::E4m3Fn,
        Self::E4m3Fnuz,
        Self::E4m3Ieee,
        Self::E5m2,
        Self::E5m2Fnuz,
    ];

    /// Bytes of one element.
    pub fn bytes(self) -> u32 {
        match self {
            Self::F32 => 4,
            Self::Bf16 | Self::F16 => 2,
            Self::Int8 | Self::E4m3Fn | Self::E4m3Fnuz | Self::E4m3Ieee | Self::E5m2 | Self::E5m2Fnuz => 1,
        }
    }

    /// The header's number.
    pub fn code(self) -> u16 {
        self as u16
    }

    /// The dtype with a header's number.
    ///
    /// # Errors
    /// [`Incompatible`](crate::ErrorKind::Incompatible) for a number that this version does not know.
    pub fn from_code(code: u16) -> Result<Self> {
        Self::ALL.into_iter().find(|dtype| dtype.code() == code).ok_or_else(|| {
            Error::incompatible(format!("dtype code {code}: this version knows 1 to {}", Self::ALL.len()))
        })
    }

    /// The name used in namespaces and messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::Bf16 => "bf16",
            Self::F16 => "f16",
            Self::F32 => "f32",
            Self::Int8 => "int8",
            Self::E4m3Fn => "e4m3fn",
            Self::E4m3Fnuz => "e4m3fnuz",
            Self::E4m3Ieee => "e4m3-ieee",
            Self::E5m2 => "e5m2",
            Self::E5m2Fnuz => "e5m2fnuz",
        }
    }
}

/// Which elements of a head are rotated together. The same model's K differs between the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
#[repr(u16)]
pub enum RopePairing {
    /// Elements 2i and 2i + 1 (llama.cpp, GPT-J).
    Interleaved = 1,
    /// Elements i and i + dim / 2 (Hugging Face, vLLM, GPT-NeoX).
    RotateHalf = 2,
}

impl RopePairing {
    /// The header's number.
    pub fn code(self) -> u16 {
        self as u16
    }

    /// The pairing with a header's number.
    ///
    /// # Errors
    /// [`Incompatible`](crate::ErrorKind::Incompatible) for a number that this version does not know.
    pub fn from_code(code: u16) -> Result<Self> {
        match code {
            1 => Ok(Self::Interleaved),
            2 => Ok(Self::RotateHalf),
            _ => Err(Error::incompatible(format!("rope pairing code {code}: this version knows 1 and 2"))),
        }
    }

    /// The name used in namespaces and messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::Interleaved => "interleaved",
            Self::RotateHalf => "rotate-half",
        }
    }
}
