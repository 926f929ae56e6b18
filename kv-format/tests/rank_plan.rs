//! The plan of a rank: whatever the device moves, device step and host step together move what one step would, byte for byte.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::ops::Range;

use kv_format::convert::SectionRange;
use kv_format::reference::{self, Engine, builder, filled, group_geometry, together};
use kv_format::*;
use proptest::prelude::*;

const TOKENS: u32 = 70;
const CHUNK: u32 = 32;

/// A rank with all heads of every group of a model, and a model.
#[derive(Debug, Clone)]
struct Scene {
    namespace: Namespace,
    geometries: Vec<Geometry>,
    blocks: Vec<Vec<u32>>,
}

impl Scene {
    fn plan(&self, layers: Range<u32>, granularity: Granularity) -> Result<RankPlan> {
        let tokens: Vec<u32> = (0..TOKENS).collect();
        let chunks = chunks(&self.namespace, &tokens, &[]).unwrap();
        let blocks: Vec<&[u32]> = self.blocks.iter().map(Vec::as_slice).collect();
        RankPlan::new(&self.namespace, &self.geometries, &chunks, &blocks, layers, granularity)
    }

    fn memory(&self, byte: u8) -> Vec<Vec<u8>> {
        self.geometries[0].regions.iter().map(|len| vec![byte; index(*len)]).collect()
    }

    /// The memory that holds the KV of so many tokens.
    fn filled(&self, tokens: u32) -> Vec<Vec<u8>> {
        let mut memory = self.memory(0xEE);
        for (geometry, blocks) in self.geometries.iter().zip(&self.blocks) {
            reference::fill(geometry, blocks, tokens, &mut memory);
        }
        memory
    }

    /// The sections of an object's part: (first byte in the object, bytes).
    fn sections(&self, part: &ObjectPart, layers: &Range<u32>) -> Vec<(u64, Vec<u8>)> {
        let tokens: Vec<u32> = (0..TOKENS).collect();
        let chunk = &chunks(&self.namespace, &tokens, &[]).unwrap()[part.chunk];
        let slice = &self.namespace.slices().slices()[part.name.slice as usize];
        let layout =
            ObjectLayout::new(&self.namespace, slice, chunk.tokens.end - chunk.tokens.start).unwrap();
        assert_eq!(
            (part.object_len, part.header_len, part.name.key),
            (layout.object_len, layout.header_len, chunk.key)
        );
        let own = layout.sections.iter().filter(|section| layers.contains(&section.layer));
        let geometry = self.geometries.iter().find(|geometry| geometry.group == slice.group).unwrap();
        let sections: Vec<_> = own
            .map(|section| {
                let range = SectionRange {
                    layer: section.layer,
                    kind: section.kind,
                    tokens: chunk.tokens.clone(),
                    heads: slice.heads.clone(),
                };
                let bytes = reference::reference(geometry, &range);
                assert_eq!(bytes.len() as u64, section.len);
                (section.offset, bytes)
            })
            .collect();
        let (first, last) = (sections.first().unwrap(), sections.last().unwrap());
        assert_eq!(part.bytes, first.0..last.0 + last.1.len() as u64);
        sections
    }
}

fn index(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap()
}

/// Runs the device's step in one direction; the shortest run.
fn device(steps: &Steps, mut copy: impl FnMut((u32, Range<usize>), Range<usize>)) -> u64 {
    let mut shortest = u64::MAX;
    for transfer in &steps.device {
        for place in &transfer.sections {
            transfer.plan.for_each_run(place.kind, |device, section, len| {
                let (from, to) = (index(place.device + device), index(place.staging + section));
                shortest = shortest.min(len);
                copy((place.region, from..from + index(len)), to..to + index(len));
            });
        }
    }
    shortest
}

