//! Namespaces of every rule, alone and together, with every form of scales.

use kv_format::reference::builder;
use kv_format::*;
use std::ops::Range;

/// Even layers below this one hold one group, odd ones another.
const ALTERNATING: u32 = 6;

/// Tokens per chunk, but where a section must fill pages.
const CHUNK: u32 = 16;

/// Two full chunks and a tail of one token, which makes a row per token look like one for all.
const TOKENS: Range<u32> = 50..83;

/// A namespace with the name of its case and the tokens of its sequence.
type Named = (String, NamespaceBuilder, Range<u32>);

fn with(groups: Vec<KvGroup>) -> NamespaceBuilder {
    let mut model = builder(1, 1, 1).build().unwrap().model().clone();
    model.groups = groups;
    Namespace::builder(model).chunk_tokens(CHUNK)
}

fn every_other(first: u32) -> LayerSet {
    (first..ALTERNATING).step_by(2).collect()
}

fn stored(group: KvGroup, dtype: Dtype, scales: impl Into<Option<Scales>>) -> KvGroup {
    KvGroup { dtype: Some(dtype), scales: scales.into(), ..group }
}

fn latent(layers: impl Into<LayerSet>) -> KvGroup {
    KvGroup::new(GroupRule::MlaLatent { latent_dim: 24, rope_dim: 8 }, layers, 1)
}

fn per_token_head(direction: ScaleDirection, dtype: Dtype) -> Scales {
    Scales { granularity: ScaleGranularity::PerTokenHead, direction, dtype }
}

/// Every rule in one namespace: layers in turns, layers of two groups, layers of one, dtypes and scales of their own.
fn hybrid() -> Vec<KvGroup> {
    let fp8 = per_token_head(ScaleDirection::Multiply, Dtype::F32);
    vec![
        KvGroup::new(GroupRule::FullAttention { key_dim: 8, value_dim: 4 }, every_other(0), 4),
        stored(
            KvGroup::new(GroupRule::SlidingWindow { window: 8, key_dim: 4, value_dim: 4 }, every_other(1), 2),
            Dtype::E4m3Fnuz,
            fp8,
        ),
        latent(6..8),
        stored(KvGroup::new(GroupRule::SparseIndex { dim: 6 }, 6..8, 1), Dtype::E4m3Fn, fp8),
        stored(KvGroup::new(GroupRule::RecurrentState { dim: 10 }, 8..11, 4), Dtype::F32, None),
    ]
}

/// Attention, a latent and an index, all with scales of one form.
fn scaled(scales: Scales) -> Vec<KvGroup> {
    [
        KvGroup::new(GroupRule::FullAttention { key_dim: 8, value_dim: 6 }, every_other(0), 3),
        latent(every_other(1)),
        KvGroup::new(GroupRule::SparseIndex { dim: 4 }, every_other(1), 2),
    ]
    .map(|group| KvGroup { scales: Some(scales), ..group })
    .into()
}

/// Every form of scales, each with another 8-bit dtype in turn.
fn every_form() -> Vec<Named> {
    use ScaleGranularity::{PerHead, PerTensor, PerTokenHead};
    let mut cases = Vec::new();
    let mut flavours = Dtype::ALL.into_iter().filter(|dtype| dtype.bytes() == 1).cycle();
    for granularity in [PerTensor, PerHead, PerTokenHead] {
        for direction in [ScaleDirection::Multiply, ScaleDirection::Divide] {
            for dtype in [Dtype::F32, Dtype::Bf16] {
                let scales = Scales { granularity, direction, dtype };
                let flavour = flavours.next().unwrap();
                let name = format!("{}-{scales}", flavour.name()).replace(':', "-");
                cases.push((name, with(scaled(scales)).dtype(flavour).tensor_parallel(&[1]), TOKENS));
            }
        }
    }
    cases
}

/// What `interop.rs` makes sequences of besides plain attention.
pub(crate) fn namespaces() -> Vec<Named> {
    let group_of = |rule, layers: Range<u32>, heads| with(vec![KvGroup::new(rule, layers, heads)]);
    let mut cases = every_form();
    let sliding = GroupRule::SlidingWindow { window: 128, key_dim: 8, value_dim: 8 };
    let in_pages = per_token_head(ScaleDirection::Multiply, Dtype::F32);
    for (name, namespace, tokens) in [
        ("sliding-window", group_of(sliding, 2..5, 2), TOKENS),
        ("mla", with(vec![latent(0..27)]).tensor_parallel(&[8]).pipeline_stages(&[0, 14]), TOKENS),
        ("index", group_of(GroupRule::SparseIndex { dim: 12 }, 3..4, 1), TOKENS),
        ("state", group_of(GroupRule::RecurrentState { dim: 5 }, 0..3, 2), TOKENS),
        // One state of 16 KiB: aligned to pages whatever the number of tokens.
        ("state-in-pages", group_of(GroupRule::RecurrentState { dim: 8192 }, 0..2, 1), TOKENS),
        // The shortest section, which decides on the alignment, is one of scales: 16 KiB, and 16 bytes in the tail.
        (
            "scales-in-pages",
            with(vec![stored(KvGroup::full_attention(1, 1, 8), Dtype::E4m3Ieee, in_pages)])
                .chunk_tokens(4096),
            0..4100,
        ),
        ("hybrid", with(hybrid()), TOKENS),
        (
            "hybrid-parallel",
            with(hybrid()).tensor_parallel(&[1, 2, 4]).pipeline_stages(&[0, 3, 7, 9]),
            TOKENS,
        ),
    ] {
        cases.push((name.to_owned(), namespace, tokens));
    }
    cases
}
