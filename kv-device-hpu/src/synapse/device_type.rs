//! Which accelerator: `synDeviceType`.

use std::fmt;
use std::str::FromStr;

/// A generation of accelerators. The codes are those of 1.16 and later; the 2021 headers numbered them otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DeviceType {
    /// First generation.
    Gaudi,
    /// Second generation: its 8-bit float is E4M3 with infinities.
    Gaudi2,
    /// Third generation.
    Gaudi3,
    /// A code that this crate does not know.
    Other(i32),
}

impl DeviceType {
    /// The type with the vendor's code.
    pub fn from_code(code: i32) -> Self {
        match code {
            2 => Self::Gaudi,
            4 => Self::Gaudi2,
            5 => Self::Gaudi3,
            other => Self::Other(other),
        }
    }

    /// The vendor's code.
    pub fn code(self) -> i32 {
        match self {
            Self::Gaudi => 2,
            Self::Gaudi2 => 4,
            Self::Gaudi3 => 5,
            Self::Other(code) => code,
        }
    }
}

impl fmt::Display for DeviceType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Gaudi => f.write_str("gaudi"),
            Self::Gaudi2 => f.write_str("gaudi2"),
            Self::Gaudi3 => f.write_str("gaudi3"),
            Self::Other(code) => write!(f, "a device of unknown type {code}"),
        }
    }
}

impl FromStr for DeviceType {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "gaudi" => Ok(Self::Gaudi),
            "gaudi2" => Ok(Self::Gaudi2),
            "gaudi3" => Ok(Self::Gaudi3),
            other => Err(format!("{other:?} is no device type: expected gaudi, gaudi2 or gaudi3")),
        }
    }
}
