//! Conversion between any two engines: naive loop, strided-run plan and reference bytes agree.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use kv_format::convert::{SectionRange, Sequence, between, gather, scatter};
use kv_format::reference::{Engine, Shape, filled, geometry, reference};
use kv_format::*;
use proptest::prelude::*;

const TOKENS: u32 = 70;

/// Two random engines, affine or named, that hold the same layers and heads, and a token range.
fn pair() -> impl Strategy<Value = (Engine, Engine, std::ops::Range<u32>)> {
    let dtype = prop::sample::select(vec![Dtype::Bf16, Dtype::F32, Dtype::Int8, Dtype::F16]);
    (1..3_u32, 0..2_u32, 1..5_u32, prop::sample::select(vec![1, 4, 6, 8, 16]), dtype)
        .prop_flat_map(|(layers, first, heads, dim, dtype)| {
            let shape = Shape { layers: first..first + layers, heads: first..first + heads, dim, dtype };
            (engine(shape.clone()), engine(shape), 0..TOKENS, 1..=TOKENS)
        })
        .prop_map(|(a, b, start, len)| (a, b, start..(start + len).min(TOKENS)))
}

/// A random affine engine or a named one.
fn engine(shape: Shape) -> impl Strategy<Value = Engine> {
    prop_oneof![geometry(shape.clone(), TOKENS), named(shape)]
}

/// A named layout with one of the block sizes that it can have, padded pages if it can have them, and blocks in random places.
fn named(shape: Shape) -> impl Strategy<Value = Engine> {
    let rank = move |block_tokens: u32, padding: Option<u64>| {
        let elements = u64::from(2 * block_tokens * shape.dim) * shape.heads.len() as u64;
        RankShape {
            group: 0,
            rule: GroupRule::FullAttention { key_dim: shape.dim, value_dim: shape.dim },
            dtype: shape.dtype,
            rope: RopePairing::RotateHalf,
            layers: shape.layers.clone().into(),
            heads: shape.heads.clone(),
            replica: Replica::ONLY,
            block_tokens,
            blocks: TOKENS.div_ceil(block_tokens) + 2,
            page_bytes: padding.map(|padding| (elements + padding) * u64::from(shape.dtype.bytes())),
        }
    };
    let attention = EngineLayout::ALL.into_iter().filter(|layout| layout.kinds() == TensorKind::BOTH);
    let layout = prop::sample::select(attention.collect::<Vec<_>>());
    let block_tokens = prop::sample::select(vec![1, 2, 3, 8, 16, 24, 32, 128]);
    let padding = prop_oneof![3 => Just(None), 1 => Just(Some(0)), 1 => Just(Some(5))];
    (layout, block_tokens, padding)
        .prop_filter_map("not a block or padding of this engine", move |(layout, block_tokens, padding)| {
            layout.memory(&rank(block_tokens, padding)).ok()
        })
        .prop_flat_map(|RankMemory { geometry, .. }| {
            let ids = (0..geometry.blocks).collect::<Vec<_>>();
            (Just(geometry), Just(ids).prop_shuffle())
        })
}

/// The memory of an engine that holds the KV of `tokens` and of none before.
fn filled_only(geometry: &Geometry, blocks: &[u32], tokens: &std::ops::Range<u32>) -> Vec<Vec<u8>> {
    let mut regions = filled(geometry, blocks, tokens.end);
    for range in sections(geometry, &(0..tokens.start)) {
        let bytes = reference(geometry, &range).len();
        let mut engine = Sequence { geometry, regions: &mut regions[..], blocks };
        scatter(&mut engine, &range, &vec![0xEE; bytes]).unwrap();
    }
    regions
}

