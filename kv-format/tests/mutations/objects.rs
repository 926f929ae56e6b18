//! The objects that are damaged: small ones that differ in all that a header can say.

use super::valid::Valid;
use kv_format::reference::builder;
use kv_format::*;

/// Of plain attention: a first chunk, one with a parent, a tail; K and V of different sizes; both alignments; a header of two pages.
pub(crate) fn plain() -> Vec<Valid> {
    let mut model = builder(3, 2, 8).build().unwrap().model().clone();
    model.groups[0].rule = GroupRule::FullAttention { key_dim: 8, value_dim: 4 };
    model.rope_pairing = RopePairing::Interleaved;
    let tokens: Vec<u32> = (0..40).collect();
    let mut objects = Vec::new();
    for builder in [
        builder(2, 3, 8).chunk_tokens(16),
        Namespace::builder(model).chunk_tokens(16).dtype(Dtype::E4m3Fn),
        builder(79, 1, 2).chunk_tokens(32),
    ] {
        let namespace = builder.build().unwrap();
        for chunk in chunks(&namespace, &tokens, &[]).unwrap() {
            objects.push(Valid::new(&namespace, &chunk, 0, "mutations 1.0"));
        }
    }
    let pages = builder(1, 1, 64).chunk_tokens(128).build().unwrap();
    let tokens: Vec<u32> = (0..128).collect();
    objects.push(Valid::new(&pages, &chunks(&pages, &tokens, &[]).unwrap()[0], 0, "mutations 1.0"));
    objects
}

/// Of one model with KV groups of every rule, on layers that alternate where they can: with scales of every granularity, direction and
/// type, and without; a first chunk and a tail of each.
pub(crate) fn grouped() -> Vec<Valid> {
    use ScaleDirection::{Divide, Multiply};
    use ScaleGranularity::{PerHead, PerTensor, PerTokenHead};
    let every = |first: u32| (first..first + 5).step_by(2).collect::<LayerSet>();
    let scaled = |rule, layers: LayerSet, heads, (granularity, direction, dtype), elements| KvGroup {
        dtype: Some(elements),
        scales: Some(Scales { granularity, direction, dtype }),
        ..KvGroup::new(rule, layers, heads)
    };
    let attention = GroupRule::FullAttention { key_dim: 8, value_dim: 8 };
    let window = GroupRule::SlidingWindow { window: 64, key_dim: 8, value_dim: 4 };
    let latent = GroupRule::MlaLatent { latent_dim: 12, rope_dim: 4 };
    let mut model = builder(1, 1, 1).build().unwrap().model().clone();
    model.groups = vec![
        scaled(attention, every(0), 18, (PerTokenHead, Multiply, Dtype::F32), Dtype::E4m3Fnuz),
        scaled(window, every(1), 17, (PerHead, Divide, Dtype::Bf16), Dtype::Int8),
        scaled(latent, (6..8).into(), 1, (PerTensor, Multiply, Dtype::F32), Dtype::E4m3Fn),
        scaled(
            GroupRule::SparseIndex { dim: 6 },
            (6..7).into(),
            2,
            (PerTokenHead, Divide, Dtype::F32),
            Dtype::E5m2,
        ),
        KvGroup::new(latent, 9..11, 1),
        KvGroup::new(GroupRule::SparseIndex { dim: 6 }, 9..11, 2),
        KvGroup { dtype: Some(Dtype::F32), ..KvGroup::new(GroupRule::RecurrentState { dim: 10 }, 8..12, 17) },
    ];
    let namespace = Namespace::builder(model).chunk_tokens(16).build().unwrap();
    let tokens: Vec<u32> = (0..20).collect();
    let all = chunks(&namespace, &tokens, &[]).unwrap();
    let slices = namespace.slices().slices();
    let mut objects = Vec::new();
    for group in (0..).zip(&namespace.model().groups).map(|(group, _)| group) {
        let first = slices.iter().position(|slice| slice.group == group).unwrap();
        for chunk in &all {
            objects.push(Valid::new(&namespace, chunk, u32::try_from(first).unwrap(), "mutations 1.0"));
        }
    }
    objects
}
