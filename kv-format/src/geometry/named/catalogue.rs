//! The engines' layouts as data: what one allocation holds, and its axes from the outermost to the innermost, as the engine's own
//! shape has them. Nothing here computes; [`build`](super::build) turns an entry and a rank's extents into a geometry.

use super::EngineLayout;
use crate::TensorKind;

/// An axis of an engine's allocation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dim {
    /// The layers that the rank holds.
    Layer,
    /// K, then V.
    Side,
    /// Blocks, with those that never hold a sequence's tokens.
    Block,
    /// The rank's KV heads.
    Head,
    /// Tokens of a block, or of a group where there is a [`TokenGroup`](Self::TokenGroup).
    Token,
    /// Groups of as many tokens as 16 bytes have elements.
    TokenGroup,
    /// Elements of a head, or of a group where there is an [`ElementGroup`](Self::ElementGroup).
    Element,
    /// Groups of as many elements as fit in 16 bytes.
    ElementGroup,
}

/// What one allocation of the engine holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Allocation {
    /// Every tensor of every layer.
    Rank,
    /// Every tensor of one layer.
    Layer,
    /// One tensor of one layer.
    Tensor,
}

/// Blocks that the engine allocates besides those that it hands out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Spare {
    /// None.
    Nothing,
    /// One block behind the last, which padding is written to.
    Behind,
    /// Block 0, which padding is written to; the others have ids from 1.
    First,
}

/// The tensors of a layer: axes of the allocation as each of them sees them, the outermost first.
#[derive(Debug, Clone, Copy)]
pub(super) enum Tensors {
    /// K and V.
    Attention {
        /// As K sees them.
        key: &'static [Dim],
        /// As V sees them.
        value: &'static [Dim],
    },
    /// One latent with its rotary part behind it, which has one head.
    Latent(&'static [Dim]),
}

impl Tensors {
    /// Their kinds, in order.
    pub(super) const fn kinds(&self) -> &'static [TensorKind] {
        match self {
            Self::Attention { .. } => &TensorKind::BOTH,
            Self::Latent(_) => &[TensorKind::Latent],
        }
    }

    /// The axes as the tensors of a kind see them.
    pub(super) const fn axes(&self, kind: TensorKind) -> &'static [Dim] {
        match (self, kind) {
            (Self::Attention { value, .. }, TensorKind::Value) => value,
            (Self::Attention { key: axes, .. } | Self::Latent(axes), _) => axes,
        }
    }
}

/// A layout as data.
#[derive(Debug, Clone, Copy)]
pub(super) struct Arrangement {
    /// What one allocation holds.
    pub(super) allocation: Allocation,
    /// The tensors of each layer.
    pub(super) tensors: Tensors,
    /// Blocks besides those that are handed out.
    pub(super) spare: Spare,
    /// Whether the engine has one head size for K and V.
    pub(super) one_head_size: bool,
    /// Whether the engine can pad its pages.
    pub(super) padded: bool,
}

impl Arrangement {
    /// K and V in the content dim of a token's head, K first.
    const fn packed(allocation: Allocation, dims: &'static [Dim]) -> Self {
        let padded = matches!(allocation, Allocation::Rank);
        let tensors = Tensors::Attention { key: dims, value: dims };
        Self { allocation, tensors, spare: Spare::Nothing, one_head_size: false, padded }
    }

    /// One latent in each layer.
    const fn latent(allocation: Allocation, dims: &'static [Dim], spare: Spare) -> Self {
        let padded = matches!(allocation, Allocation::Rank);
        Self { allocation, tensors: Tensors::Latent(dims), spare, one_head_size: false, padded }
    }

    /// K and V as two halves of an allocation, or of each of its parts.
    const fn halves(allocation: Allocation, key: &'static [Dim], value: &'static [Dim]) -> Self {
        let tensors = Tensors::Attention { key, value };
        Self { allocation, tensors, spare: Spare::Nothing, one_head_size: true, padded: false }
    }

    /// K and V as two head slots of a page, in one allocation for all layers.
    const fn slots(key: &'static [Dim], value: &'static [Dim]) -> Self {
        Self { padded: true, ..Self::halves(Allocation::Rank, key, value) }
    }

    /// K and V in allocations of their own.
    const fn apart(key: &'static [Dim], value: &'static [Dim], spare: Spare, one_head_size: bool) -> Self {
        let tensors = Tensors::Attention { key, value };
        Self { allocation: Allocation::Tensor, tensors, spare, one_head_size, padded: false }
    }

    /// Whether all tensors of a layer share the content dim of a token's head.
    pub(super) fn is_packed(&self) -> bool {
        self.allocation != Allocation::Tensor && !self.tensors.axes(TensorKind::Key).contains(&Dim::Side)
    }
}

