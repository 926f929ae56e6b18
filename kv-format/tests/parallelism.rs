//! Every named layout at every parallelism: what the ranks save are the reference objects' sections, byte for byte, and what they
//! load from these is the whole memory of an engine that computed the KV itself, bytes included that must stay untouched.
//!
//! Enumerated, not sampled: all layouts, TP 1 to 16 where it shards or replicates the heads, PP 1, 2 and 4. Each is done twice, by
//! the naive loop and by the strided runs of a plan.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;

use kv_format::convert::{SectionRange, Sequence, gather, scatter};
use kv_format::reference::{builder, filled, reference};
use kv_format::*;

/// With 4 bytes, 16 have four elements: heads and blocks of two such groups are enough to tell groups from elements.
const DTYPE: Dtype = Dtype::F32;
const LAYERS: u32 = 4;
const KEY_DIM: u32 = 8;
const CHUNK: u32 = 16;
/// One chunk and a tail, whose last block is not full.
const TOKENS: u32 = 21;

/// A layout as one engine has it.
#[derive(Debug, Clone, Copy)]
struct Engine {
    layout: EngineLayout,
    value_dim: u32,
    padded: bool,
}

/// The ranks of one engine that share a model.
#[derive(Debug, Clone, Copy)]
struct Parallelism {
    heads: u32,
    tensor: u32,
    pipeline: u32,
}

impl Parallelism {
    fn all(heads: u32) -> Vec<Self> {
        let legal =
            (1..=16_u32).filter(|tensor| heads.is_multiple_of(*tensor) || tensor.is_multiple_of(heads));
        legal.flat_map(|tensor| [1, 2, 4].map(|pipeline| Self { heads, tensor, pipeline })).collect()
    }

    /// Layers, heads and replica of every rank.
    fn ranks(self) -> Vec<(std::ops::Range<u32>, std::ops::Range<u32>, Replica)> {
        let (layers, count) = (LAYERS / self.pipeline, self.tensor.div_ceil(self.heads));
        let heads = self.heads.div_ceil(self.tensor);
        (0..self.pipeline)
            .flat_map(|stage| (0..self.tensor).map(move |rank| (stage, rank)))
            .map(|(stage, rank)| {
                let first = rank * self.heads / self.tensor;
                let replica = Replica { index: rank % count, count };
                (stage * layers..(stage + 1) * layers, first..first + heads, replica)
            })
            .collect()
    }

    fn namespace(self, value_dim: u32) -> Namespace {
        let mut model = builder(LAYERS, self.heads, KEY_DIM).build().unwrap().model().clone();
        model.groups[0].rule = GroupRule::FullAttention { key_dim: KEY_DIM, value_dim };
        let stages: Vec<u32> = (0..self.pipeline).map(|stage| stage * LAYERS / self.pipeline).collect();
        Namespace::builder(model)
            .dtype(DTYPE)
            .chunk_tokens(CHUNK)
            .tensor_parallel(&[self.tensor])
            .pipeline_stages(&stages)
            .build()
            .unwrap()
    }
}

impl Engine {
    fn memory(
        self,
        layers: std::ops::Range<u32>,
        heads: std::ops::Range<u32>,
        replica: Replica,
    ) -> Result<Geometry> {
        // Gaudi's blocks are larger than a chunk, the others' smaller, and neither divides what is stored.
        let block_tokens = if self.layout == EngineLayout::VllmGaudi { 32 } else { 8 };
        let content = u64::from(block_tokens * (KEY_DIM + self.value_dim)) * heads.len() as u64 * 4;
        let rank = RankShape {
            dtype: DTYPE,
            rope: RopePairing::RotateHalf,
            layers,
            heads,
            replica,
            key_dim: KEY_DIM,
            value_dim: self.value_dim,
            block_tokens,
            blocks: TOKENS.div_ceil(block_tokens) + 2,
            page_bytes: self.padded.then_some(content + 48),
        };
        Ok(self.layout.memory(&rank)?.geometry)
    }

    /// Each layout with heads of V as long as those of K, of another length, and with padded pages, where it can have them.
    fn all() -> Vec<Self> {
        let variants = EngineLayout::ALL.into_iter().flat_map(|layout| {
            [(KEY_DIM, false), (12, false), (KEY_DIM, true)].map(|(value_dim, padded)| Self {
                layout,
                value_dim,
                padded,
            })
        });
        variants.filter(|engine| engine.memory(0..1, 0..1, Replica::ONLY).is_ok()).collect()
    }
}

/// Ids of a sequence's blocks: not in order, not from the first.
fn blocks(geometry: &Geometry) -> Vec<u32> {
    (0..TOKENS.div_ceil(geometry.block_tokens))
        .map(|index| geometry.blocks - 1 - index * 2 % geometry.blocks)
        .collect()
}

