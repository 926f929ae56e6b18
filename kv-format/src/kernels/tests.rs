//! Every set of loops against the plan's plain loop, over shapes, alignments and cuts.

use proptest::prelude::*;

use super::*;
use crate::{AttentionParts, Axis, Dtype, Geometry, PagingLayout, Replica, RopePairing, TensorBase};

/// Layouts of `block` tokens, `heads` and `dim`, with an element of `bytes`.
fn layouts(block: u32, heads: u32, dim: u32, bytes: u32) -> Vec<PagingLayout> {
    let (tokens, all_heads, wide) = (u64::from(block), u64::from(heads), u64::from(dim));
    let x = (16 / bytes).min(dim);
    let mut layouts = vec![
        PagingLayout::token_major(block, heads, dim),
        PagingLayout::head_major(block, heads, dim),
        PagingLayout::x_packed(block, heads, dim, 4),
        PagingLayout::transposed(block, heads, dim),
        // Nothing is contiguous: every second element, heads innermost.
        PagingLayout {
            block_stride: 2 * tokens * all_heads * wide,
            token: Axis::strided(2 * all_heads),
            head: Axis::strided(2),
            dim: Axis::strided(2 * tokens * all_heads),
        },
        // K beside V: [block, token, head, K then V].
        PagingLayout {
            block_stride: 2 * tokens * all_heads * wide,
            token: Axis::strided(2 * all_heads * wide),
            head: Axis::strided(2 * wide),
            dim: Axis::strided(1),
        },
    ];
    if dim.is_multiple_of(x) {
        layouts.push(PagingLayout::x_packed(block, heads, dim, x));
    }
    for x in [4, 8, 16] {
        if block.is_multiple_of(x) {
            // The shuffled V of AITER: [block, head, token / x, dim, x].
            layouts.push(PagingLayout {
                block_stride: tokens * all_heads * wide,
                token: Axis::split(x, wide * u64::from(x), 1),
                head: Axis::strided(tokens * wide),
                dim: Axis::strided(u64::from(x)),
            });
        }
    }
    layouts
}

pub(super) fn geometry(
    dtype: Dtype,
    block: u32,
    heads: u32,
    dim: u32,
    blocks: u32,
    paging: PagingLayout,
) -> Geometry {
    let bytes = u64::from(blocks) * paging.block_stride * u64::from(dtype.bytes());
    Geometry::new(AttentionParts {
        dtype,
        rope: RopePairing::RotateHalf,
        layers: 0..1,
        heads: 0..heads,
        replica: Replica::ONLY,
        key_dim: dim,
        value_dim: dim,
        block_tokens: block,
        blocks,
        key: paging,
        value: paging,
        tensors: vec![TensorBase { region: 0, offset: 0 }, TensorBase { region: 1, offset: 0 }],
        regions: vec![bytes; 2],
    })
    .unwrap()
}

fn pattern(len: usize, step: usize, modulus: usize) -> Vec<u8> {
    (0..len).map(|i| (i * step % modulus).to_le_bytes()[0]).collect()
}

const KIND: TensorKind = TensorKind::Key;

