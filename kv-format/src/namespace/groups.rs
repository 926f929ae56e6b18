//! KV groups: tensors of a model that follow one rule, with their dtype and scales, and their text in the namespace.

use std::fmt;
use std::ops::Range;

use crate::{Dtype, Error, LayerSet, Replica, Result, TensorKind};

/// What a group's tensors are, and how many elements a head of them has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum GroupRule {
    /// K and V of every token.
    FullAttention {
        /// Elements of a head of K.
        key_dim: u32,
        /// Elements of a head of V.
        value_dim: u32,
    },
    /// K and V, of which a token sees the last `window` only.
    SlidingWindow {
        /// Tokens.
        window: u32,
        /// Elements of a head of K.
        key_dim: u32,
        /// Elements of a head of V.
        value_dim: u32,
    },
    /// One latent per token, the same for every head: multi-head latent attention.
    MlaLatent {
        /// Elements of the compressed K and V.
        latent_dim: u32,
        /// Elements of the rotary part behind it.
        rope_dim: u32,
    },
    /// Keys of a sparse-attention index, beside another group's KV.
    SparseIndex {
        /// Elements of a head.
        dim: u32,
    },
    /// State of a recurrent layer: one per chunk, after its last token.
    RecurrentState {
        /// Elements of a head.
        dim: u32,
    },
}

/// What has a scale of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
#[repr(u16)]
pub enum ScaleGranularity {
    /// Each tensor of a layer: its scale is fixed for every token.
    PerTensor = 1,
    /// Each head of a tensor: fixed for every token.
    PerHead = 2,
    /// Each head of each token.
    PerTokenHead = 3,
}

/// How a stored code becomes a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
#[repr(u16)]
pub enum ScaleDirection {
    /// number = code * scale (vLLM, SGLang).
    Multiply = 1,
    /// number = code / scale (Intel Neural Compressor's reciprocal).
    Divide = 2,
}

/// Scales that are stored with the codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Scales {
    /// What has a scale of its own.
    pub granularity: ScaleGranularity,
    /// How a code becomes a number.
    pub direction: ScaleDirection,
    /// Type of a scale: f32 or bf16.
    pub dtype: Dtype,
}

/// Tensors of the model that follow one rule.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct KvGroup {
    /// What the tensors are.
    pub rule: GroupRule,
    /// Layers of the model that belong to the group.
    pub layers: LayerSet,
    /// KV heads of each layer; 1 for a latent.
    pub kv_heads: u32,
    /// Exact flavour in which elements are stored; the namespace's unless given.
    pub dtype: Option<Dtype>,
    /// Scales that are stored too.
    pub scales: Option<Scales>,
}

impl GroupRule {
    /// The tensors of each layer, without scales: their kinds in order, and the elements of a head of each.
    pub(crate) fn tensors(self) -> Vec<(TensorKind, u32)> {
        match self {
            Self::FullAttention { key_dim, value_dim } | Self::SlidingWindow { key_dim, value_dim, .. } => {
                vec![(TensorKind::Key, key_dim), (TensorKind::Value, value_dim)]
            }
            Self::MlaLatent { latent_dim, rope_dim } => {
                vec![(TensorKind::Latent, latent_dim.saturating_add(rope_dim))]
            }
            Self::SparseIndex { dim } => vec![(TensorKind::Index, dim)],
            Self::RecurrentState { dim } => vec![(TensorKind::State, dim)],
        }
    }
}

impl ScaleGranularity {
    /// The header's number.
    pub fn code(self) -> u16 {
        self as u16
    }

    /// The granularity with a header's number.
    ///
    /// # Errors
    /// [`Incompatible`](crate::ErrorKind::Incompatible) for a number that this version does not know.
    pub fn from_code(code: u16) -> Result<Self> {
        match code {
            1 => Ok(Self::PerTensor),
            2 => Ok(Self::PerHead),
            3 => Ok(Self::PerTokenHead),
            _ => {
                Err(Error::incompatible(format!("scale granularity code {code}: this version knows 0 to 3")))
            }
        }
    }

    /// The name used in namespaces and messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::PerTensor => "per-tensor",
            Self::PerHead => "per-head",
            Self::PerTokenHead => "per-token-head",
        }
    }
}

impl ScaleDirection {
    /// The header's number.
    pub fn code(self) -> u16 {
        self as u16
    }

    /// The direction with a header's number.
    ///
    /// # Errors
    /// [`Incompatible`](crate::ErrorKind::Incompatible) for a number that this version does not know.
    pub fn from_code(code: u16) -> Result<Self> {
        match code {
            1 => Ok(Self::Multiply),
            2 => Ok(Self::Divide),
            _ => Err(Error::incompatible(format!("scale direction code {code}: this version knows 0 to 2"))),
        }
    }

    /// The name used in namespaces and messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::Multiply => "multiply",
            Self::Divide => "divide",
        }
    }
}

impl Scales {
    /// Types that scales may have.
    pub(crate) const DTYPES: [Dtype; 2] = [Dtype::F32, Dtype::Bf16];
}

/// `per-token-head:multiply:f32`.
impl fmt::Display for Scales {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.granularity.name(), self.direction.name(), self.dtype.name())
    }
}

impl KvGroup {
    /// A group without scales, in the namespace's dtype.
    pub fn new(rule: GroupRule, layers: impl Into<LayerSet>, kv_heads: u32) -> Self {
        Self { rule, layers: layers.into(), kv_heads, dtype: None, scales: None }
    }

