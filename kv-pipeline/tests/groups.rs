//! Models with several KV groups: every group of a chunk, or the chunk is not there.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::sync::Arc;

use common::{CHUNK, PATIENCE, SENTINEL, tokens};
use kv_device::{Device, HostAllocation, HostDevice, HostDeviceOptions};
use kv_format::reference::{builder, fill, group_geometry, together};
use kv_format::*;
use kv_pipeline::{ErrorKind, *};
use kv_storage::{KvStore, MemoryStore};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;

const COUNT: u32 = 3 * CHUNK;

/// Full attention with fp8 and scales, a latent with its index, and states, on ten layers.
fn namespace() -> Namespace {
    let mut model = builder(1, 1, 1).build().unwrap().model().clone();
    let layers = |first: u32| (first..6).step_by(2).collect::<LayerSet>();
    let scales = Scales {
        granularity: ScaleGranularity::PerTokenHead,
        direction: ScaleDirection::Multiply,
        dtype: Dtype::F32,
    };
    model.groups = vec![
        KvGroup {
            dtype: Some(Dtype::E4m3Fnuz),
            scales: Some(scales),
            ..KvGroup::new(GroupRule::FullAttention { key_dim: 16, value_dim: 8 }, layers(0), 2)
        },
        KvGroup::new(GroupRule::RecurrentState { dim: 12 }, layers(1), 4),
        KvGroup::new(GroupRule::MlaLatent { latent_dim: 16, rope_dim: 8 }, 6..8, 1),
        KvGroup::new(GroupRule::SparseIndex { dim: 8 }, 6..8, 1),
    ];
    Namespace::builder(model).chunk_tokens(CHUNK).tensor_parallel(&[1, 2, 4]).build().unwrap()
}

/// Attention with fp8 and one scale for each tensor or head.
fn with_static_scales(granularity: ScaleGranularity) -> Namespace {
    let mut model = builder(3, 2, 16).build().unwrap().model().clone();
    model.groups[0].scales =
        Some(Scales { granularity, direction: ScaleDirection::Divide, dtype: Dtype::Bf16 });
    model.groups[0].dtype = Some(Dtype::E4m3Fn);
    Namespace::builder(model).chunk_tokens(CHUNK).tensor_parallel(&[1, 2, 4]).build().unwrap()
}

/// A rank of an engine with some of the heads, its memory laid out at random.
struct Engine {
    kv: Pipeline,
    registered: Registered,
    blocks: Vec<Vec<u32>>,
    memory: Vec<HostAllocation>,
}

/// Random geometries of every group for one rank of a tensor parallelism.
fn geometries(
    namespace: &Namespace,
    runner: &mut TestRunner,
    rank: u32,
    degree: u32,
) -> (Vec<Geometry>, Vec<Vec<u32>>) {
    let groups = (0..).zip(&namespace.model().groups).map(|(index, group)| {
        let (heads, replica) = group.shard(degree, rank).unwrap();
        let engine = group_geometry(index, group.clone(), heads, CHUNK, COUNT);
        let (geometry, blocks) = engine.new_tree(runner).unwrap().current();
        (Geometry::new(GeometryParts { replica, ..(*geometry).clone() }).unwrap(), blocks)
    });
    together(groups.collect())
}

impl Engine {
    fn new(store: &MemoryStore, rank: (Vec<Geometry>, Vec<Vec<u32>>)) -> Self {
        Self::of(namespace(), store, rank)
    }

    fn of(
        namespace: Namespace,
        store: &MemoryStore,
        (geometries, blocks): (Vec<Geometry>, Vec<Vec<u32>>),
    ) -> Self {
        let device = HostDevice::new(HostDeviceOptions::default()).unwrap();
        let allocate = |len: &u64| device.allocate(usize::try_from(*len).unwrap()).unwrap();
        let memory: Vec<HostAllocation> = geometries[0].regions.iter().map(allocate).collect();
        let kv = Pipeline::builder(namespace)
            .device(Arc::clone(&device) as Arc<dyn Device>)
            .store(Arc::new(store.clone()))
            .staging_bytes(2 << 20)
            .part_bytes(8 << 10)
            .build()
            .unwrap();
        let regions = memory.iter().map(HostAllocation::region).collect();
        // SAFETY: the engine owns the allocations beside the registration, and tests touch them only between operations.
        let registered = unsafe { kv.register(geometries, regions) }.unwrap();
        let engine = Self { kv, registered, blocks, memory };
        engine.memory.iter().for_each(|memory| memory.with(|bytes| bytes.fill(SENTINEL)));
        engine
    }

