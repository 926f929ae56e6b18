//! Registered memory with known bytes, and what a transfer must do to them, element by element.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use kv_format::{Geometry, LayerPlan, SectionPlace, Transfer};
use kv_memory::{HostBuf, StagingPool};

use super::layouts::Portion;
use super::report::{Failure, ensure};
use super::{Engine, EngineMemory};
use crate::{Device, DeviceRegion, Fence, RegisteredMemory, Result as DeviceResult, TransferRequest};

/// Longest wait for a fence in checks that expect it to be reached.
const PATIENCE: Duration = Duration::from_secs(30);
/// Bytes of staging between sections, which no transfer may touch.
const GAP: u64 = 64;

/// A transfer under way.
pub(super) type Running<'a> = Pin<Box<dyn Future<Output = (HostBuf, DeviceResult<()>)> + Send + 'a>>;

/// An engine's memory for one geometry, registered, and a pool of staging.
pub(super) struct Scene {
    pub(super) geometry: Geometry,
    pub(super) memory: Vec<Arc<dyn EngineMemory>>,
    pub(super) registered: Arc<dyn RegisteredMemory>,
    pub(super) pool: StagingPool,
    closed: bool,
}

impl Scene {
    /// Allocates and registers every region of the geometry, filled with bytes from `seed`, and a pool of `parts` buffers, each
    /// with room for all that the regions hold.
    pub(super) fn new(
        engine: &dyn Engine,
        geometry: &Geometry,
        seed: u64,
        parts: usize,
    ) -> Result<Self, Failure> {
        let all = usize::try_from(geometry.regions.iter().sum::<u64>())?;
        Self::with_pool(engine, geometry, seed, parts, all.next_multiple_of(4096))
    }

    /// As [`new`](Self::new), with buffers of `part_bytes`.
    pub(super) fn with_pool(
        engine: &dyn Engine,
        geometry: &Geometry,
        seed: u64,
        parts: usize,
        part_bytes: usize,
    ) -> Result<Self, Failure> {
        let device = engine.device();
        let mut memory = Vec::new();
        for (index, len) in (0..).zip(&geometry.regions) {
            let part = engine.allocate(usize::try_from(*len)?)?;
            ensure!(
                part.region().len == *len,
                "allocated {len} bytes, but the region has {}",
                part.region().len
            );
            part.write(0, &random(seed + index, usize::try_from(*len)?))?;
            memory.push(part);
        }
        let regions = memory.iter().map(|part| part.region()).collect();
        let registered = register(&*device, regions)?;
        let pool = StagingPool::from_boxed(device.allocate_staging(part_bytes * parts)?, part_bytes)?;
        Ok(Self { geometry: geometry.clone(), memory, registered, pool, closed: false })
    }

    /// The transfer of one portion of every layer, K and V, with gaps between the sections.
    pub(super) fn transfer(&self, portion: &Portion) -> Result<Transfer, Failure> {
        let Portion { blocks, tokens, heads } = portion;
        let plan = LayerPlan::new(&self.geometry, blocks, tokens.clone(), heads.clone())?;
        let mut sections = Vec::new();
        let mut staging = GAP;
        for layer in self.geometry.layers.clone() {
            for kind in self.geometry.kinds() {
                let Some(base) = self.geometry.tensor(layer, kind) else {
                    continue;
                };
                sections.push(SectionPlace { region: base.region, device: base.offset, staging, kind });
                staging = (staging + plan.section_bytes(kind) + GAP).next_multiple_of(GAP);
            }
        }
        Ok(Transfer { plan: Arc::new(plan), sections })
    }

    /// A request with a buffer from the pool, filled with bytes from `seed`.
    pub(super) async fn request(&self, transfer: &Transfer, seed: u64) -> TransferRequest {
        let mut staging = self.pool.acquire().await;
        let bytes = random(seed, staging.len());
        staging.copy_from_slice(&bytes);
        TransferRequest { transfer: transfer.clone(), staging, after: None, fence_timeout: PATIENCE }
    }

    /// As [`request`](Self::request), behind a fence.
    pub(super) async fn request_after(
        &self,
        transfer: &Transfer,
        seed: u64,
        fence: Arc<dyn Fence>,
    ) -> TransferRequest {
        let request = self.request(transfer, seed).await;
        TransferRequest { after: Some(fence), ..request }
    }

    /// Bytes of every region, as the engine sees them.
    pub(super) fn image(&self) -> Result<Vec<Vec<u8>>, Failure> {
        let mut image = Vec::new();
        for part in &self.memory {
            let mut bytes = vec![0; usize::try_from(part.region().len)?];
            part.read(0, &mut bytes)?;
            image.push(bytes);
        }
        Ok(image)
    }

