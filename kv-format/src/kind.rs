//! What a tensor of a layer holds, and which kinds stand together.

use crate::{Error, Result, ScaleGranularity};

/// What a tensor of a layer holds. The numbers are those of the table in an object's header, and the order of its sections.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
#[repr(u16)]
pub enum TensorKind {
    /// Attention keys: a row per token.
    Key = 1,
    /// Attention values: a row per token.
    Value = 2,
    /// Latent of multi-head latent attention with its rotary part behind it: a row per token.
    Latent = 3,
    /// Keys of a sparse-attention index: a row per token.
    Index = 4,
    /// State of a recurrent layer after the last token of a chunk: one row per chunk.
    State = 5,
    /// Scales of the keys.
    KeyScale = 6,
    /// Scales of the values.
    ValueScale = 7,
    /// Scales of the latent.
    LatentScale = 8,
    /// Scales of the index.
    IndexScale = 9,
}

impl TensorKind {
    /// Every kind, in the order of the numbers.
    pub const ALL: [Self; 9] = [
        Self::Key,
        Self::Value,
        Self::Latent,
        Self::Index,
        Self::State,
        Self::KeyScale,
        Self::ValueScale,
        Self::LatentScale,
        Self::IndexScale,
    ];

    /// Those of plain attention, in the order in which an object holds them.
    pub const BOTH: [Self; 2] = [Self::Key, Self::Value];

    /// The kinds that one KV group has, without scales.
    const FAMILIES: [&[Self]; 4] = [&Self::BOTH, &[Self::Latent], &[Self::Index], &[Self::State]];

    /// The header's number.
    pub fn code(self) -> u16 {
        self as u16
    }

    /// The kind with a header's number.
    ///
    /// # Errors
    /// [`Incompatible`](crate::ErrorKind::Incompatible) for a number that this version does not know.
    pub fn from_code(code: u16) -> Result<Self> {
        Self::ALL.into_iter().find(|kind| kind.code() == code).ok_or_else(|| {
            Error::incompatible(format!(
                "tensor kind code {code}: this version knows 1 to {}",
                Self::ALL.len()
            ))
        })
    }

    /// The kind that holds this kind's scales; `None` for a state, which has none, and for scales.
    pub fn scale(self) -> Option<Self> {
        match self {
            Self::Key => Some(Self::KeyScale),
            Self::Value => Some(Self::ValueScale),
            Self::Latent => Some(Self::LatentScale),
            Self::Index => Some(Self::IndexScale),
            _ => None,
        }
    }

    /// Whether this kind holds scales.
    pub fn is_scale(self) -> bool {
        self >= Self::KeyScale
    }

    /// Extents of a section of this kind: rows, heads, elements of a head. `rows` counts tokens; a state has one row whatever their
    /// number, and static scales have one row or one element.
    pub(crate) fn shape(self, scales: Option<ScaleGranularity>, rows: u32, heads: u32, dim: u32) -> [u32; 3] {
        match (self, scales) {
            (Self::State, _) => [1, heads, dim],
            (kind, Some(granularity)) if kind.is_scale() => match granularity {
                ScaleGranularity::PerTensor => [1, 1, 1],
                ScaleGranularity::PerHead => [1, heads, 1],
                ScaleGranularity::PerTokenHead => [rows, heads, 1],
            },
            _ => [rows, heads, dim],
        }
    }

    /// How many rows of an engine's memory there are: for scales that do not depend on the token, one for all of a sequence.
    pub(crate) fn is_static(self, scales: Option<ScaleGranularity>) -> bool {
        self.is_scale() && scales != Some(ScaleGranularity::PerTokenHead)
    }

    /// Whether these are, in order, all the kinds of a group with or without scales.
    pub(crate) fn are_a_group(kinds: &[Self], scaled: bool) -> bool {
        Self::FAMILIES.iter().any(|family| Self::with_scales(family, scaled).is_some_and(|all| all == kinds))
    }

    /// A family with its scales, if it is to have some; `None` if it cannot.
    fn with_scales(family: &[Self], scaled: bool) -> Option<Vec<Self>> {
        let mut kinds = family.to_vec();
        if scaled {
            kinds.extend(family.iter().map(|kind| kind.scale()).collect::<Option<Vec<_>>>()?);
        }
        Some(kinds)
    }
}
