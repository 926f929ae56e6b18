//! Every named layout at every parallelism: what the ranks save are the reference objects' sections, byte for byte, and what they
//! load from these is the whole memory of an engine that computed the KV itself, bytes included that must stay untouched.
//!
//! Enumerated, not sampled: all layouts, TP 1 to 16 where it shards or replicates the heads, PP 1, 2 and 4. Each is done twice, by
//! the naive loop and by the strided runs of a plan.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod engine;
mod round_trip;

use engine::{Engine, Parallelism};
use kv_format::*;
use round_trip::round_trip;

/// With 4 bytes, 16 have four elements: heads and blocks of two such groups are enough to tell groups from elements.
const DTYPE: Dtype = Dtype::F32;
const KEY_DIM: u32 = 8;
const CHUNK: u32 = 16;
/// One chunk and a tail, whose last block is not full.
const TOKENS: u32 = 21;

/// Every engine at every parallelism of its model; fails if other numbers were possible than there are.
fn enumerate(engines: Vec<Engine>, parallelisms: usize, expected: usize) {
    let mut configurations = 0;
    for engine in engines {
        let all = Parallelism::all(&engine.groups);
        assert_eq!(all.len(), parallelisms);
        configurations += all.into_iter().filter(|parallelism| round_trip(&engine, *parallelism) > 0).count();
    }
    assert_eq!(configurations, expected);
}

fn layouts_of(kinds: &[TensorKind]) -> impl Iterator<Item = EngineLayout> {
    EngineLayout::ALL.into_iter().filter(move |layout| layout.kinds() == kinds)
}

/// Each layout with heads of V as long as those of K, of another length, and with padded pages, where it can have them.
fn attention(heads: u32, degrees: usize, expected: usize) {
    let variants = layouts_of(&TensorKind::BOTH).flat_map(|layout| {
        [(KEY_DIM, false), (12, false), (KEY_DIM, true)].map(|(value_dim, padded)| {
            let rule = GroupRule::FullAttention { key_dim: KEY_DIM, value_dim };
            Engine::of_one_group(layout, rule, heads, padded)
        })
    });
    enumerate(variants.filter(Engine::is_possible).collect(), 3 * degrees, expected);
}

/// 26 layouts, 12 of them with heads of V of their own length, 8 with pages that can be padded; of these, 2 with one head a rank.
const fn configurations(degrees: usize, one_head: usize) -> usize {
    3 * ((26 + 12 + 6) * degrees + 2 * one_head)
}

//= SPEC.md#invariant
#[test]
fn eight_heads_in_every_layout_and_parallelism() {
    attention(8, 5, configurations(5, 2)); // TP 1, 2, 4, 8, 16
}

//= SPEC.md#invariant
#[test]
fn twelve_heads_in_every_layout_and_parallelism() {
    attention(12, 6, configurations(6, 1)); // TP 1, 2, 3, 4, 6, 12
}

//= SPEC.md#invariant
#[test]
fn forty_heads_in_every_layout_and_parallelism() {
    attention(40, 6, configurations(6, 0)); // TP 1, 2, 4, 5, 8, 10
}

/// A latent is whole on every rank of a stage, whatever TP there is, and one of them writes it.
//= SPEC.md#invariant
//= SPEC.md#replica-writer
#[test]
fn latents_in_every_layout_and_parallelism() {
    let rule = GroupRule::MlaLatent { latent_dim: 12, rope_dim: 4 };
    let variants = layouts_of(&[TensorKind::Latent])
        .flat_map(|layout| [false, true].map(|padded| Engine::of_one_group(layout, rule, 1, padded)));
    // 5 layouts, 2 of them with pages that can be padded, TP 1 to 16.
    enumerate(variants.filter(Engine::is_possible).collect(), 3 * 16, (5 + 2) * 3 * 16);
}

fn per_token_head(dtype: Dtype) -> Option<Scales> {
    let (granularity, direction) = (ScaleGranularity::PerTokenHead, ScaleDirection::Multiply);
    Some(Scales { granularity, direction, dtype })
}

/// FP8 with a scale for each (token, head) beside K and V, which go wherever the codes go.
//= SPEC.md#invariant
//= SPEC.md#section-shapes
#[test]
fn fp8_with_scales_per_token_and_head_in_every_layout_and_parallelism() {
    let rule = GroupRule::FullAttention { key_dim: 32, value_dim: 32 };
    let engines = layouts_of(&TensorKind::BOTH).map(|layout| {
        let mut engine = Engine::of_one_group(layout, rule, 8, false);
        engine.groups[0].dtype = Some(Dtype::E4m3Fnuz);
        engine.groups[0].scales = per_token_head(Dtype::F32);
        engine
    });
    enumerate(engines.collect(), 3 * 5, 26 * 3 * 5);
}

/// Layers take turns: full attention, and a sliding window with other heads, other dtype and scales. Each rank holds some of both, and
/// of the window's heads some that others hold too.
//= SPEC.md#invariant
//= SPEC.md#group-missing
#[test]
fn two_groups_in_every_layout_and_parallelism() {
    let full = GroupRule::FullAttention { key_dim: KEY_DIM, value_dim: KEY_DIM };
    let sliding = GroupRule::SlidingWindow { window: 8, key_dim: 16, value_dim: 16 };
    let every_second = |first: u32| (first..8).step_by(2).collect::<LayerSet>();
    let windowed = KvGroup {
        dtype: Some(Dtype::E4m3Fn),
        scales: per_token_head(Dtype::Bf16),
        ..KvGroup::new(sliding, every_second(1), 4)
    };
    let groups = vec![KvGroup::new(full, every_second(0), 8), windowed];
    let engines =
        layouts_of(&TensorKind::BOTH).map(|layout| Engine { layout, groups: groups.clone(), padded: false });
    enumerate(engines.collect(), 3 * 5, 26 * 3 * 5);
}
