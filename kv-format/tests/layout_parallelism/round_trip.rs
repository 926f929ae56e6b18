//! One engine at one parallelism: every rank saves and loads the KV of a sequence, and all of its bytes are compared.

use std::collections::BTreeMap;
use std::ops::Range;

use kv_format::convert::{SectionRange, Sequence, gather, scatter};
use kv_format::reference::{fill, reference};
use kv_format::*;

use crate::TOKENS;
use crate::engine::{Engine, Parallelism};

/// The KV of one configuration is saved and loaded by every rank. Returns how many section copies were compared; 0 if the engine cannot
/// have such ranks.
pub(crate) fn round_trip(engine: &Engine, parallelism: Parallelism) -> usize {
    let namespace = engine.namespace(parallelism);
    let tokens: Vec<u32> = (0..TOKENS).collect();
    let chunks = chunks(&namespace, &tokens, &[]).unwrap();
    let mut writers = BTreeMap::new();
    let mut compared = 0;
    for place in parallelism.ranks() {
        // A page can be padded if it is whole: where heads lie outside of it, only for ranks with one.
        let Ok((geometries, blocks)) = engine.rank(parallelism, place) else {
            assert!(engine.padded, "{engine:?} {parallelism:?}");
            return 0;
        };
        let rank = Rank::new(geometries, blocks, format!("{engine:?} {parallelism:?} {place:?}"));
        compared += rank.saves_and_loads(&namespace, &chunks, &mut writers);
    }
    // One rank of those with the same heads writes a slice, and every slice of every chunk has one.
    assert_eq!(writers.len(), namespace.slices().slices().len() * chunks.len());
    assert!(writers.values().all(|count| *count == 1), "{engine:?} {parallelism:?}: {writers:?}");
    compared
}

/// A rank with the memory that it would have if it had computed the KV itself.
struct Rank {
    geometries: Vec<Geometry>,
    blocks: Vec<Vec<u32>>,
    computed: Vec<Vec<u8>>,
    context: String,
}

impl Rank {
    fn new(geometries: Vec<Geometry>, blocks: Vec<Vec<u32>>, context: String) -> Self {
        let mut rank = Self { geometries, blocks, computed: Vec::new(), context };
        rank.computed = rank.untouched();
        for (geometry, blocks) in rank.geometries.iter().zip(&rank.blocks) {
            fill(geometry, blocks, TOKENS, &mut rank.computed);
        }
        rank
    }

    fn untouched(&self) -> Vec<Vec<u8>> {
        self.geometries[0].regions.iter().map(|len| vec![0xEE; usize::try_from(*len).unwrap()]).collect()
    }

    fn saves_and_loads(
        &self,
        namespace: &Namespace,
        chunks: &[Chunk],
        writers: &mut BTreeMap<(u32, u32), u32>,
    ) -> usize {
        let (mut loaded, mut planned) = (self.untouched(), self.untouched());
        let mut compared = 0;
        for (index, slice) in namespace.slices().held_by_rank(&self.geometries).unwrap() {
            let group = self.geometries.iter().position(|geometry| geometry.group == slice.group).unwrap();
            let (geometry, blocks) = (&self.geometries[group], &self.blocks[group]);
            for chunk in chunks {
                if geometry.replica.writes(chunk.index) {
                    *writers.entry((index, chunk.index)).or_insert(0) += 1;
                }
                let identity = ObjectIdentity::new(namespace, chunk, index).unwrap();
                let object = ObjectLayout::new(namespace, &identity.slice, identity.token_count).unwrap();
                let plan =
                    LayerPlan::new(geometry, blocks, chunk.tokens.clone(), slice.heads.clone()).unwrap();
                for section in &object.sections {
                    let range = SectionRange {
                        layer: section.layer,
                        kind: section.kind,
                        tokens: chunk.tokens.clone(),
                        heads: slice.heads.clone(),
                    };
                    let expected = reference(geometry, &range);
                    assert_eq!(expected.len() as u64, section.len);
                    let sequence = Sequence { geometry, regions: &self.computed[..], blocks };
                    let saved = gather(&sequence, &range).unwrap();
                    assert!(saved == expected, "saved by the loop: {} {range:?}", self.context);
                    let mut saved = vec![0; expected.len()];
                    let tensor = geometry.tensor(range.layer, range.kind).unwrap();
                    let region = tensor.region as usize;
                    for_each_run(&plan, &range, tensor, |device, at| {
                        saved[at].copy_from_slice(&self.computed[region][device]);
                    });
                    assert!(saved == expected, "saved by runs: {} {range:?}", self.context);

                    let mut target = Sequence { geometry, regions: &mut loaded[..], blocks };
                    scatter(&mut target, &range, &expected).unwrap();
                    for_each_run(&plan, &range, tensor, |device, at| {
                        planned[region][device].copy_from_slice(&expected[at]);
                    });
                    compared += 1;
                }
            }
        }
        assert!(loaded == self.computed, "loaded by the loop: {}", self.context);
        assert!(planned == self.computed, "loaded by runs: {}", self.context);
        compared
    }
}

/// A plan's runs as byte ranges of the tensor's region and of the section.
fn for_each_run(
    plan: &LayerPlan,
    range: &SectionRange,
    tensor: TensorBase,
    mut copy: impl FnMut(Range<usize>, Range<usize>),
) {
    plan.for_each_run(range.kind, |device, section, len| {
        let bytes = |start: u64| usize::try_from(start).unwrap()..usize::try_from(start + len).unwrap();
        copy(bytes(tensor.offset + device), bytes(section));
    });
}