    fn expected(&self, count: u32) -> Vec<Vec<u8>> {
        let mut regions: Vec<Vec<u8>> =
            self.memory.iter().map(|memory| vec![SENTINEL; memory.len()]).collect();
        for (geometry, blocks) in self.registered.geometries().iter().zip(&self.blocks) {
            fill(geometry, blocks, count, &mut regions);
        }
        regions
    }

    fn prefill(&self, count: u32) {
        for (memory, bytes) in self.memory.iter().zip(self.expected(count)) {
            memory.write(0, &bytes).unwrap();
        }
    }

    async fn save(&self, tokens: &[u32]) -> Saved {
        let request = SaveRequest::new(tokens).timeout(PATIENCE);
        let request =
            (0..).zip(&self.blocks).fold(request, |r, (group, blocks)| r.group_blocks(group, blocks));
        self.kv.producer().save(&self.registered, request).unwrap().finish().await.unwrap()
    }

    async fn load(&self, tokens: &[u32]) -> Loaded {
        let request = LoadRequest::new(tokens).timeout(PATIENCE);
        let request =
            (0..).zip(&self.blocks).fold(request, |r, (group, blocks)| r.group_blocks(group, blocks));
        self.kv.consumer().load(&self.registered, request).unwrap().finish().await.unwrap()
    }

    fn assert_holds(&self, count: u32) {
        for (region, (memory, want)) in self.memory.iter().zip(self.expected(count)).enumerate() {
            memory.with_shared(|have| assert!(have == want, "region {region} is not that of {count} tokens"));
        }
    }
}

//= SPEC.md#invariant
//= SPEC.md#replica-writer
#[tokio::test]
async fn every_group_goes_from_two_ranks_to_four_and_back_to_one() {
    let mut runner = TestRunner::deterministic();
    let (store, prompt) = (MemoryStore::new(), tokens(COUNT));
    let slices = namespace().slices().slices().len() as u64;
    let mut written = 0;
    for rank in 0..2 {
        let engine = Engine::new(&store, geometries(&namespace(), &mut runner, rank, 2));
        engine.prefill(COUNT);
        let saved = engine.save(&prompt).await;
        assert_eq!((saved.tokens, saved.deduplicated), (COUNT, 0));
        written += saved.objects;
    }
    assert_eq!(written, slices * u64::from(COUNT / CHUNK), "every slice of every chunk, once");
    for (rank, degree) in [(0, 4), (1, 4), (2, 4), (3, 4), (0, 1)] {
        let engine = Engine::new(&store, geometries(&namespace(), &mut runner, rank, degree));
        let loaded = engine.load(&prompt).await;
        assert_eq!((loaded.tokens, loaded.failures), (COUNT, vec![]), "rank {rank} of {degree}");
        engine.assert_holds(COUNT);
    }
}

//= SPEC.md#group-missing
#[tokio::test]
async fn a_chunk_that_lacks_one_group_ends_hit_and_load() {
    let mut runner = TestRunner::deterministic();
    let (namespace, prompt) = (namespace(), tokens(COUNT));
    let chunk = &chunks(&namespace, &prompt, &[]).unwrap()[1];
    for group in 0..4 {
        let store = MemoryStore::new();
        let engine = Engine::new(&store, geometries(&namespace, &mut runner, 0, 1));
        engine.prefill(COUNT);
        engine.save(&prompt).await;
        let mut slices = (0..).zip(namespace.slices().slices());
        let slice = slices.find(|(_, slice)| slice.group == group).unwrap().0;
        let name = ObjectName { namespace: namespace.digest(), key: chunk.key, chunk_index: 1, slice };
        assert!(store.delete(&name).await.unwrap(), "{name}");
        let reader = Engine::new(&store, geometries(&namespace, &mut runner, 0, 1));
        let hit = reader.kv.consumer().lookup(LookupRequest::new(&prompt)).await.unwrap();
        assert_eq!((hit.tokens, hit.stopped), (CHUNK, Some(StopReason::NotFound)), "group {group}");
        let loaded = reader.load(&prompt).await;
        assert_eq!((loaded.tokens, loaded.failures.len()), (CHUNK, 1), "group {group}");
        let failure = &loaded.failures[0];
        assert_eq!((failure.chunk_index, failure.object), (1, Some(name)));
        reader.assert_holds(CHUNK);
    }
}