    /// Lets the engine write every region.
    pub(super) fn write_image(&self, image: &[Vec<u8>]) -> Result<(), Failure> {
        for (part, bytes) in self.memory.iter().zip(image) {
            part.write(0, bytes)?;
        }
        Ok(())
    }

    /// Calls `element(region, bytes in the region, bytes in staging)` for every element of a transfer, from the definition of the
    /// paging layout and not from the plan.
    pub(super) fn each_element(
        &self,
        portion: &Portion,
        transfer: &Transfer,
        mut element: impl FnMut(usize, std::ops::Range<usize>, std::ops::Range<usize>),
    ) -> Result<(), Failure> {
        let geometry = &self.geometry;
        let bytes = geometry.dtype.bytes() as usize;
        for place in &transfer.sections {
            let (base, mut staging) = (usize::try_from(place.device)?, usize::try_from(place.staging)?);
            for token in portion.tokens.clone() {
                let block = portion.blocks[(token / geometry.block_tokens) as usize];
                for head in portion.heads.clone() {
                    for dim in 0..geometry.dim(place.kind) {
                        let Some(paging) = geometry.paging(place.kind) else {
                            continue;
                        };
                        let head = head - geometry.heads.start;
                        let offset = paging.offset(block, token % geometry.block_tokens, head, dim);
                        let device = base + usize::try_from(offset)? * bytes;
                        element(place.region as usize, device..device + bytes, staging..staging + bytes);
                        staging += bytes;
                    }
                }
            }
        }
        Ok(())
    }

    /// What a gather must leave in a buffer that held `staging`.
    pub(super) fn gathered(
        &self,
        portion: &Portion,
        transfer: &Transfer,
        image: &[Vec<u8>],
        staging: &[u8],
    ) -> Result<Vec<u8>, Failure> {
        let mut expected = staging.to_vec();
        self.each_element(portion, transfer, |region, device, place| {
            expected[place].copy_from_slice(&image[region][device]);
        })?;
        Ok(expected)
    }

    /// What a scatter must leave in the regions that held `image`.
    pub(super) fn scattered(
        &self,
        portion: &Portion,
        transfer: &Transfer,
        image: &[Vec<u8>],
        staging: &[u8],
    ) -> Result<Vec<Vec<u8>>, Failure> {
        let mut expected = image.to_vec();
        self.each_element(portion, transfer, |region, device, place| {
            expected[region][device].copy_from_slice(&staging[place]);
        })?;
        Ok(expected)
    }

    /// Closes the registration, after which the memory may be freed.
    pub(super) async fn close(mut self) -> Result<(), Failure> {
        self.registered.close().await?;
        self.closed = true;
        Ok(())
    }
}

impl Drop for Scene {
    /// A check that failed has not closed the registration: its memory must outlive the process.
    fn drop(&mut self) {
        if !self.closed {
            Box::leak(Box::new(std::mem::take(&mut self.memory)));
        }
    }
}

/// Registers regions; the caller closes the registration before it frees them, or never frees them.
#[expect(unsafe_code, reason = "the suite is an engine: it makes the one unsafe promise")]
pub(super) fn register(
    device: &dyn Device,
    regions: Vec<DeviceRegion>,
) -> DeviceResult<Arc<dyn RegisteredMemory>> {
    // SAFETY: a scene frees its memory only after `close` has returned, and leaks it otherwise; regions that are expected to be
    // refused are never used. Checks order the engine's accesses by fences and by the results of the calls.
    unsafe { device.register(regions) }
}

/// Polls a future once, which starts a transfer; its result if it has one already.
///
/// Outside tokio's cooperative budget: a budget that is used up would pend without having started anything.
pub(super) fn poll_once<F: Future + Unpin>(running: &mut F) -> Option<F::Output> {
    let mut running = tokio::task::unconstrained(running);
    match Pin::new(&mut running).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(result) => Some(result),
        Poll::Pending => None,
    }
}

/// Waits for all; the results in order.
pub(super) async fn join_all(running: Vec<Running<'_>>) -> Vec<(HostBuf, DeviceResult<()>)> {
    let mut running: Vec<_> = running.into_iter().map(|transfer| (Some(transfer), None)).collect();
    std::future::poll_fn(|context| {
        let mut pending = false;
        for (transfer, result) in &mut running {
            if let Some(future) = transfer {
                match future.as_mut().poll(context) {
                    Poll::Ready(output) => (*transfer, *result) = (None, Some(output)),
                    Poll::Pending => pending = true,
                }
            }
        }
        if pending { Poll::Pending } else { Poll::Ready(()) }
    })
    .await;
    running.into_iter().filter_map(|(_, result)| result).collect()
}

/// Bytes that look random and depend on the seed alone.
pub(super) fn random(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    let mut bytes: Vec<u8> = (0..len.div_ceil(8)).flat_map(|_| next()).collect();
    bytes.truncate(len);
    bytes
}
