//! The namespaces of the golden objects: shared by their test and by `examples/interop.rs`. Like the objects, none is ever changed.

use kv_format::reference::builder;
use kv_format::*;

/// 2 layers, 2 KV heads of 4 elements.
pub(crate) fn small() -> Namespace {
    builder(2, 2, 4).chunk_tokens(16).tenant("golden").build().unwrap()
}

/// Full attention and recurrent states in turns, cut into two pipeline stages.
pub(crate) fn two_groups() -> Namespace {
    let mut model = builder(1, 1, 1).build().unwrap().model().clone();
    let layers = |first: u32| (first..6).step_by(2).collect::<LayerSet>();
    model.groups = vec![
        KvGroup::new(GroupRule::FullAttention { key_dim: 4, value_dim: 8 }, layers(0), 2),
        KvGroup {
            dtype: Some(Dtype::F32),
            ..KvGroup::new(GroupRule::RecurrentState { dim: 6 }, layers(1), 2)
        },
    ];
    Namespace::builder(model).chunk_tokens(16).pipeline_stages(&[0, 4]).tenant("golden").build().unwrap()
}

/// Codes of 8 bits whose scales are stored with them.
pub(crate) fn token_head_scales() -> Namespace {
    let mut model = builder(2, 2, 4).build().unwrap().model().clone();
    model.groups[0].scales = Some(Scales {
        granularity: ScaleGranularity::PerTokenHead,
        direction: ScaleDirection::Divide,
        dtype: Dtype::Bf16,
    });
    Namespace::builder(model).chunk_tokens(16).dtype(Dtype::E4m3Fnuz).tenant("golden").build().unwrap()
}