//= SPEC.md#group-missing
#[tokio::test]
async fn a_rank_without_a_group_or_its_blocks_is_refused() {
    let store = MemoryStore::new();
    let (all, blocks) = geometries(&namespace(), &mut TestRunner::deterministic(), 0, 1);
    let engine = Engine::new(&store, (all.clone(), blocks));
    let regions = || engine.memory.iter().map(HostAllocation::region).collect::<Vec<_>>();
    for missing in 0..all.len() {
        let mut some = all.clone();
        some.remove(missing);
        // SAFETY: the allocations outlive the pipeline, and the registration is refused.
        let error = unsafe { engine.kv.register(some, regions()) }.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Incompatible, "{error}");
        assert!(error.to_string().contains(&format!("KV group {missing}")), "{error}");
    }
    let changed = |group: usize, change: &dyn Fn(&mut GeometryParts)| {
        let mut geometries = all.clone();
        let mut parts = (*all[group]).clone();
        change(&mut parts);
        geometries[group] = Geometry::new(parts).unwrap();
        // SAFETY: as above.
        unsafe { engine.kv.register(geometries, regions()) }.unwrap_err().kind()
    };
    let direction = changed(0, &|parts| parts.scales.as_mut().unwrap().direction = ScaleDirection::Divide);
    assert_eq!(direction, ErrorKind::Incompatible);
    assert_eq!(
        changed(1, &|parts| parts.block_tokens = CHUNK / 2),
        ErrorKind::Incompatible,
        "two states a chunk"
    );
    assert_eq!(changed(2, &|parts| parts.dtype = Dtype::F16), ErrorKind::Incompatible);
    let prompt = tokens(COUNT);
    for group in 0..4 {
        let request =
            (0..4).filter(|other| *other != group).fold(LoadRequest::new(&prompt), |request, other| {
                request.group_blocks(other, &engine.blocks[other as usize])
            });
        let error = engine.kv.consumer().load(&engine.registered, request).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(error.to_string().contains(&format!("KV group {group}")), "{error}");
    }
}

//= SPEC.md#scales-static
#[tokio::test]
async fn fixed_scales_are_compared_and_never_written() {
    for granularity in [ScaleGranularity::PerTensor, ScaleGranularity::PerHead] {
        let (namespace, prompt) = (with_static_scales(granularity), tokens(COUNT));
        let mut runner = TestRunner::deterministic();
        let store = MemoryStore::new();
        let mut engine = |rank, degree| {
            let rank = geometries(&namespace, &mut runner, rank, degree);
            Engine::of(namespace.clone(), &store, rank)
        };
        let producer = engine(0, 1);
        producer.prefill(COUNT);
        assert_eq!(producer.save(&prompt).await.tokens, COUNT);
        // Four ranks for two heads, each with the producer's scales and nothing else.
        for rank in 0..4 {
            let consumer = engine(rank, 4);
            consumer.prefill(0);
            let loaded = consumer.load(&prompt).await;
            assert_eq!((loaded.tokens, loaded.failures), (COUNT, vec![]), "{granularity:?}, rank {rank}");
            consumer.assert_holds(COUNT);
        }
        // One byte of one layer's scale of V is another: nothing is loaded, and nothing of the engine's changes.
        let other = engine(0, 1);
        other.prefill(0);
        let scale = other.registered.geometries()[0].tensor(2, TensorKind::ValueScale).unwrap();
        let memory = &other.memory[scale.region as usize];
        memory.with(|bytes| bytes[usize::try_from(scale.offset).unwrap()] ^= 1);
        let before: Vec<Vec<u8>> =
            other.memory.iter().map(|memory| memory.with_shared(<[u8]>::to_vec)).collect();
        let loaded = other.load(&prompt).await;
        let failure = &loaded.failures[0];
        assert_eq!((loaded.tokens, failure.chunk_index, failure.reason), (0, 0, StopReason::Incompatible));
        assert!(failure.message.contains("ValueScale of layer 2"), "{}", failure.message);
        for (memory, before) in other.memory.iter().zip(before) {
            memory.with_shared(|bytes| assert!(bytes == before));
        }
    }
}
