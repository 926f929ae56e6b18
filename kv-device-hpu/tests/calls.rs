//! How often the runtime is called, and what of the links that leaves unused, by the emulation's model of time.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#![expect(unsafe_code, reason = "registers memory")]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use kv_device::emulation::{Checksums, NotBefore};
use kv_device::{Device, Fence, RegisteredMemory, TransferRequest};
use kv_device_hpu::{HpuDevice, HpuMemory};
use kv_format::{
    AttentionParts, Dtype, Geometry, LayerPlan, PagingLayout, Replica, RopePairing, SectionPlace, TensorBase,
    TensorKind, Transfer,
};
use kv_memory::StagingPool;
use kv_storage::MemoryStore;
use support::Fake;
use support::rank::{CHUNK, LAYERS, Rank};

#[tokio::test]
async fn a_load_is_one_copy_multiple_for_each_layer_band() {
    // Of 32 KiB of rows and more a part holds few sections, so the staging decides how many bands a chunk has.
    for heads in [1, 2] {
        let fake = Fake::new();
        let engine = fake.own().unwrap();
        let store = MemoryStore::new();
        let rank = Rank::new(&engine, Arc::clone(&engine), &store, heads, &[2, 0]).unwrap();
        let chunks = 2;
        rank.prefill(chunks * CHUNK).unwrap();
        rank.save(chunks * CHUNK).await.unwrap();
        fake.tell("clear");
        rank.load(chunks * CHUNK).await.unwrap();
        // The whole chunk is one band: K and V of all layers, 8 KiB for each head, fit a part of 64 KiB beside the header.
        assert!(u64::from(LAYERS * 2 * heads * 8192) <= 64 << 10);
        let expected = u64::from(chunks);
        for symbol in ["synMemCopyAsyncMultiple", "synEventRecord", "synEventSynchronize"] {
            assert_eq!(fake.count(symbol), expected, "{symbol}, {heads} heads");
        }
        let calls: u64 = fake.tell("log").lines().count() as u64;
        assert_eq!(calls, 3 * expected, "and nothing else: {}", fake.tell("log"));
        // One row for each block and section: as many descriptors as there are blocks, whatever the heads.
        rank.close().await.unwrap();
    }
}

const CHUNKS: usize = 64;
const CHUNK_BYTES: usize = 10 << 20;
/// Nanoseconds of a call, GB/s of a link, and of the checksum that the host takes of what it gets (facts of this project: 45 GB/s and more).
const CALL: u64 = 10_000;
const LINK: f64 = 50.0;
const CHECKSUM: u64 = 45;

/// One direction's traffic: memory of its own, transfers of 10 MiB in 80 sections.
struct Traffic {
    memory: HpuMemory,
    registered: Arc<dyn RegisteredMemory>,
    pool: StagingPool,
    transfer: Transfer,
}

impl Traffic {
    /// K of 80 layers, 256 tokens, one head of 256: a rank of a large model.
    fn new(device: &Arc<HpuDevice>) -> Self {
        let (layers, block, dim) = (80, 128, 256);
        let paging = PagingLayout::token_major(block, 1, dim);
        let layer = paging.block_stride * 4 * 2;
        let geometry = Geometry::new(AttentionParts {
            dtype: Dtype::Bf16,
            rope: RopePairing::RotateHalf,
            layers: 0..layers,
            heads: 0..1,
            replica: Replica::ONLY,
            key_dim: dim,
            value_dim: dim,
            block_tokens: block,
            blocks: 4,
            key: paging,
            value: paging,
            tensors: (0..2 * u64::from(layers))
                .map(|t| TensorBase { region: 0, offset: t * layer })
                .collect(),
            regions: vec![layer * 2 * u64::from(layers)],
        })
        .unwrap();
        let memory = device.allocate(usize::try_from(geometry.regions[0]).unwrap()).unwrap();
        // SAFETY: the traffic keeps the memory until it has closed the registration, and nobody else uses it.
        let registered = unsafe { device.register(vec![memory.region()]) }.unwrap();
        let plan = LayerPlan::new(&geometry, &[3, 0], 0..256, 0..1).unwrap();
        let bytes = plan.section_bytes(TensorKind::Key);
        let place = |layer: u32| {
            let base = geometry.tensor(layer, TensorKind::Key).unwrap();
            let staging = u64::from(layer) * bytes;
            SectionPlace { region: base.region, device: base.offset, staging, kind: TensorKind::Key }
        };
        let sections: Vec<SectionPlace> = (0..layers).map(place).collect();
        assert_eq!(u64::from(layers) * bytes, CHUNK_BYTES as u64);
        let transfer = Transfer { plan: Arc::new(plan), sections };
        // Those that the device asks for, and one for each host thread.
        let parts = device.capabilities().concurrency + 2;
        let staging = device.allocate_staging(parts * CHUNK_BYTES).unwrap();
        let pool = StagingPool::from_boxed(staging, CHUNK_BYTES).unwrap();
        Self { memory, registered, pool, transfer }
    }