fn gathered(steps: &Steps, memory: &[Vec<u8>]) -> (Vec<u8>, u64) {
    let mut staging = vec![0xAA; index(steps.staging_bytes)];
    let shortest =
        device(steps, |(region, from), to| staging[to].copy_from_slice(&memory[region as usize][from]));
    for step in &steps.host {
        step.for_each_run(|row, section, len| {
            staging.copy_within(index(row)..index(row + len), index(section));
        });
    }
    (staging, shortest)
}

fn scattered(steps: &Steps, staging: &mut [u8], memory: &mut [Vec<u8>]) {
    for step in &steps.host {
        step.for_each_run(|row, section, len| {
            staging.copy_within(index(section)..index(section + len), index(row));
        });
    }
    device(steps, |(region, to), from| memory[region as usize][to].copy_from_slice(&staging[from]));
}

/// Gathers and scatters every chunk with the plan, and compares with the reference bytes; the memory that a load leaves, and the
/// shortest run of the device.
fn check(scene: &Scene, plan: &RankPlan, layers: &Range<u32>) -> (Vec<Vec<u8>>, u64) {
    // A load finds the engine with its fixed scales, which it does not write.
    let (memory, mut target) = (scene.filled(TOKENS), scene.filled(0));
    let mut shortest = u64::MAX;
    let mut objects = Vec::new();
    for chunk in 0..plan.chunk_count() {
        let steps = plan.steps(chunk, Movement::Save).unwrap();
        let (staging, run) = gathered(&steps, &memory);
        shortest = shortest.min(run);
        let mut stored = vec![0x55; staging.len()];
        for (part, start) in &steps.objects {
            for (offset, bytes) in scene.sections(part, layers) {
                let at = index(start + offset - part.bytes.start);
                assert!(staging[at..at + bytes.len()] == bytes, "{part:?}: section at {offset}");
                stored[at..at + bytes.len()].copy_from_slice(&bytes);
            }
            objects.push(part.clone());
        }
        let load = plan.steps(chunk, Movement::Load).unwrap();
        assert_eq!(load.objects, steps.objects, "staging holds objects in the same places");
        stored.resize(index(load.staging_bytes), 0x55);
        scattered(&load, &mut stored, &mut target);
    }
    assert_eq!(objects, plan.objects().collect::<Vec<_>>());
    (target, shortest)
}

/// Attention with one of the named layouts for K and for V, as engines have them.
fn named() -> impl Strategy<Value = Scene> {
    let layouts = prop::sample::select(vec![0, 1, 2, 3]);
    (
        layouts.clone(),
        layouts,
        prop::sample::select(vec![8, 16, 32, 128]),
        prop::sample::select(vec![1, 2, 4]),
    )
        .prop_flat_map(|(key, value, block, heads)| {
            let blocks = TOKENS.div_ceil(block) + 2;
            (Just((key, value, block, heads, blocks)), Just((0..blocks).collect::<Vec<_>>()).prop_shuffle())
        })
        .prop_map(|((key, value, block, heads, blocks), ids)| {
            let layout = |which| match which {
                0 => PagingLayout::token_major(block, heads, 16),
                1 => PagingLayout::head_major(block, heads, 16),
                2 => PagingLayout::x_packed(block, heads, 16, 8),
                _ => PagingLayout::transposed(block, heads, 16),
            };
            let geometry = Geometry::new(AttentionParts {
                dtype: Dtype::Bf16,
                rope: RopePairing::RotateHalf,
                layers: 0..3,
                heads: 0..heads,
                replica: Replica::ONLY,
                key_dim: 16,
                value_dim: 16,
                block_tokens: block,
                blocks,
                key: layout(key),
                value: layout(value),
                tensors: (0..6).map(|region| TensorBase { region, offset: 0 }).collect(),
                regions: vec![u64::from(blocks * block * heads) * 32; 6],
            });
            let namespace = builder(3, heads, 16).chunk_tokens(CHUNK).build().unwrap();
            Scene { namespace, geometries: vec![geometry.unwrap()], blocks: vec![ids] }
        })
}

