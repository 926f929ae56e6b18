//! An engine's KV memory of a few layers, registered, and transfers of a chunk.
#![allow(dead_code, clippy::allow_attributes, reason = "each test uses a part of it")]

use std::sync::Arc;
use std::time::Duration;

use kv_device::conformance::{Engine as _, EngineMemory};
use kv_device::{Device as _, Fence, RegisteredMemory, Result, TransferRequest};
use kv_format::{
    AttentionParts, Dtype, Geometry, LayerPlan, PagingLayout, Replica, RopePairing, SectionPlace, TensorBase,
    TensorKind, Transfer,
};
use kv_memory::StagingPool;

use crate::support::HipEngine;

const BLOCKS: u32 = 8;
const DIM: u32 = 64;

/// A registered KV memory: each layer has a region for K and one for V.
pub(crate) struct Scene {
    pub(crate) memory: Vec<Arc<dyn EngineMemory>>,
    pub(crate) registered: Arc<dyn RegisteredMemory>,
    pub(crate) pool: StagingPool,
    geometry: Geometry,
}

impl Scene {
    /// `layers` layers of 2 heads in blocks of `block_tokens`, whose V is transposed; staging of `parts` parts.
    pub(crate) fn new(engine: &HipEngine, layers: u32, block_tokens: u32, parts: usize) -> Result<Self> {
        let key = PagingLayout::x_packed(block_tokens, 2, DIM, 8);
        let value = PagingLayout::transposed(block_tokens, 2, DIM);
        let bytes = u64::from(BLOCKS * block_tokens * 2 * DIM * 2);
        let tensors: Vec<_> = (0..2 * layers).map(|region| TensorBase { region, offset: 0 }).collect();
        let geometry = Geometry::new(AttentionParts {
            dtype: Dtype::Bf16,
            rope: RopePairing::RotateHalf,
            layers: 0..layers,
            heads: 0..2,
            replica: Replica::ONLY,
            key_dim: DIM,
            value_dim: DIM,
            block_tokens,
            blocks: BLOCKS,
            key,
            value,
            regions: vec![bytes; tensors.len()],
            tensors,
        })
        .unwrap();
        let memory: Vec<_> = geometry
            .regions
            .iter()
            .map(|len| engine.allocate(usize::try_from(*len).unwrap()))
            .collect::<Result<_>>()?;
        for (seed, part) in (1_u8..).zip(&memory) {
            let bytes: Vec<u8> =
                (0..part.region().len).map(|at| seed.wrapping_mul(31) ^ at.to_le_bytes()[0]).collect();
            part.write(0, &bytes)?;
        }
        let regions = memory.iter().map(|part| part.region()).collect();
        // SAFETY: the memory is declared before the registration is closed or leaked by whoever drops the scene in the middle.
        let registered = unsafe { engine.device.register(regions) }?;
        let all = usize::try_from(geometry.regions.iter().sum::<u64>()).unwrap().next_multiple_of(4096);
        let staging = engine.device.allocate_staging(all * parts)?;
        let pool = StagingPool::from_boxed(staging, all).unwrap();
        Ok(Self { memory, registered, pool, geometry })
    }

    /// All layers of tokens in the first blocks, the sections one behind the other.
    pub(crate) fn transfer(&self, tokens: u32) -> Transfer {
        self.transfer_with(tokens, 0)
    }

    /// As [`transfer`](Self::transfer), with gaps that grow.
    pub(crate) fn transfer_with(&self, tokens: u32, gap: u64) -> Transfer {
        let blocks: Vec<u32> = (0..BLOCKS).rev().collect();
        let plan = LayerPlan::new(&self.geometry, &blocks, 0..tokens, 0..2).unwrap();
        let (mut sections, mut staging) = (Vec::new(), 0);
        for region in 0..u32::try_from(self.memory.len()).unwrap() {
            let layers = u32::try_from(self.memory.len() / 2).unwrap();
            let kind = if region < layers { TensorKind::Key } else { TensorKind::Value };
            let base = if region < layers {
                self.geometry.tensor(region, kind)
            } else {
                self.geometry.tensor(region - layers, kind)
            };
            let base = base.unwrap();
            sections.push(SectionPlace { region: base.region, device: base.offset, staging, kind });
            staging += plan.section_bytes(kind) + gap * u64::from(region);
        }
        Transfer { plan: plan.into(), sections }
    }

    pub(crate) async fn request(&self, transfer: &Transfer, fill: u8) -> TransferRequest {
        let mut staging = self.pool.acquire().await;
        staging.fill(fill);
        TransferRequest {
            transfer: transfer.clone(),
            staging,
            after: None,
            fence_timeout: Duration::from_secs(20),
        }
    }

    pub(crate) async fn request_after(
        &self,
        transfer: &Transfer,
        fill: u8,
        fence: Arc<dyn Fence>,
    ) -> TransferRequest {
        TransferRequest { after: Some(fence), ..self.request(transfer, fill).await }
    }

    /// What the engine reads of a region.
    pub(crate) fn image(&self) -> Result<Vec<Vec<u8>>> {
        let read = |part: &Arc<dyn EngineMemory>| {
            let mut bytes = vec![0; usize::try_from(part.region().len).unwrap()];
            part.read(0, &mut bytes).map(|()| bytes)
        };
        self.memory.iter().map(read).collect()
    }

    /// Bytes that a transfer moves.
    pub(crate) fn bytes(&self, transfer: &Transfer) -> usize {
        let bytes: u64 = transfer.sections.iter().map(|place| transfer.plan.section_bytes(place.kind)).sum();
        usize::try_from(bytes).unwrap()
    }
}