    /// Moves all chunks through a few buffers. A gathered buffer is used again when its checksum was taken, a loaded one is scattered
    /// when it was verified; both is the work of host threads, whose time is reckoned here.
    async fn run(&self, fake: &Fake, gathers: bool) {
        let direction = if gathers { "DeviceToHost" } else { "HostToDevice" };
        let (number, host) = (Arc::<AtomicUsize>::default(), Checksums::new(2, CHECKSUM));
        let lane = async || {
            let (mut staging, mut free) = (self.pool.acquire().await, 0);
            while let Some(index) =
                Some(number.fetch_add(1, Ordering::AcqRel)).filter(|index| *index < CHUNKS)
            {
                if !gathers {
                    free = host.take(free, CHUNK_BYTES as u64);
                }
                // The lanes ask for three more at once, of which the last is not queued yet.
                let asked_at_least = if index + 1 < CHUNKS { index + 3 } else { 0 };
                let (control, asked) = (fake.control, Arc::clone(&number));
                let after: Arc<dyn Fence> =
                    Arc::new(NotBefore { control, time: free, asked_at_least, asked });
                let transfer = self.transfer.clone();
                let request =
                    TransferRequest { transfer, staging, after: Some(after), fence_timeout: Duration::ZERO };
                let (buffer, outcome) = match gathers {
                    true => self.registered.gather(request).await,
                    false => self.registered.scatter(request).await,
                };
                outcome.unwrap();
                staging = buffer;
                // Transfers of a direction are copied in the order in which they were first polled.
                let end = copies(fake, direction)[index].1;
                free = if gathers { host.take(end, CHUNK_BYTES as u64) } else { end };
            }
        };
        futures_util::future::join_all((0..self.pool.parts()).map(|_| lane())).await;
        self.registered.close().await.unwrap();
    }
}

/// When each copy of a direction began and ended, in reckoned nanoseconds.
fn copies(fake: &Fake, direction: &str) -> Vec<(u64, u64)> {
    let copies = fake.tell("copies");
    let lines = copies.lines().filter_map(|line| line.strip_prefix(direction));
    lines
        .map(|line| {
            let numbers: Vec<u64> = line.split_whitespace().map(|number| number.parse().unwrap()).collect();
            (numbers[1], numbers[2])
        })
        .collect()
}

#[tokio::test]
async fn save_and_load_together_keep_both_links_busy() {
    let fake = Fake::new();
    let device = fake.own().unwrap();
    let (save, load) = (Traffic::new(&device), Traffic::new(&device));
    fake.tell("clear");
    fake.tell(&format!("model d2h={LINK} h2d={LINK} call={CALL} clock=virtual"));
    tokio::join!(save.run(&fake, true), load.run(&fake, false));
    for direction in ["DeviceToHost", "HostToDevice"] {
        let copies = copies(&fake, direction);
        assert_eq!(copies.len(), CHUNKS, "one call for a chunk");
        let last = copies.iter().map(|(_, end)| *end).max().unwrap();
        let took: u64 = copies.iter().map(|(start, end)| end - start).sum();
        let efficiency = took as f64 / last as f64;
        println!("{direction}: {efficiency:.4} of the link over {} us", last / 1000);
        assert!(efficiency >= 0.95, "{direction}: {efficiency:.4}");
    }
    drop((save.memory, load.memory));
}
