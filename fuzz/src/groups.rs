//! KV groups of every rule, with scales of every form and any layers, from a stream of numbers.

use super::numbers::Numbers;
use kv_format::*;

pub fn dtype(numbers: &mut Numbers<'_>) -> Dtype {
    Dtype::ALL[usize::from(numbers.byte()) % Dtype::ALL.len()]
}

pub fn rule(numbers: &mut Numbers<'_>) -> GroupRule {
    match numbers.byte() % 5 {
        0 => GroupRule::FullAttention { key_dim: numbers.u32(), value_dim: numbers.u32() },
        1 => GroupRule::SlidingWindow {
            window: numbers.u32(),
            key_dim: numbers.u32(),
            value_dim: numbers.u32(),
        },
        2 => GroupRule::MlaLatent { latent_dim: numbers.u32(), rope_dim: numbers.u32() },
        3 => GroupRule::SparseIndex { dim: numbers.u32() },
        _ => GroupRule::RecurrentState { dim: numbers.u32() },
    }
}

/// None half of the time; of any dtype, most of which scales cannot have, one time in eight.
pub fn scales(numbers: &mut Numbers<'_>) -> Option<Scales> {
    let choice = numbers.byte();
    let granularity = match choice & 3 {
        0 => ScaleGranularity::PerTensor,
        1 => ScaleGranularity::PerHead,
        _ => ScaleGranularity::PerTokenHead,
    };
    let direction = if choice & 4 == 0 { ScaleDirection::Multiply } else { ScaleDirection::Divide };
    let dtype = match choice >> 3 & 7 {
        0..=3 => return None,
        4 | 5 => Dtype::F32,
        6 => Dtype::Bf16,
        _ => dtype(numbers),
    };
    Some(Scales { granularity, direction, dtype })
}

/// Up to three ranges, in any order.
pub fn layers(numbers: &mut Numbers<'_>) -> LayerSet {
    (0..1 + numbers.byte() % 3).map(|_| numbers.u32()..numbers.u32()).collect()
}

pub fn group(numbers: &mut Numbers<'_>) -> KvGroup {
    let rule = rule(numbers);
    let layers = layers(numbers);
    // A slice table is made of them; its length is the describer's to choose.
    let kv_heads = numbers.u32() % 4097;
    let dtype = (numbers.byte() % 2 == 1).then(|| dtype(numbers));
    KvGroup { rule, layers, kv_heads, dtype, scales: scales(numbers) }
}