/// Two groups of any rules and scales in random layouts.
fn random() -> impl Strategy<Value = Scene> {
    use ScaleGranularity::{PerHead, PerTensor, PerTokenHead};
    let first = prop::sample::select(vec![
        GroupRule::FullAttention { key_dim: 8, value_dim: 4 },
        GroupRule::SlidingWindow { window: 64, key_dim: 4, value_dim: 4 },
    ]);
    let second = prop::sample::select(vec![
        (GroupRule::MlaLatent { latent_dim: 12, rope_dim: 4 }, 1),
        (GroupRule::SparseIndex { dim: 6 }, 2),
        (GroupRule::RecurrentState { dim: 10 }, 4),
    ]);
    let form = prop::sample::select(vec![None, Some(PerTensor), Some(PerHead), Some(PerTokenHead)]);
    let dtype = prop::sample::select(vec![Dtype::Bf16, Dtype::Int8, Dtype::F32]);
    (first, 1..5_u32, second, form, dtype)
        .prop_flat_map(|(first, heads, (second, others), form, dtype)| {
            let scales = form.map(|granularity| Scales {
                granularity,
                direction: ScaleDirection::Multiply,
                dtype: Dtype::Bf16,
            });
            let own = KvGroup {
                scales,
                dtype: Some(dtype),
                ..KvGroup::new(first, [0..2, 3..4].into_iter().collect::<LayerSet>(), heads)
            };
            let other = KvGroup { dtype: Some(Dtype::Bf16), ..KvGroup::new(second, 2..3, others) };
            let engines = (
                group_geometry(0, own.clone(), 0..heads, CHUNK, TOKENS),
                group_geometry(1, other.clone(), 0..others, CHUNK, TOKENS),
            );
            (Just(vec![own, other]), engines)
        })
        .prop_map(|(groups, (a, b)): (_, (Engine, Engine))| {
            let mut model = builder(1, 1, 1).build().unwrap().model().clone();
            model.groups = groups;
            let namespace = Namespace::builder(model).chunk_tokens(CHUNK).build().unwrap();
            let (geometries, blocks) = together(vec![a, b]);
            Scene { namespace, geometries, blocks }
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(250))]

    //= SPEC.md#invariant
    //= SPEC.md#scales-static
    #[test]
    fn device_and_host_step_together_are_the_one_step(
        scene in prop_oneof![named().boxed(), random().boxed()],
        min_bytes in prop::sample::select(vec![1_u64, 4, 16, 64, 256, 4096]),
        first in 0..4_u32,
        count in 1..5_u32,
    ) {
        let layers = first..first + count;
        let one_step = scene.plan(layers.clone(), Granularity::AnyRun).unwrap();
        let (expected, _) = check(&scene, &one_step, &layers);
        if layers == (0..4) {
            prop_assert_eq!(&expected, &scene.filled(TOKENS));
        }
        match scene.plan(layers.clone(), Granularity::Rows { min_bytes }) {
            Ok(two_steps) => {
                let (found, shortest) = check(&scene, &two_steps, &layers);
                prop_assert!(found == expected, "a load in two steps leaves other memory");
                prop_assert!(shortest >= min_bytes, "the device moves a run of {} bytes", shortest);
            }
            Err(error) => {
                prop_assert_eq!(error.kind(), ErrorKind::Invalid);
                prop_assert!(error.to_string().contains("contiguous rows of"), "{}", error);
            }
        }
    }
}