fn sections(geometry: &Geometry, tokens: &std::ops::Range<u32>) -> Vec<SectionRange> {
    let kinds = |layer| geometry.kinds().map(move |kind| (layer, kind));
    geometry
        .layers
        .iter()
        .flat_map(kinds)
        .map(|(layer, kind)| SectionRange {
            layer,
            kind,
            tokens: tokens.clone(),
            heads: geometry.heads.clone(),
        })
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    //= SPEC.md#invariant
    //= SPEC.md#dtype-unchanged
    #[test]
    fn any_engine_gives_the_reference_bytes((a, b, tokens) in pair()) {
        for (geometry, blocks) in [&a, &b] {
            let regions = filled(geometry, blocks, TOKENS);
            let engine = Sequence { geometry, regions: &regions[..], blocks };
            for range in sections(geometry, &tokens) {
                prop_assert_eq!(gather(&engine, &range).unwrap(), reference(geometry, &range));
            }
        }
    }

    #[test]
    fn canonical_to_engine_to_canonical_is_exact_and_touches_nothing_else((a, b, tokens) in pair()) {
        let (geometry, blocks) = &b;
        let source = filled(&a.0, &a.1, TOKENS);
        let mut target: Vec<Vec<u8>> = geometry.regions.iter().map(|len| vec![0xEE; usize::try_from(*len).unwrap()]).collect();
        between(
            &Sequence { geometry: &a.0, regions: &source[..], blocks: &a.1 },
            &mut Sequence { geometry, regions: &mut target[..], blocks },
            tokens.clone(),
        ).unwrap();
        // The whole memory, gaps, unused blocks and the rest of used ones included, is what an engine that computed the KV of these
        // tokens itself would have.
        prop_assert!(target == filled_only(geometry, blocks, &tokens));
        for range in sections(geometry, &tokens) {
            let engine = Sequence { geometry, regions: &target[..], blocks };
            prop_assert_eq!(gather(&engine, &range).unwrap(), reference(geometry, &range));
        }
    }

    #[test]
    fn a_plan_moves_what_the_naive_loop_moves((a, _, tokens) in pair(), cut in any::<prop::sample::Index>()) {
        let (geometry, blocks) = &a;
        let heads = {
            let first = u32::try_from(cut.index(geometry.heads.len())).unwrap();
            geometry.heads.start + first..geometry.heads.end
        };
        let regions = filled(geometry, blocks, TOKENS);
        let plan = LayerPlan::new(geometry, blocks, tokens.clone(), heads.clone()).unwrap();
        for range in sections(geometry, &tokens) {
            let range = SectionRange { heads: heads.clone(), ..range };
            let tensor = geometry.tensor(range.layer, range.kind).unwrap();
            let mut section = vec![0; usize::try_from(plan.section_bytes(range.kind)).unwrap()];
            let mut written = vec![false; section.len()];
            plan.for_each_run(range.kind, |device, at, len| {
                let (from, at) = (usize::try_from(tensor.offset + device).unwrap(), usize::try_from(at).unwrap());
                let len = usize::try_from(len).unwrap();
                section[at..at + len].copy_from_slice(&regions[tensor.region as usize][from..from + len]);
                assert!(!written[at..at + len].iter().any(|w| *w), "a byte of the section is written twice");
                written[at..at + len].fill(true);
            });
            prop_assert_eq!(section, reference(geometry, &range));
        }
    }
}

#[test]
fn a_plan_is_small_and_its_runs_are_long_where_the_layouts_allow() {
    let shape = |layout| AttentionParts {
        dtype: Dtype::Bf16,
        rope: RopePairing::RotateHalf,
        layers: 0..2,
        heads: 0..8,
        replica: Replica::ONLY,
        key_dim: 128,
        value_dim: 128,
        block_tokens: 128,
        blocks: 4,
        key: layout,
        value: layout,
        tensors: (0..4).map(|region| TensorBase { region, offset: 0 }).collect(),
        regions: vec![4 * 128 * 8 * 128 * 2; 4],
    };
    let token_major = Geometry::new(shape(PagingLayout::token_major(128, 8, 128))).unwrap();
    let plan = LayerPlan::new(&token_major, &[2, 0], 0..256, 0..8).unwrap();
    let mut runs = Vec::new();
    plan.for_each_run(TensorKind::Key, |device, section, len| runs.push((device, section, len)));
    let block = 128 * 8 * 128 * 2;
    assert_eq!(runs, [(2 * block, 0, block), (0, block, block)], "a whole block is one run");
    let one_head = LayerPlan::new(&token_major, &[2, 0], 0..256, 3..4).unwrap();
    assert_eq!((one_head.runs(TensorKind::Key).len(), one_head.nests(TensorKind::Key).len()), (2, 1));
    let x_packed = Geometry::new(shape(PagingLayout::x_packed(128, 8, 128, 8))).unwrap();
    let plan = LayerPlan::new(&x_packed, &[2, 0], 0..256, 0..8).unwrap();
    assert_eq!((plan.runs(TensorKind::Value).len(), plan.nests(TensorKind::Value)[0].run_bytes), (2, 16));
}

