//! One rank of a Llama-3.1-70B-shaped engine over host memory, with its pipeline.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use kv_device::{Device, HostAllocation, HostDevice, HostDeviceOptions};
use kv_format::{
    AttentionParts, Checksum, Dtype, Geometry, InputDigest, KvGroup, ModelIdentity, Namespace, ObjectName,
    PagingLayout, Replica, RopePairing, TensorBase, TensorKind,
};
use kv_pipeline::{Delivery, LoadRequest, Pipeline, Registered, SaveRequest};
use kv_storage::KvStore;
use tokio::runtime::Runtime;

use crate::registration::register;

/// Layers, KV heads, elements of a head, tokens of a chunk, bytes of an element.
const LAYERS: u32 = 80;
const HEADS: u32 = 8;
const DIM: u32 = 128;
pub(crate) const CHUNK: u32 = 256;
const ELEMENT: usize = 2;

/// Bytes of one token's K or V of one head.
pub(crate) const HEAD_BYTES: usize = DIM as usize * ELEMENT;

/// Bytes of one section, and how many an object has.
pub(crate) const SECTION_BYTES: usize = CHUNK as usize * HEAD_BYTES;
pub(crate) const SECTIONS: usize = 2 * LAYERS as usize;

/// Payload of one object: one KV head of one chunk, all layers, K and V.
pub(crate) const OBJECT_PAYLOAD: usize = SECTIONS * SECTION_BYTES;

/// Two pages of header.
pub(crate) const HEADER_BYTES: usize = 8192;

/// The object: header and payload.
pub(crate) const OBJECT_BYTES: usize = OBJECT_PAYLOAD + HEADER_BYTES;

/// Longest time that one save or load may take.
const PATIENCE: Duration = Duration::from_secs(300);

/// Where the shuffle of block ids starts.
pub(crate) const SEED: u64 = 0x6b76_6272_6964_6765;

/// How an engine keeps its KV.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shape {
    pub(crate) name: &'static str,
    /// KV heads of the rank.
    pub(crate) heads: u32,
    pub(crate) block_tokens: u32,
    /// Whether the sequence's blocks are scattered over twice as many, as in a cache that has been in use.
    pub(crate) shuffled: bool,
}

/// The shapes that are measured.
pub(crate) const SHAPES: [Shape; 4] = [
    Shape { name: "TP8, blocks of 16, shuffled", heads: 1, block_tokens: 16, shuffled: true },
    Shape { name: "TP8, blocks of 128, in order", heads: 1, block_tokens: 128, shuffled: false },
    Shape { name: "TP1, blocks of 16, shuffled", heads: 8, block_tokens: 16, shuffled: true },
    Shape { name: "TP1, blocks of 128, in order", heads: 8, block_tokens: 128, shuffled: false },
];

impl Shape {
    /// Block ids of a sequence of so many objects, and how many blocks there are.
    pub(crate) fn blocks(&self, objects: u32) -> (Vec<u32>, u32) {
        let needed = objects / self.heads * CHUNK / self.block_tokens;
        // An engine has more blocks than one sequence takes, and its regions are huge pages: with fewer than two MiB they would not be.
        let all = 2 * needed;
        let mut blocks: Vec<u32> = (0..all).collect();
        if self.shuffled {
            shuffle(&mut blocks);
        }
        blocks.truncate(needed as usize);
        (blocks, all)
    }

    /// Bytes of the K or the V of one block of one layer.
    pub(crate) fn block_bytes(&self) -> usize {
        (self.block_tokens * self.heads) as usize * HEAD_BYTES
    }
}

/// A rank with its memory, its pipeline and a sequence of KV under two names: one that is stored before anything is measured, for
/// loads, as the files are that plain loops read; and one that every save stores anew.
pub(crate) struct Engine {
    registered: Registered,
    kv: Pipeline,
    store: Arc<dyn KvStore>,
    memory: Vec<HostAllocation>,
    stored: Vec<u32>,
    fresh: Vec<u32>,
    blocks: Vec<u32>,
    payload: u64,
    /// Names of the objects that loads read.
    keep: BTreeSet<ObjectName>,
}

impl Engine {
    /// An engine whose sequence makes `objects` objects. `tenant` keeps the objects of the engines of one run apart.
    pub(crate) fn new(
        runtime: &Runtime,
        store: &Arc<dyn KvStore>,
        shape: Shape,
        objects: u32,
        tenant: &str,
    ) -> Result<Self> {
        let tokens = objects / shape.heads * CHUNK;
        let (blocks, all) = shape.blocks(objects);
        let geometry = geometry(shape, all)?;
        let device = HostDevice::new(HostDeviceOptions::default())?;
        let allocate = |len: &u64| Ok(device.allocate(usize::try_from(*len)?)?);
        let memory = geometry.regions.iter().map(allocate).collect::<Result<Vec<_>>>()?;
        let mut state = SEED;
        for allocation in &memory {
            allocation.with(|bytes| {
                bytes.chunks_mut(8).for_each(|eight| {
                    let random = next(&mut state).to_le_bytes();
                    eight.copy_from_slice(&random[..eight.len()]);
                })
            });
        }
        let entered = runtime.enter();
        let device: Arc<dyn Device> = device;
        let kv = Pipeline::builder(namespace(tenant)?).device(device).store(Arc::clone(store)).build()?;
        drop(entered);
        let registered = register(&kv, geometry, &memory)?;
        let payload = u64::from(objects) * OBJECT_PAYLOAD as u64;
        let (store, stored, fresh) =
            (Arc::clone(store), (0..tokens).collect(), (tokens..2 * tokens).collect());
        let keep = BTreeSet::new();
        Ok(Self { registered, kv, store, memory, stored, fresh, blocks, payload, keep })
    }

