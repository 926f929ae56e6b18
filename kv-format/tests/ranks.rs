//! Every legal tensor parallelism up to 16 for 8, 12 and 40 KV heads, with 1, 2 and 4 pipeline stages: what the ranks hold, and who
//! writes it. Enumerated, not sampled.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::ops::Range;

use kv_format::reference::builder;
use kv_format::*;

const LAYERS: u32 = 8;

/// Attention on even layers and states on odd ones, both with `heads`; a latent and its index on the last two layers.
fn groups(heads: u32) -> Vec<KvGroup> {
    let every_other = |first: u32| (first..LAYERS - 2).step_by(2).collect::<LayerSet>();
    vec![
        KvGroup::new(GroupRule::FullAttention { key_dim: 4, value_dim: 4 }, every_other(0), heads),
        KvGroup::new(GroupRule::RecurrentState { dim: 4 }, every_other(1), heads),
        KvGroup::new(GroupRule::MlaLatent { latent_dim: 4, rope_dim: 2 }, LAYERS - 2..LAYERS, 1),
        KvGroup::new(GroupRule::SparseIndex { dim: 4 }, LAYERS - 2..LAYERS, 1),
    ]
}

/// The geometries of one rank, for each group that has layers in its stage.
fn rank(namespace: &Namespace, layers: &Range<u32>, degree: u32, rank: u32) -> Vec<Geometry> {
    let mut geometries = Vec::new();
    for (index, group) in (0..).zip(&namespace.model().groups) {
        let own = group.layers.within(layers.clone());
        if own.is_empty() {
            continue;
        }
        let (heads, replica) = group.shard(degree, rank).unwrap();
        let count = u32::try_from(heads.len()).unwrap();
        let mut next = u64::from(index) << 20;
        let tensors = group.tensors().into_iter().map(|(kind, dim)| {
            let paging = PagingLayout::token_major(16, count, dim);
            let place = |_| {
                let offset = next;
                next += paging.block_stride * 2;
                TensorBase { region: 0, offset }
            };
            TensorGeometry { kind, dim, paging, bases: own.iter().map(place).collect() }
        });
        let tensors = tensors.collect();
        let parts = GeometryParts {
            group: index,
            dtype: Dtype::Bf16,
            rope: RopePairing::RotateHalf,
            layers: own,
            heads,
            replica,
            block_tokens: 16,
            blocks: 1,
            scales: None,
            tensors,
            regions: vec![4 << 20],
        };
        geometries.push(Geometry::new(parts).unwrap());
    }
    Geometry::check_together(&geometries).unwrap();
    geometries
}

fn legal(heads: u32) -> Vec<u32> {
    (1..=16).filter(|degree| heads.is_multiple_of(*degree) || degree.is_multiple_of(heads)).collect()
}

//= SPEC.md#slice-table-plan
//= SPEC.md#replica-writer
#[test]
fn the_ranks_hold_every_slice_and_exactly_one_of_them_writes_it() {
    let tokens: Vec<u32> = (0..7 * 16).collect();
    for heads in [8, 12, 40] {
        for stages in [1, 2, 4] {
            let mut model = builder(1, 1, 1).build().unwrap().model().clone();
            model.groups = groups(heads);
            let starts: Vec<u32> = (0..stages).map(|stage| stage * LAYERS / stages).collect();
            let namespace = Namespace::builder(model)
                .chunk_tokens(16)
                .tensor_parallel(&legal(heads))
                .pipeline_stages(&starts)
                .build()
                .unwrap();
            let chunks = chunks(&namespace, &tokens, &[]).unwrap();
            for degree in legal(heads) {
                let mut held = BTreeMap::new();
                let mut written = BTreeMap::new();
                for start in &starts {
                    let layers = *start..start + LAYERS / stages;
                    for number in 0..degree {
                        let geometries = rank(&namespace, &layers, degree, number);
                        for (_, slice) in namespace.slices().held_by_rank(&geometries).unwrap() {
                            for layer in namespace.slices().layers(slice) {
                                for head in slice.heads.clone() {
                                    *held.entry((slice.group, layer, head)).or_insert(0) += 1;
                                }
                            }
                        }
                        let ids: Vec<u32> = vec![0; chunks.len()];
                        let blocks: Vec<&[u32]> = geometries.iter().map(|_| &ids[..]).collect();
                        let plan = RankPlan::new(
                            &namespace,
                            &geometries,
                            &chunks,
                            &blocks,
                            layers.clone(),
                            Granularity::AnyRun,
                        );
                        for object in plan.unwrap().objects() {
                            let slice = &namespace.slices().slices()[object.name.slice as usize];
                            let first = slice.layers.start >= layers.start && slice.layers.end <= layers.end;
                            assert!(first, "{slice:?} belongs to another stage than {layers:?}");
                            *written.entry(object.name).or_insert(0) += u32::from(object.writes);
                        }
                    }
                }
                let what = format!("{heads} heads, TP {degree}, PP {stages}");
                let cells: Vec<(u32, u32, u32)> = (0..)
                    .zip(&namespace.model().groups)
                    .flat_map(|(group, definition)| {
                        let of = move |layer| (0..definition.kv_heads).map(move |head| (group, layer, head));
                        definition.layers.iter().flat_map(of)
                    })
                    .collect();
                assert!(held.keys().copied().eq(cells.iter().copied()), "{what}: other cells are held");
                for (cell, times) in &held {
                    let kv_heads = namespace.group(cell.0).unwrap().kv_heads;
                    assert_eq!(*times, (degree / kv_heads).max(1), "{what}: holders of {cell:?}");
                }
                assert_eq!(written.len(), namespace.slices().slices().len() * chunks.len(), "{what}");
                assert!(written.values().all(|writers| *writers == 1), "{what}: {written:?}");
            }
        }
    }
}

#[test]
fn replicas_of_a_head_are_neighbours() {
    let group = KvGroup::full_attention(1, 8, 4);
    assert_eq!(group.shard(4, 3).unwrap(), (6..8, Replica::ONLY));
    assert_eq!(group.shard(16, 11).unwrap(), (5..6, Replica { index: 1, count: 2 }));
    for (degree, rank) in [(3, 0), (0, 0), (12, 0), (8, 8)] {
        assert_eq!(
            group.shard(degree, rank).unwrap_err().kind(),
            ErrorKind::Invalid,
            "rank {rank} of {degree}"
        );
    }
}
