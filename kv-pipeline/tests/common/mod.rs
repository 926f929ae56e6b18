//! One rank of an engine: a pipeline over a host device whose KV memory is known byte by byte.

#![allow(dead_code, clippy::allow_attributes, reason = "each test file uses a part")]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use kv_device::{Device, HostAllocation, HostDevice, HostDeviceOptions};
use kv_format::reference::{builder, filled};
use kv_format::*;
use kv_pipeline::{Result, *};
use kv_storage::{KvStore, MemoryStore, ReadPart};

/// Long enough for any machine, short enough to notice a hang.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Layers, KV heads, head dim and chunk size of the tests' model.
pub(crate) const LAYERS: u32 = 3;
pub(crate) const HEADS: u32 = 2;
pub(crate) const DIM: u32 = 16;
pub(crate) const CHUNK: u32 = 32;

/// Memory that no save has written and no load may touch.
pub(crate) const SENTINEL: u8 = 0xEE;

pub(crate) fn namespace() -> Namespace {
    planned().build().unwrap()
}

pub(crate) fn planned() -> NamespaceBuilder {
    builder(LAYERS, HEADS, DIM).chunk_tokens(CHUNK).tensor_parallel(&[1, 2, 4])
}

pub(crate) fn tokens(count: u32) -> Vec<u32> {
    (0..count).map(|i| 1000 + i * 7 % 501).collect()
}

/// A rank that holds some heads, as vLLM on ROCm pages them: block 16, x-packed K, transposed V.
pub(crate) fn amd_like(heads: Range<u32>, replica: Replica) -> Geometry {
    let count = u32::try_from(heads.len()).unwrap();
    let key = PagingLayout::x_packed(16, count, DIM, 8);
    paged(heads, replica, 16, 24, key, PagingLayout::transposed(16, count, DIM))
}

/// A rank that holds some heads, as vLLM on Gaudi pages them: block 128, token-major.
pub(crate) fn gaudi_like(heads: Range<u32>, replica: Replica) -> Geometry {
    let count = u32::try_from(heads.len()).unwrap();
    let layout = PagingLayout::token_major(128, count, DIM);
    paged(heads, replica, 128, 4, layout, layout)
}

fn paged(
    heads: Range<u32>,
    replica: Replica,
    block_tokens: u32,
    blocks: u32,
    key: PagingLayout,
    value: PagingLayout,
) -> Geometry {
    Geometry::new(AttentionParts {
        dtype: Dtype::Bf16,
        rope: RopePairing::RotateHalf,
        layers: 0..LAYERS,
        heads,
        replica,
        key_dim: DIM,
        value_dim: DIM,
        block_tokens,
        blocks,
        key,
        value,
        tensors: (0..2 * LAYERS).map(|region| TensorBase { region, offset: 0 }).collect(),
        regions: vec![key.block_stride * u64::from(blocks) * 2; 2 * LAYERS as usize],
    })
    .unwrap()
}

/// Block ids in an order that is not their own.
pub(crate) fn scattered(geometry: &Geometry) -> Vec<u32> {
    let blocks = geometry.blocks;
    let step = (blocks / 2..blocks).find(|step| gcd(*step, blocks) == 1).unwrap_or(1);
    (0..blocks).map(|i| (i * step + 1) % blocks).collect()
}

fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// One rank.
pub(crate) struct Rank {
    pub(crate) kv: Pipeline,
    pub(crate) registered: Registered,
    pub(crate) blocks: Vec<u32>,
    pub(crate) memory: Vec<HostAllocation>,
}

impl Rank {
    pub(crate) fn new(namespace: Namespace, store: Arc<dyn KvStore>, geometry: Geometry) -> Self {
        let builder = Pipeline::builder(namespace).staging_bytes(2 << 20).part_bytes(64 << 10);
        Self::with(builder, store, geometry)
    }

    pub(crate) fn with(builder: PipelineBuilder, store: Arc<dyn KvStore>, geometry: Geometry) -> Self {
        let device = HostDevice::new(HostDeviceOptions::default()).unwrap();
        let blocks = scattered(&geometry);
        Self::on(builder, store, &device, geometry, blocks)
    }