/// One rank of TP 1 on Gaudi: token-major blocks of 128.
fn gaudi(heads: u32) -> Scene {
    let layout = PagingLayout::token_major(128, heads, 128);
    let geometry = Geometry::new(AttentionParts {
        dtype: Dtype::Bf16,
        rope: RopePairing::RotateHalf,
        layers: 0..2,
        heads: 0..heads,
        replica: Replica { index: 1, count: 2 },
        key_dim: 128,
        value_dim: 128,
        block_tokens: 128,
        blocks: 4,
        key: layout,
        value: layout,
        tensors: (0..4).map(|region| TensorBase { region, offset: 0 }).collect(),
        regions: vec![4 * layout.block_stride * 2; 4],
    });
    let namespace = builder(2, heads, 128).chunk_tokens(CHUNK).build().unwrap();
    Scene { namespace, geometries: vec![geometry.unwrap()], blocks: vec![vec![2, 0]] }
}

#[test]
fn a_dma_engine_moves_rows_where_slices_would_be_too_fine() {
    let scene = gaudi(8);
    let plan = scene.plan(0..2, Granularity::Rows { min_bytes: 512 }).unwrap();
    let steps = plan.steps(0, Movement::Save).unwrap();
    let mut runs = Vec::new();
    device(&steps, |_, staging| runs.push(staging.len()));
    assert_eq!(runs, [32 * 8 * 128 * 2; 4], "all heads of 32 tokens, K and V of two layers");
    assert_eq!((steps.objects.len(), steps.host.len()), (8, 8), "one slice a head");
    // A rank with one head needs no host step: its slice is a row.
    let alone = gaudi(1).plan(0..2, Granularity::Rows { min_bytes: 512 }).unwrap();
    let steps = alone.steps(0, Movement::Save).unwrap();
    assert!(steps.host.is_empty());
    assert_eq!(device(&steps, |_, _| ()), 32 * 128 * 2);
    // The tail has six tokens: rows of 1,536 bytes.
    let error = gaudi(1).plan(0..2, Granularity::Rows { min_bytes: 2048 }).unwrap_err();
    assert!(
        error.to_string().contains("rows of 1536 bytes, but the device moves none below 2048"),
        "{error}"
    );
    assert_eq!(gaudi(8).plan(0..2, Granularity::Rows { min_bytes: 2048 }).unwrap().chunk_count(), 3);
}

//= SPEC.md#replica-writer
#[test]
fn a_plan_names_the_objects_and_who_writes_them() {
    let scene = gaudi(2);
    let plan = scene.plan(1..2, Granularity::AnyRun).unwrap();
    let objects: Vec<_> = plan.objects().collect();
    let shown: Vec<_> = objects.iter().map(|part| (part.chunk, part.name.slice, part.writes)).collect();
    assert_eq!(
        shown,
        [(0, 0, false), (0, 1, false), (1, 0, true), (1, 1, true), (2, 0, false), (2, 1, false)]
    );
    // Two sections of layer 1 behind two of layer 0: 32 tokens of 256 bytes are below the bound of page alignment.
    assert_eq!(objects[0].bytes, 4096 + 2 * 8192..4096 + 4 * 8192);
    assert_eq!(objects[4].bytes, 4096 + 2 * 1536..4096 + 4 * 1536);
    assert_eq!(scene.plan(2..9, Granularity::AnyRun).unwrap().objects().count(), 0, "layers of another rank");
    assert!(plan.steps(3, Movement::Load).is_err());
    let wrong =
        [("no blocks", vec![]), ("too few blocks", vec![vec![]]), ("a block out of range", vec![vec![4]])];
    for (what, blocks) in wrong {
        let error = Scene { blocks, ..scene.clone() }.plan(0..2, Granularity::AnyRun).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{what}");
    }
}

#[test]
fn slices_of_one_chunk_share_their_runs() {
    let scene = gaudi(8);
    let steps = scene.plan(0..2, Granularity::AnyRun).unwrap().steps(0, Movement::Save).unwrap();
    let first = &steps.device[0].plan;
    assert!(steps.device.iter().all(|transfer| std::sync::Arc::ptr_eq(&transfer.plan, first)));
    assert_eq!(filled(&scene.geometries[0], &scene.blocks[0], TOKENS), scene.filled(TOKENS));
}
