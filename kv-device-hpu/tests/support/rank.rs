//! One rank of an engine with a pipeline: its KV memory is on the emulated device, known byte by byte.

use std::sync::Arc;
use std::time::Duration;

use kv_device::DeviceRegion;
use kv_device::Result;
use kv_device_hpu::{HpuDevice, HpuMemory};
use kv_format::reference::{builder, filled};
use kv_format::{AttentionParts, Dtype, Geometry, Namespace, PagingLayout, Replica, RopePairing, TensorBase};
use kv_pipeline::{LoadRequest, Loaded, Pipeline, Registered, SaveRequest, Saved};
use kv_storage::{KvStore, MemoryStore};

pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
pub(crate) const LAYERS: u32 = 2;
pub(crate) const CHUNK: u32 = 128;
/// Memory that no save has written and no load may touch.
const SENTINEL: u8 = 0xEE;
const DIM: u32 = 32;

pub(crate) fn namespace(heads: u32) -> Namespace {
    builder(LAYERS, heads, DIM).chunk_tokens(CHUNK).tensor_parallel(&[1, heads]).build().unwrap()
}

pub(crate) fn tokens(count: u32) -> Vec<u32> {
    (0..count).map(|i| 1000 + i * 7 % 501).collect()
}

/// All heads of the model, as vLLM on Gaudi pages them.
pub(crate) fn geometry(heads: u32) -> Geometry {
    let (block_tokens, blocks) = (128, 4);
    let layout = PagingLayout::token_major(block_tokens, heads, DIM);
    Geometry::new(AttentionParts {
        dtype: Dtype::Bf16,
        rope: RopePairing::RotateHalf,
        layers: 0..LAYERS,
        heads: 0..heads,
        replica: Replica::ONLY,
        key_dim: DIM,
        value_dim: DIM,
        block_tokens,
        blocks,
        key: layout,
        value: layout,
        tensors: (0..2 * LAYERS).map(|region| TensorBase { region, offset: 0 }).collect(),
        regions: vec![layout.block_stride * u64::from(blocks) * 2; 2 * LAYERS as usize],
    })
    .unwrap()
}

/// One rank.
pub(crate) struct Rank {
    pub(crate) kv: Pipeline,
    pub(crate) registered: Registered,
    pub(crate) blocks: Vec<u32>,
    /// The engine's, which allocates by a device of its own.
    pub(crate) memory: Arc<Vec<HpuMemory>>,
}

impl Rank {
    /// `engine` allocates, `device` is used by the pipeline.
    pub(crate) fn new(
        engine: &Arc<HpuDevice>,
        device: Arc<HpuDevice>,
        store: &MemoryStore,
        heads: u32,
        blocks: &[u32],
    ) -> Result<Self> {
        let geometry = geometry(heads);
        let allocate = |len: &u64| engine.allocate(usize::try_from(*len).unwrap());
        let memory: Vec<HpuMemory> = geometry.regions.iter().map(allocate).collect::<Result<_>>()?;
        for part in &memory {
            part.write(0, &vec![SENTINEL; usize::try_from(part.region().len).unwrap()])?;
        }
        let store: Arc<dyn KvStore> = Arc::new(store.clone());
        let pipeline = Pipeline::builder(namespace(heads)).device(device).store(store);
        let kv = pipeline.staging_bytes(1 << 20).part_bytes(64 << 10).build().map_err(kept)?;
        let regions: Vec<DeviceRegion> = memory.iter().map(HpuMemory::region).collect();
        // SAFETY: whoever has the rank keeps its memory until `close`, and touches it between operations only.
        let registered = unsafe { kv.register(geometry, regions) }.map_err(kept)?;
        Ok(Self { kv, registered, blocks: blocks.to_vec(), memory: Arc::new(memory) })
    }

    /// What the memory is when it has the KV of `count` tokens, and the sentinel elsewhere.
    pub(crate) fn expected(&self, count: u32) -> Vec<Vec<u8>> {
        filled(&self.registered.geometries()[0], &self.blocks, count)
    }

    pub(crate) fn prefill(&self, count: u32) -> Result<()> {
        self.memory.iter().zip(self.expected(count)).try_for_each(|(part, bytes)| part.write(0, &bytes))
    }

    pub(crate) fn snapshot(&self) -> Result<Vec<Vec<u8>>> {
        snapshot(&self.memory)
    }

    pub(crate) async fn save(&self, count: u32) -> kv_pipeline::Result<Saved> {
        let tokens = tokens(count);
        let request = SaveRequest::new(&tokens).blocks(&self.blocks).with_tail().timeout(PATIENCE);
        self.kv.producer().save(&self.registered, request)?.finish().await
    }

    pub(crate) async fn load(&self, count: u32) -> kv_pipeline::Result<Loaded> {
        let tokens = tokens(count);
        let request = LoadRequest::new(&tokens).blocks(&self.blocks).timeout(PATIENCE);
        self.kv.consumer().load(&self.registered, request)?.finish().await
    }

    /// Ends the registration. If the device cannot tell any more, the memory stays allocated, as the contract has it.
    pub(crate) async fn close(self) -> kv_pipeline::Result<()> {
        let closed = self.registered.close().await;
        if closed.is_err() {
            super::keep(Arc::clone(&self.memory));
        }
        closed
    }
}

pub(crate) fn snapshot(memory: &[HpuMemory]) -> Result<Vec<Vec<u8>>> {
    let read = |part: &HpuMemory| {
        let mut bytes = vec![0; usize::try_from(part.region().len).unwrap()];
        part.read(0, &mut bytes).map(|()| bytes)
    };
    memory.iter().map(read).collect()
}

/// A pipeline's error as the device's, of which it is made.
fn kept(error: kv_pipeline::Error) -> kv_device::Error {
    kv_device::Error::new(kv_device::ErrorKind::Vendor, "pipeline", error.to_string())
}