/// The entry of a layout.
#[rustfmt::skip]
pub(super) const fn arrangement(layout: EngineLayout) -> Arrangement {
    use Allocation::{Layer as OneLayer, Rank, Tensor};
    use Dim::{Block, Element, ElementGroup, Head, Layer, Side, Token, TokenGroup};

    const NHD: &[Dim] = &[Block, Token, Head, Element];
    const HND: &[Dim] = &[Block, Head, Token, Element];
    const X_PACKED: &[Dim] = &[Block, Head, ElementGroup, Token, Element];
    const TRANSPOSED: &[Dim] = &[Block, Head, Element, Token];
    const SHUFFLED_V: &[Dim] = &[Block, Head, TokenGroup, Element, Token];

    match layout {
        EngineLayout::VllmLbhnc => Arrangement::packed(Rank, &[Layer, Block, Head, Token, Element]),
        EngineLayout::VllmLbnhc => Arrangement::packed(Rank, &[Layer, Block, Token, Head, Element]),
        EngineLayout::VllmLhbnc => Arrangement::packed(Rank, &[Layer, Head, Block, Token, Element]),
        EngineLayout::VllmBlhnc => Arrangement::packed(Rank, &[Block, Layer, Head, Token, Element]),
        EngineLayout::VllmBlnhc => Arrangement::packed(Rank, &[Block, Layer, Token, Head, Element]),
        EngineLayout::VllmBhlnc => Arrangement::packed(Rank, &[Block, Head, Layer, Token, Element]),
        EngineLayout::VllmRocmLhbnc => Arrangement::slots(
            &[Layer, Side, Block, Head, ElementGroup, Token, Element],
            &[Layer, Side, Block, Head, Element, Token],
        ),
        EngineLayout::VllmRocmLbhnc => Arrangement::slots(
            &[Layer, Block, Side, Head, ElementGroup, Token, Element],
            &[Layer, Block, Side, Head, Element, Token],
        ),
        EngineLayout::VllmShuffleLhbnc => Arrangement::slots(
            &[Layer, Side, Block, Head, ElementGroup, Token, Element],
            &[Layer, Side, Block, Head, TokenGroup, Element, Token],
        ),
        EngineLayout::VllmShuffleLbhnc => Arrangement::slots(
            &[Layer, Block, Side, Head, ElementGroup, Token, Element],
            &[Layer, Block, Side, Head, TokenGroup, Element, Token],
        ),
        EngineLayout::VllmLayerHnd => Arrangement::packed(OneLayer, HND),
        EngineLayout::VllmLayerNhd => Arrangement::packed(OneLayer, NHD),
        EngineLayout::VllmCrossLayerNhd => {
            let dims = &[Block, Layer, Side, Token, Head, Element];
            Arrangement::halves(Rank, dims, dims)
        }
        EngineLayout::VllmCrossLayerHnd => {
            let dims = &[Block, Side, Head, Layer, Token, Element];
            Arrangement::halves(Rank, dims, dims)
        }
        EngineLayout::VllmKvFirstNhd => {
            let dims = &[Side, Block, Token, Head, Element];
            Arrangement::halves(OneLayer, dims, dims)
        }
        EngineLayout::VllmKvFirstHnd => {
            let dims = &[Side, Block, Head, Token, Element];
            Arrangement::halves(OneLayer, dims, dims)
        }
        EngineLayout::VllmBlockFirstNhd => {
            let dims = &[Block, Side, Token, Head, Element];
            Arrangement::halves(OneLayer, dims, dims)
        }
        EngineLayout::VllmBlockFirstHnd => {
            let dims = &[Block, Side, Head, Token, Element];
            Arrangement::halves(OneLayer, dims, dims)
        }
        EngineLayout::VllmKvFirstRocm => Arrangement::halves(
            OneLayer,
            &[Side, Block, Head, ElementGroup, Token, Element],
            &[Side, Block, Head, Element, Token],
        ),
        EngineLayout::VllmKvFirstShuffle => Arrangement::halves(
            OneLayer,
            &[Side, Block, Head, ElementGroup, Token, Element],
            &[Side, Block, Head, TokenGroup, Element, Token],
        ),
        EngineLayout::VllmGaudi => Arrangement::apart(NHD, NHD, Spare::Behind, true),
        EngineLayout::SglangNhd => Arrangement::apart(NHD, NHD, Spare::First, false),
        EngineLayout::SglangHnd => Arrangement::apart(HND, HND, Spare::First, false),
        EngineLayout::SglangVectorized5d => Arrangement::apart(X_PACKED, SHUFFLED_V, Spare::First, false),
        EngineLayout::MistralRsStandard => Arrangement::apart(X_PACKED, TRANSPOSED, Spare::Nothing, false),
        EngineLayout::MistralRsHnd => Arrangement::apart(HND, HND, Spare::Nothing, true),
        EngineLayout::VllmLbhncMla => {
            Arrangement::latent(Rank, &[Layer, Block, Head, Token, Element], Spare::Nothing)
        }
        EngineLayout::VllmBlhncMla => {
            Arrangement::latent(Rank, &[Block, Layer, Head, Token, Element], Spare::Nothing)
        }
        EngineLayout::VllmLayerMla => Arrangement::latent(OneLayer, HND, Spare::Nothing),
        EngineLayout::VllmGaudiMla => Arrangement::latent(Tensor, NHD, Spare::Behind),
        EngineLayout::SglangMla => Arrangement::latent(Tensor, NHD, Spare::First),
    }
}