#[test]
fn wrong_descriptions_are_refused() {
    let (token_major, blocks) = (PagingLayout::token_major(16, 2, 8), 4);
    let right = AttentionParts {
        dtype: Dtype::Bf16,
        rope: RopePairing::RotateHalf,
        layers: 0..1,
        heads: 0..2,
        replica: Replica::ONLY,
        key_dim: 8,
        value_dim: 8,
        block_tokens: 16,
        blocks,
        key: token_major,
        value: token_major,
        tensors: vec![TensorBase { region: 0, offset: 0 }, TensorBase { region: 1, offset: 0 }],
        regions: vec![2048, 2048],
    };
    let geometry = Geometry::new(right.clone()).unwrap();
    let wrong = [
        ("region too short", AttentionParts { regions: vec![2048, 2047], ..right.clone() }),
        ("no such region", AttentionParts { regions: vec![2048], ..right.clone() }),
        (
            "K and V overlap",
            AttentionParts { tensors: vec![TensorBase { region: 0, offset: 0 }; 2], ..right.clone() },
        ),
        (
            "a tensor is missing",
            AttentionParts { tensors: vec![TensorBase { region: 0, offset: 0 }], ..right.clone() },
        ),
        ("no heads", AttentionParts { heads: 1..1, ..right.clone() }),
        (
            "split does not divide",
            AttentionParts {
                key: PagingLayout { dim: Axis::split(3, 3, 1), ..token_major },
                ..right.clone()
            },
        ),
        (
            "elements share an address",
            AttentionParts { key: PagingLayout { head: Axis::strided(4), ..token_major }, ..right.clone() },
        ),
        (
            "stride overflows",
            AttentionParts {
                key: PagingLayout { block_stride: u64::MAX / 2, ..token_major },
                ..right.clone()
            },
        ),
        ("replica out of range", AttentionParts { replica: Replica { index: 1, count: 1 }, ..right.clone() }),
    ];
    for (what, parts) in wrong {
        assert_eq!(Geometry::new(parts).unwrap_err().kind(), ErrorKind::Invalid, "{what}");
    }
    // K and V interleaved in one region, [block, K or V, token, head, dim], is fine.
    let interleaved = PagingLayout { block_stride: 512, ..token_major };
    let tensors = vec![TensorBase { region: 0, offset: 0 }, TensorBase { region: 0, offset: 512 }];
    let packed =
        AttentionParts { key: interleaved, value: interleaved, tensors, regions: vec![4096], ..right };
    assert!(Geometry::new(packed.clone()).is_ok());
    // So are several such layers one behind the other, and so are layers that share every block.
    let base = |offset| TensorBase { region: 0, offset };
    let layers = AttentionParts { layers: 0..2, regions: vec![8192], ..packed.clone() };
    let behind = vec![base(0), base(512), base(4096), base(4608)];
    assert!(Geometry::new(AttentionParts { tensors: behind, ..layers.clone() }).is_ok());
    let overlapping = vec![base(0), base(512), base(4032), base(4544)];
    assert!(Geometry::new(AttentionParts { tensors: overlapping, ..layers.clone() }).is_err());
    let still = PagingLayout { block_stride: 0, ..token_major };
    let one_block = AttentionParts { blocks: 1, key: still, value: still, ..packed.clone() };
    assert!(Geometry::new(one_block.clone()).is_ok(), "the stride of a single block does not matter");
    assert!(Geometry::new(AttentionParts { tensors: vec![base(0), base(8)], ..one_block }).is_err());
    let wide = PagingLayout { block_stride: 1024, ..token_major };
    let cross_layer = AttentionParts { key: wide, value: wide, ..layers };
    let turns = vec![base(0), base(512), base(1024), base(1536)];
    assert!(Geometry::new(AttentionParts { tensors: turns, ..cross_layer.clone() }).is_ok());
    let collide = vec![base(0), base(512), base(1024), base(1100)];
    assert!(Geometry::new(AttentionParts { tensors: collide, ..cross_layer }).is_err());

    // Heads outside of the blocks, [head, block, token, K and V]: they fold onto each other, K and V must not.
    let packed_heads = PagingLayout {
        block_stride: 16 * 16,
        token: Axis::strided(16),
        head: Axis::strided(4 * 16 * 16),
        dim: Axis::strided(1),
    };
    let outside = |value| AttentionParts {
        key: packed_heads,
        value: packed_heads,
        tensors: vec![base(0), base(value)],
        ..packed.clone()
    };
    assert!(Geometry::new(outside(16)).is_ok());
    for overlapping in [0, 2, 14] {
        assert!(Geometry::new(outside(overlapping)).is_err(), "V from byte {overlapping}");
    }

    for (what, blocks, tokens, heads) in [
        ("block out of range", vec![0, 4], 0..32, 0..2),
        ("too few blocks", vec![0], 0..32, 0..2),
        ("heads of another rank", vec![0, 1], 0..32, 1..3),
        ("no tokens", vec![0, 1], 5..5, 0..2),
    ] {
        let error = LayerPlan::new(&geometry, &blocks, tokens, heads).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{what}");
    }
    let range = SectionRange { layer: 0, kind: TensorKind::Key, tokens: 0..16, heads: 0..2 };
    let mut regions = vec![vec![0; 2048]; 2];
    let mut engine = Sequence { geometry: &geometry, regions: &mut regions[..], blocks: &[0] };
    assert!(scatter(&mut engine, &range, &[0; 511]).is_err(), "a section of the wrong length");
}