    /// Saves everything into a store that has none of it; how long that took.
    pub(crate) fn save(&mut self, runtime: &Runtime) -> Result<Duration> {
        self.clear(runtime)?;
        self.save_as(runtime, &self.fresh)
    }

    fn save_as(&self, runtime: &Runtime, tokens: &[u32]) -> Result<Duration> {
        let request = SaveRequest::new(tokens).blocks(&self.blocks).timeout(PATIENCE);
        let started = Instant::now();
        let saved = runtime.block_on(self.kv.producer().save(&self.registered, request)?.finish())?;
        let took = started.elapsed();
        ensure!(saved.bytes == self.payload, "{} of {} bytes were saved", saved.bytes, self.payload);
        Ok(took)
    }

    /// Loads everything that was stored at first back into the same blocks; how long that took.
    pub(crate) fn load(&mut self, runtime: &Runtime, delivery: Delivery) -> Result<Duration> {
        let request =
            LoadRequest::new(&self.stored).blocks(&self.blocks).delivery(delivery).timeout(PATIENCE);
        let started = Instant::now();
        let loaded = runtime.block_on(self.kv.consumer().load(&self.registered, request)?.finish())?;
        let took = started.elapsed();
        ensure!(
            loaded.bytes == self.payload,
            "{} of {} bytes: {:?}",
            loaded.bytes,
            self.payload,
            loaded.failures
        );
        Ok(took)
    }

    /// Stores what loads read, loads it into blocks that were wiped, and compares with what was saved: what is measured is the real
    /// thing.
    pub(crate) fn prove(&mut self, runtime: &Runtime) -> Result<()> {
        let before = self.digest();
        self.save_as(runtime, &self.stored)?;
        self.keep = runtime.block_on(self.objects())?.into_iter().collect();
        for delivery in [Delivery::WholeChunk, Delivery::AsVerified] {
            self.memory.iter().for_each(|memory| memory.with(|bytes| bytes.fill(0)));
            ensure!(self.digest() != before, "wiping the engine's memory changed nothing");
            self.load(runtime, delivery)?;
            ensure!(self.digest() == before, "what was loaded ({delivery:?}) is not what was saved");
        }
        Ok(())
    }

    /// What pages the engine's memory was asked for in.
    pub(crate) fn pages(&self) -> String {
        let mib = self.memory.iter().map(HostAllocation::len).sum::<usize>() >> 20;
        let first = self.memory.first().map_or_else(String::new, |memory| format!("{:?}", memory.pages()));
        format!("{mib} MiB in {} regions, pages asked for: {first}", self.memory.len())
    }

    /// Checksum of the sequence's KV in each region.
    fn digest(&self) -> Vec<u64> {
        let geometry = &self.registered.geometries()[0];
        let stride = geometry.paging(TensorKind::Key).map_or(0, |paging| paging.block_stride);
        let block = usize::try_from(stride).unwrap_or(usize::MAX).saturating_mul(ELEMENT);
        let of = |bytes: &[u8]| {
            let mut checksum = Checksum::new();
            for id in &self.blocks {
                checksum.update(&bytes[*id as usize * block..][..block]);
            }
            checksum.value()
        };
        self.memory.iter().map(|memory| memory.with_shared(of)).collect()
    }

    /// Removes what saves have stored since.
    pub(crate) fn clear(&mut self, runtime: &Runtime) -> Result<()> {
        runtime.block_on(async {
            for object in self.objects().await?.iter().filter(|object| !self.keep.contains(object)) {
                self.store.delete(object).await?;
            }
            self.store.idle().await;
            Ok(())
        })
    }

    async fn objects(&self) -> Result<Vec<ObjectName>> {
        let objects = self.store.list(&self.kv.namespace().digest(), None, usize::MAX).await?;
        Ok(objects.into_iter().map(|object| object.name).collect())
    }
}

/// Every K and every V has a region of its own, as engines allocate them.
pub(crate) fn geometry(shape: Shape, blocks: u32) -> Result<Geometry> {
    let layout = PagingLayout::token_major(shape.block_tokens, shape.heads, DIM);
    let region = layout.block_stride * u64::from(blocks) * ELEMENT as u64;
    Ok(Geometry::new(AttentionParts {
        dtype: Dtype::Bf16,
        rope: RopePairing::RotateHalf,
        layers: 0..LAYERS,
        heads: 0..shape.heads,
        replica: Replica::ONLY,
        key_dim: DIM,
        value_dim: DIM,
        block_tokens: shape.block_tokens,
        blocks,
        key: layout,
        value: layout,
        tensors: (0..2 * LAYERS).map(|region| TensorBase { region, offset: 0 }).collect(),
        regions: vec![region; 2 * LAYERS as usize],
    })?)
}

fn namespace(tenant: &str) -> Result<Namespace> {
    let model = ModelIdentity {
        name: "llama-3.1-70b".into(),
        weights: InputDigest([0; 32]),
        adapters: vec![],
        weight_quantisation: "none".into(),
        rope_pairing: RopePairing::RotateHalf,
        rope_theta: 500_000.0,
        rope_scaling: "llama3:8:1:4:8192".into(),
        groups: vec![KvGroup::full_attention(LAYERS, HEADS, DIM)],
    };
    Ok(Namespace::builder(model).chunk_tokens(CHUNK).tensor_parallel(&[1, HEADS]).tenant(tenant).build()?)
}

/// Fisher-Yates, from [`SEED`].
fn shuffle(ids: &mut [u32]) {
    let mut state = SEED;
    for last in (1..ids.len()).rev() {
        let other = next(&mut state) % (last as u64 + 1);
        ids.swap(last, usize::try_from(other).unwrap_or(last));
    }
}

/// SplitMix64.
fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut mixed = *state;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}