    /// All layers of a model with full attention, K and V heads of one size.
    pub fn full_attention(layers: u32, kv_heads: u32, head_dim: u32) -> Self {
        Self::new(GroupRule::FullAttention { key_dim: head_dim, value_dim: head_dim }, 0..layers, kv_heads)
    }

    /// The tensors of each layer in the order of a section: their kinds, and the elements of a head of each.
    pub fn tensors(&self) -> Vec<(TensorKind, u32)> {
        let mut tensors = self.rule.tensors();
        if self.scales.is_some() {
            let scales: Vec<_> = tensors.iter().filter_map(|(kind, _)| Some((kind.scale()?, 1))).collect();
            tensors.extend(scales);
        }
        tensors
    }

    /// The heads that rank `rank` of a tensor parallelism holds, and which of their holders it is: an equal part each, or, where there
    /// are more ranks than heads, one head that neighbouring ranks share, as engines shard KV.
    ///
    /// # Errors
    /// [`Invalid`](crate::ErrorKind::Invalid) for a degree that neither divides the heads nor is a multiple of them, or a rank that is
    /// not below it.
    pub fn shard(&self, degree: u32, rank: u32) -> Result<(Range<u32>, Replica)> {
        let (per_rank, replicas) = sharding(self.kv_heads, degree)?;
        if rank >= degree {
            return Err(Error::invalid(format!("rank {rank} of tensor parallelism {degree}")));
        }
        let first = rank / replicas * per_rank;
        Ok((first..first + per_rank, Replica { index: rank % replicas, count: replicas }))
    }

    /// What contradicts itself or this format in the group.
    pub(super) fn check(&self, index: usize) -> Result<()> {
        let refuse = |what: &str| Err(Error::invalid(format!("KV group {index} ({self}): {what}")));
        if self.layers.is_empty() || self.kv_heads == 0 || self.tensors().iter().any(|(_, dim)| *dim == 0) {
            return refuse("an extent is empty");
        }
        match self.rule {
            GroupRule::SlidingWindow { window: 0, .. } => return refuse("the window is empty"),
            GroupRule::MlaLatent { .. } if self.kv_heads != 1 => {
                return refuse("a latent has one head, which every rank of a tensor parallelism holds");
            }
            GroupRule::MlaLatent { latent_dim, rope_dim } if latent_dim.checked_add(rope_dim).is_none() => {
                return refuse("latent and rotary part exceed 2^32 elements");
            }
            GroupRule::RecurrentState { .. } if self.scales.is_some() => {
                return refuse("a state is stored without scales");
            }
            _ => {}
        }
        match self.scales {
            Some(scales) if !Scales::DTYPES.contains(&scales.dtype) => refuse("scales are f32 or bf16"),
            _ => Ok(()),
        }
    }
}

/// `full-attention:layers=0-80:heads=8:key-dim=128:value-dim=128`.
impl fmt::Display for KvGroup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { rule, layers, kv_heads, .. } = self;
        let name = match rule {
            GroupRule::FullAttention { .. } => "full-attention",
            GroupRule::SlidingWindow { .. } => "sliding-window",
            GroupRule::MlaLatent { .. } => "mla-latent",
            GroupRule::SparseIndex { .. } => "sparse-index",
            GroupRule::RecurrentState { .. } => "recurrent-state",
        };
        write!(f, "{name}:layers={layers}:heads={kv_heads}:")?;
        match rule {
            GroupRule::FullAttention { key_dim, value_dim } => {
                write!(f, "key-dim={key_dim}:value-dim={value_dim}")
            }
            GroupRule::SlidingWindow { window, key_dim, value_dim } => {
                write!(f, "window={window}:key-dim={key_dim}:value-dim={value_dim}")
            }
            GroupRule::MlaLatent { latent_dim, rope_dim } => {
                write!(f, "latent-dim={latent_dim}:rope-dim={rope_dim}")
            }
            GroupRule::SparseIndex { dim } | GroupRule::RecurrentState { dim } => write!(f, "dim={dim}"),
        }
    }
}

/// Heads of a rank of a tensor parallelism, and how many ranks hold the same ones.
pub(super) fn sharding(heads: u32, degree: u32) -> Result<(u32, u32)> {
    match (heads.checked_rem(degree), degree.checked_rem(heads)) {
        (Some(0), _) => Ok((heads / degree, 1)),
        (Some(_), Some(0)) => Ok((1, degree / heads)),
        _ => Err(Error::invalid(format!(
            "tensor parallelism {degree} neither divides {heads} KV heads nor is a multiple of them"
        ))),
    }
}

/// Refuses two groups that hold the same kind of tensor of the same layer.
pub(super) fn check_apart(groups: &[KvGroup]) -> Result<()> {
    for (second, group) in groups.iter().enumerate() {
        group.check(second)?;
        for (first, other) in groups.iter().enumerate().take(second) {
            let kind = |group: &KvGroup| group.tensors().first().map(|(kind, _)| *kind);
            let shared = group.layers.intersection(&other.layers);
            if kind(group) == kind(other) && !shared.is_empty() {
                return Err(Error::invalid(format!(
                    "KV groups {first} and {second} both hold {:?} of layers {shared}",
                    kind(group)
                )));
            }
        }
    }
    Ok(())
}

/// One text if all groups have the same, else each group's, joined by `;`.
pub(super) fn joined(texts: &[String]) -> String {
    match texts {
        [first, others @ ..] if others.iter().all(|other| other == first) => first.clone(),
        _ => texts.join(";"),
    }
}