proptest! {
    #![proptest_config(ProptestConfig { cases: 1024, ..ProptestConfig::default() })]

    /// Every set does what the plan's plain loop does, in both directions, wherever the bytes begin, and touches nothing else; the
    /// fused checksum is that of the section.
    #[test]
    fn copies_are_those_of_the_plain_loop(
        layout in 0..10_usize,
        dtype in prop::sample::select(vec![Dtype::Int8, Dtype::Bf16, Dtype::F32]),
        block in prop_oneof![1..40_u32, Just(16), Just(32), Just(64)],
        heads in 1..5_u32,
        dim in prop_oneof![(1..12_u32).prop_map(|groups| 4 * groups), Just(64), Just(128)],
        (start, len) in (0..60_u32, 1..90_u32),
        whole in any::<bool>(),
        (skipped, kept) in (0..4_u32, 1..5_u32),
        (memory_base, section_base) in (0..70_usize, 0..70_usize),
    ) {
        let layouts = layouts(block, heads, dim, dtype.bytes());
        let paging = layouts[layout % layouts.len()];
        let tokens = if whole { 0..3 * block } else { start..start + len };
        let first = if whole { 0 } else { skipped.min(heads - 1) };
        let kept = first..(if whole { heads } else { (first + kept).min(heads) });
        let blocks: Vec<u32> = (0..tokens.end.div_ceil(block)).rev().collect();
        let geometry = geometry(dtype, block, heads, dim, u32::try_from(blocks.len()).unwrap(), paging);
        let plan = LayerPlan::new(&geometry, &blocks, tokens, kept).unwrap();
        let memory = pattern(memory_base + index(geometry.regions[0]), 31, 251);
        let section = pattern(section_base + index(plan.section_bytes(KIND)) + 3, 17, 241);
        let (mut gathered, mut scattered) = (section.clone(), memory.clone());
        plan.for_each_run(KIND, |device, place, bytes| {
            let (device, place) = (memory_base + index(device), section_base + index(place));
            let bytes = index(bytes);
            gathered[place..place + bytes].copy_from_slice(&memory[device..device + bytes]);
            scattered[device..device + bytes].copy_from_slice(&section[place..place + bytes]);
        });
        for kernels in Kernels::available() {
            for destination in [Destination::Hot, Destination::Cold] {
                let (mut to_section, mut to_memory) = (section.clone(), memory.clone());
                kernels.gather(&plan, KIND, &memory[memory_base..], &mut to_section[section_base..], destination);
                kernels.scatter(&plan, KIND, &section[section_base..], &mut to_memory[memory_base..], destination);
                prop_assert!(to_section == gathered, "{} gathers to {destination:?}", kernels.name());
                prop_assert!(to_memory == scattered, "{} scatters to {destination:?}", kernels.name());
            }
            let mut to_section = section.clone();
            let checksum =
                kernels.gather_with_checksum(&plan, KIND, &memory[memory_base..], &mut to_section[section_base..]);
            prop_assert!(to_section == gathered, "{} gathers with a checksum", kernels.name());
            let expected = &gathered[section_base..section_base + index(plan.section_bytes(KIND))];
            prop_assert_eq!(checksum, Checksum::of(expected), "{}", kernels.name());
        }
    }
}

/// 32 heads of tokens that are in three blocks: longer than a tile.
fn long_plan() -> (Geometry, LayerPlan) {
    let geometry = geometry(Dtype::Bf16, 16, 8, 128, 3, PagingLayout::x_packed(16, 8, 128, 8));
    let plan = LayerPlan::new(&geometry, &[2, 0, 1], 0..48, 0..8).unwrap();
    (geometry, plan)
}

#[test]
fn a_section_that_is_not_the_one_expected_is_not_written_anywhere() {
    let (geometry, plan) = long_plan();
    let section = pattern(index(plan.section_bytes(KIND)), 17, 241);
    let mut memory = vec![0; index(geometry.regions[0])];
    let checksum = Checksum::of(&section);
    let error =
        scatter_verified(&plan, KIND, &section, checksum ^ 1, &mut memory, Destination::Cold).unwrap_err();
    assert_eq!(error.kind(), crate::ErrorKind::Corrupt);
    assert!(memory.iter().all(|byte| *byte == 0), "bytes of a damaged section reached the engine");

    scatter_verified(&plan, KIND, &section, checksum, &mut memory, Destination::Cold).unwrap();
    let mut back = vec![0; section.len()];
    assert_eq!(gather_with_checksum(&plan, KIND, &memory, &mut back), checksum);
    assert!(back == section, "what was scattered is gathered");
}

#[test]
fn a_plan_that_leaves_a_slice_panics_before_anything_is_moved() {
    let (geometry, plan) = long_plan();
    let (memory_len, section_len) = (index(geometry.regions[0]), index(plan.section_bytes(KIND)));
    for kernels in Kernels::available() {
        for (memory_len, section_len) in [(memory_len - 1, section_len), (memory_len, section_len - 1)] {
            let memory = vec![1; memory_len];
            let mut section = vec![0; section_len];
            let gathered = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                kernels.gather(&plan, KIND, &memory, &mut section, Destination::Cold);
            }));
            assert!(gathered.is_err(), "{} took {memory_len} and {section_len} bytes", kernels.name());
            assert!(section.iter().all(|byte| *byte == 0), "{} moved a part", kernels.name());
        }
    }
}

#[test]
fn the_best_set_is_the_first_and_the_portable_one_is_always_there() {
    let sets = Kernels::available();
    assert_eq!((sets.first(), sets.last()), (Some(&Kernels::best()), Some(&Kernels::portable())));
}