    pub(crate) fn on(
        builder: PipelineBuilder,
        store: Arc<dyn KvStore>,
        device: &Arc<HostDevice>,
        geometry: Geometry,
        blocks: Vec<u32>,
    ) -> Self {
        let allocate = |len: &u64| device.allocate(usize::try_from(*len).unwrap()).unwrap();
        let memory: Vec<HostAllocation> = geometry.regions.iter().map(allocate).collect();
        let device: Arc<dyn Device> = Arc::clone(device) as Arc<dyn Device>;
        let kv = builder.device(device).store(store).build().unwrap();
        let regions = memory.iter().map(HostAllocation::region).collect();
        // SAFETY: the rank owns the allocations beside the registration, and tests touch them only between operations.
        let registered = unsafe { kv.register(geometry, regions) }.unwrap();
        let rank = Self { kv, registered, blocks, memory };
        rank.wipe();
        rank
    }

    /// Puts the sentinel everywhere.
    pub(crate) fn wipe(&self) {
        self.memory.iter().for_each(|memory| memory.with(|bytes| bytes.fill(SENTINEL)));
    }

    /// What the engine's memory is when it has the KV of `count` tokens, and the sentinel elsewhere.
    pub(crate) fn expected(&self, count: u32) -> Vec<Vec<u8>> {
        filled(&self.registered.geometries()[0], &self.blocks, count)
    }

    /// Computes the KV of `count` tokens, as an engine would.
    pub(crate) fn prefill(&self, count: u32) {
        for (memory, bytes) in self.memory.iter().zip(self.expected(count)) {
            memory.write(0, &bytes).unwrap();
        }
    }

    /// The engine's memory.
    pub(crate) fn snapshot(&self) -> Vec<Vec<u8>> {
        self.memory.iter().map(|memory| memory.with_shared(<[u8]>::to_vec)).collect()
    }

    /// Asserts that the memory holds the KV of exactly `count` tokens.
    pub(crate) fn assert_holds(&self, count: u32) {
        for (region, (have, want)) in self.snapshot().iter().zip(self.expected(count)).enumerate() {
            let differ = have.iter().zip(&want).position(|(have, want)| have != want);
            assert_eq!(differ, None, "region {region} differs from the KV of {count} tokens at this byte");
        }
    }

    pub(crate) async fn save(&self, tokens: &[u32]) -> Result<Saved> {
        let request = SaveRequest::new(tokens).blocks(&self.blocks).with_tail().timeout(PATIENCE);
        self.kv.producer().save(&self.registered, request)?.finish().await
    }

    /// Loads full chunks.
    pub(crate) async fn load(&self, tokens: &[u32]) -> Result<Loaded> {
        let request = LoadRequest::new(tokens).blocks(&self.blocks).timeout(PATIENCE);
        self.kv.consumer().load(&self.registered, request)?.finish().await
    }

    /// Nothing is lent out, and nothing is in flight.
    pub(crate) fn assert_at_rest(&self) {
        assert_eq!(self.kv.staging().bytes_lent, 0, "staging is still lent out");
        let health = self.kv.store_health();
        assert_eq!((health.in_flight, health.stranded), (0, 0), "the store is not at rest");
    }
}

/// A memory store in which the first `count` tokens are saved by an engine that holds all heads.
pub(crate) async fn saved(namespace: &Namespace, count: u32) -> MemoryStore {
    let store = MemoryStore::new();
    let rank = Rank::new(namespace.clone(), Arc::new(store.clone()), amd_like(0..HEADS, Replica::ONLY));
    rank.prefill(count);
    rank.save(&tokens(count)).await.unwrap();
    store
}

/// Every object of a namespace with its bytes.
pub(crate) async fn contents(store: &dyn KvStore, namespace: &Namespace) -> Vec<(ObjectName, Vec<u8>)> {
    let mut objects = Vec::new();
    for meta in store.list(&namespace.digest(), None, 10_000).await.unwrap() {
        let mut buffer = kv_memory::HostBuf::allocate(usize::try_from(meta.len).unwrap()).unwrap();
        buffer.set_len(usize::try_from(meta.len).unwrap()).unwrap();
        let outcome = store.read(&meta.name, vec![ReadPart { offset: 0, buffer }]).await;
        outcome.result.unwrap().unwrap();
        objects.push((meta.name, outcome.buffers[0].to_vec()));
    }
    objects
}

/// Puts bytes under a name, replacing what is there, as a broken or hostile writer would.
pub(crate) async fn plant(store: &dyn KvStore, name: &ObjectName, bytes: &[u8]) {
    store.delete(name).await.unwrap();
    let upload = store.begin(name, bytes.len() as u64).await.unwrap();
    let (_, result) = upload.write(0, kv_memory::HostBuf::copy_of(bytes).unwrap()).await;
    result.unwrap();
    upload.commit().await.unwrap();
}