/// The KV of one configuration is saved and loaded by every rank. Returns how many section copies were compared.
fn round_trip(engine: Engine, parallelism: Parallelism) -> usize {
    let namespace = parallelism.namespace(engine.value_dim);
    let tokens: Vec<u32> = (0..TOKENS).collect();
    let chunks = chunks(&namespace, &tokens, &[]).unwrap();
    let mut writers = BTreeMap::new();
    let mut compared = 0;
    for (layers, heads, replica) in parallelism.ranks() {
        // A page can be padded if it is whole: where heads lie outside of it, only for ranks with one.
        let Ok(geometry) = engine.memory(layers, heads, replica) else {
            assert!(engine.padded, "{engine:?} {parallelism:?}");
            return 0;
        };
        let blocks = blocks(&geometry);
        let computed = filled(&geometry, &blocks, TOKENS);
        let untouched =
            || geometry.regions.iter().map(|len| vec![0xEE; usize::try_from(*len).unwrap()]).collect();
        let (mut loaded, mut planned): (Vec<Vec<u8>>, Vec<Vec<u8>>) = (untouched(), untouched());
        for (index, slice) in namespace.slices().held_by(&geometry).unwrap() {
            for chunk in &chunks {
                if geometry.replica.writes(chunk.index) {
                    *writers.entry((index, chunk.index)).or_insert(0) += 1;
                }
                let identity = ObjectIdentity::new(&namespace, chunk, index).unwrap();
                let object = ObjectLayout::new(&namespace, &identity.slice, identity.token_count).unwrap();
                let plan =
                    LayerPlan::new(&geometry, &blocks, chunk.tokens.clone(), slice.heads.clone()).unwrap();
                for section in &object.sections {
                    let range = SectionRange {
                        layer: section.layer,
                        kind: section.kind,
                        tokens: chunk.tokens.clone(),
                        heads: slice.heads.clone(),
                    };
                    let expected = reference(&geometry, &range);
                    assert_eq!(expected.len() as u64, section.len);
                    let sequence = Sequence { geometry: &geometry, regions: &computed[..], blocks: &blocks };
                    let saved = gather(&sequence, &range).unwrap();
                    assert!(saved == expected, "saved by the loop: {engine:?} {parallelism:?} {range:?}");
                    let mut saved = vec![0; expected.len()];
                    let tensor = geometry.tensor(range.layer, range.kind).unwrap();
                    let region = tensor.region as usize;
                    for_each_run(&plan, &range, tensor, |device, at| {
                        saved[at].copy_from_slice(&computed[region][device]);
                    });
                    assert!(saved == expected, "saved by runs: {engine:?} {parallelism:?} {range:?}");

                    let mut target =
                        Sequence { geometry: &geometry, regions: &mut loaded[..], blocks: &blocks };
                    scatter(&mut target, &range, &expected).unwrap();
                    for_each_run(&plan, &range, tensor, |device, at| {
                        planned[region][device].copy_from_slice(&expected[at]);
                    });
                    compared += 1;
                }
            }
        }
        assert!(loaded == computed, "loaded by the loop: {engine:?} {parallelism:?}");
        assert!(planned == computed, "loaded by runs: {engine:?} {parallelism:?}");
    }
    // One rank of those with the same heads writes a slice, and every slice of every chunk has one.
    assert_eq!(writers.len(), namespace.slices().slices().len() * chunks.len());
    assert!(writers.values().all(|count| *count == 1), "{engine:?} {parallelism:?}: {writers:?}");
    compared
}

/// A plan's runs as byte ranges of the tensor's region and of the section.
fn for_each_run(
    plan: &LayerPlan,
    range: &SectionRange,
    tensor: TensorBase,
    mut copy: impl FnMut(std::ops::Range<usize>, std::ops::Range<usize>),
) {
    plan.for_each_run(range.kind, |device, section, len| {
        let bytes = |start: u64| usize::try_from(start).unwrap()..usize::try_from(start + len).unwrap();
        copy(bytes(tensor.offset + device), bytes(section));
    });
}

/// Every engine at every parallelism of a model; fails if fewer were possible than there are.
fn enumerate(heads: u32, degrees: usize, engines: usize) {
    let (mut configurations, all) = (0, Parallelism::all(heads));
    assert_eq!(all.len(), 3 * degrees);
    for engine in Engine::all() {
        for parallelism in &all {
            configurations += usize::from(round_trip(engine, *parallelism) > 0);
        }
    }
    assert_eq!(configurations, engines);
}

/// 26 layouts, 12 of them with heads of V of their own length, 8 with pages that can be padded; of these, 2 with one head a rank.
const fn configurations(degrees: usize, one_head: usize) -> usize {
    3 * ((26 + 12 + 6) * degrees + 2 * one_head)
}

//= SPEC.md#invariant
#[test]
fn eight_heads_in_every_layout_and_parallelism() {
    enumerate(8, 5, configurations(5, 2)); // TP 1, 2, 4, 8, 16
}

//= SPEC.md#invariant
#[test]
fn twelve_heads_in_every_layout_and_parallelism() {
    enumerate(12, 6, configurations(6, 1)); // TP 1, 2, 3, 4, 6, 12
}

//= SPEC.md#invariant
#[test]
fn forty_heads_in_every_layout_and_parallelism() {
    enumerate(40, 6, configurations(6, 0)); // TP 1, 2, 4, 5, 8, 10
}
