//! What is the host device's own: its addresses, what it refuses and how it says so, and what lives how long.
#![expect(clippy::unwrap_used, reason = "what tests share")]

use std::cell::RefCell;
use std::sync::mpsc::{self, RecvTimeoutError, TryRecvError};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use kv_device::parts::Moved;
use kv_device::{
    Device, DeviceRegion, Error, ErrorKind, Fence, HostAllocation, HostDevice, HostDeviceOptions, HostFence,
    NullDevice, RegisteredMemory, Result, TransferCounts, TransferRequest,
};
use kv_format::{
    AttentionParts, Dtype, Geometry, LayerPlan, PagingLayout, Replica, RopePairing, SectionPlace, TensorBase,
    TensorKind, Transfer,
};
use kv_memory::{HostBuf, StagingPool};

const DEADLINE: Duration = Duration::from_secs(60);

fn open() -> Arc<HostDevice> {
    HostDevice::new(HostDeviceOptions::default()).unwrap()
}

fn register(device: &dyn Device, regions: Vec<DeviceRegion>) -> Result<Arc<dyn RegisteredMemory>> {
    // SAFETY: the host device keeps what is registered mapped, and locks each access; no test relies on more.
    unsafe { device.register(regions) }
}

/// K and V of one layer, 4 blocks of 16 tokens, 2 heads of 8 elements of 2 bytes: 2048 bytes each.
fn transfer() -> Transfer {
    let paging = PagingLayout::token_major(16, 2, 8);
    let geometry = Geometry::new(AttentionParts {
        dtype: Dtype::Bf16,
        rope: RopePairing::RotateHalf,
        layers: 0..1,
        heads: 0..2,
        replica: Replica::ONLY,
        key_dim: 8,
        value_dim: 8,
        block_tokens: 16,
        blocks: 4,
        key: paging,
        value: paging,
        tensors: [0, 2048].map(|offset| TensorBase { region: 0, offset }).to_vec(),
        regions: vec![4096],
    });
    let plan = LayerPlan::new(&geometry.unwrap(), &[0, 1, 2, 3], 0..64, 0..2).unwrap();
    let section = |offset, kind| SectionPlace { region: 0, device: offset, staging: offset, kind };
    Transfer {
        plan: Arc::new(plan),
        sections: vec![section(0, TensorKind::Key), section(2048, TensorKind::Value)],
    }
}

fn request(after: Option<Arc<dyn Fence>>) -> TransferRequest {
    TransferRequest {
        transfer: transfer(),
        staging: HostBuf::copy_of(&[7; 4096]).unwrap(),
        after,
        fence_timeout: DEADLINE,
    }
}

fn refusal(device: &HostDevice, region: DeviceRegion) -> String {
    let error = register(device, vec![region]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    error.to_string()
}

#[test]
fn a_refused_region_is_named_with_its_owner() {
    let (first, second) = (open(), open());
    let third = HostDevice::new(HostDeviceOptions { ordinal: 3, ..HostDeviceOptions::default() });
    let third = third.unwrap();
    let allocation = first.allocate(10_000).unwrap();
    let region = allocation.region();

    let message = refusal(&second, region);
    assert!(message.contains("another device opened as host:0"), "{message}");
    let message = refusal(&third, region);
    assert!(message.starts_with("host:3: region 0 (10000 bytes at 0x"), "{message}");
    assert!(message.contains("belongs to host:0"), "{message}");

    let beyond = DeviceRegion { address: region.address + 9_000, len: 1_001 };
    let message = refusal(&first, beyond);
    assert!(message.contains("10000 bytes: it does not fit"), "{message}");
    let behind = DeviceRegion { address: region.address + 10_000, len: 1 };
    assert!(refusal(&first, behind).contains("no live allocation"));

    let on_the_host = [0_u8; 64];
    let host = DeviceRegion { address: on_the_host.as_ptr().addr() as u64, len: 64 };
    assert!(refusal(&first, host).contains("no live allocation"));
    drop(allocation);
    assert!(refusal(&first, region).contains("was it freed"));
}

#[tokio::test]
async fn a_part_of_an_allocation_may_be_registered() {
    let device = open();
    let allocation = device.allocate(3 << 20).unwrap();
    allocation.with(|bytes| bytes.fill(1));
    let mut region = allocation.region();
    assert_eq!(region.len, 3 << 20);
    region.address += 100;
    region.len = 4096;
    let registered = register(&*device, vec![region]).unwrap();
    let (_, outcome) = registered.scatter(request(None)).await;
    outcome.unwrap();
    registered.close().await.unwrap();
    allocation.with_shared(|bytes| {
        assert!(bytes[..100].iter().all(|byte| *byte == 1));
        assert!(bytes[100..4196].iter().all(|byte| *byte == 7));
        assert!(bytes[4196..].iter().all(|byte| *byte == 1));
    });
}

/// The engine breaks its promise and frees memory under a transfer: its bytes stay mapped until the registration is closed.
#[tokio::test]
async fn memory_freed_under_a_transfer_stays_mapped() {
    let device = open();
    let allocation = device.allocate(4096).unwrap();
    allocation.with(|bytes| bytes.fill(9));
    let region = allocation.region();
    let registered = register(&*device, vec![region]).unwrap();
    let fence = device.fence();
    let gather = registered.gather(request(Some(Arc::<HostFence>::clone(&fence))));
    drop(allocation);
    assert!(mapped(region));
    let (gathered, ()) = tokio::join!(gather, async { fence.signal() });
    gathered.1.unwrap();
    assert!(gathered.0.iter().all(|byte| *byte == 9));
    assert!(mapped(region));
    registered.close().await.unwrap();
    assert!(!mapped(region), "a closed registration keeps memory mapped");
}

/// Whether the kernel has a mapping that begins at the region's address and comes from a host device.
fn mapped(region: DeviceRegion) -> bool {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let start = format!("{:x}-", region.address);
    maps.lines().any(|line| line.starts_with(&start) && line.contains("kv-host-device"))
}

#[tokio::test]
async fn a_panicking_fence_costs_one_transfer_and_no_buffer() {
    #[derive(Debug)]
    struct Bad;
    impl Fence for Bad {
        fn wait(&self, _: Duration) -> Result<bool> {
            panic!("a bug of the engine")
        }
    }
    let device = open();
    let allocation = device.allocate(4096).unwrap();
    let registered = register(&*device, vec![allocation.region()]).unwrap();
    let (staging, outcome) = registered.scatter(request(Some(Arc::new(Bad)))).await;
    assert_eq!(outcome.unwrap_err().kind(), ErrorKind::DeviceLost);
    assert_eq!(staging.len(), 4096);
    let (_, outcome) = registered.scatter(request(None)).await;
    outcome.unwrap();
    registered.close().await.unwrap();
    allocation.with_shared(|bytes| assert!(bytes.iter().all(|byte| *byte == 7)));
}

thread_local! {
    /// Dropped when the thread ends.
    static UNTIL_THE_THREAD_ENDS: RefCell<Option<mpsc::Sender<()>>> = const { RefCell::new(None) };
}

/// A fence that leaves a sender with the thread that waits for it: the channel is disconnected when that thread has ended.
#[derive(Debug)]
struct ThreadEnd(Mutex<Option<mpsc::Sender<()>>>);

impl Fence for ThreadEnd {
    fn wait(&self, _: Duration) -> Result<bool> {
        UNTIL_THE_THREAD_ENDS.set(self.0.lock().unwrap().take());
        Ok(true)
    }
}

/// A registration outlives its device; what was queued runs after both are gone, and then the thread ends.
#[tokio::test]
async fn queued_transfers_run_after_the_device_is_gone() {
    let device = open();
    let allocation = device.allocate(4096).unwrap();
    let registered = register(&*device, vec![allocation.region()]).unwrap();
    let fence = device.fence();
    drop(device);
    let mut scatter = registered.scatter(request(Some(Arc::<HostFence>::clone(&fence))));
    assert!(tokio::time::timeout(Duration::ZERO, &mut scatter).await.is_err());
    let (sender, ended) = mpsc::channel();
    let mut last = registered.scatter(request(Some(Arc::new(ThreadEnd(Mutex::new(Some(sender)))))));
    assert!(tokio::time::timeout(Duration::ZERO, &mut last).await.is_err());
    drop((scatter, last));
    drop(registered);
    assert_eq!(ended.try_recv(), Err(TryRecvError::Empty));
    fence.signal();
    assert_eq!(ended.recv_timeout(DEADLINE), Err(RecvTimeoutError::Disconnected));
    allocation.with_shared(|bytes| assert!(bytes.iter().all(|byte| *byte == 7)));
}

/// Behind a full queue a transfer has not begun: a future dropped there moves nothing and keeps nothing.
#[tokio::test]
async fn a_future_dropped_before_the_queue_has_room_moves_nothing() {
    let device = HostDevice::new(HostDeviceOptions { queue_depth: 1, ..HostDeviceOptions::default() });
    let device = device.unwrap();
    let allocation = device.allocate(4096).unwrap();
    let registered = register(&*device, vec![allocation.region()]).unwrap();
    let pool = StagingPool::from_boxed(device.allocate_staging(4096).unwrap(), 4096).unwrap();
    let fence = device.fence();
    let mut begun = Vec::new();
    // One with the thread, one in the queue, one that waits: whatever the thread has taken by now.
    for _ in 0..3 {
        let mut scatter = registered.scatter(request(Some(Arc::<HostFence>::clone(&fence))));
        assert!(tokio::time::timeout(Duration::ZERO, &mut scatter).await.is_err());
        begun.push(scatter);
    }
    let mut waiting = request(None);
    waiting.staging = pool.acquire().await;
    waiting.staging.fill(8);
    let mut waiting = registered.scatter(waiting);
    assert!(tokio::time::timeout(Duration::ZERO, &mut waiting).await.is_err());
    drop(waiting);
    assert_eq!(pool.usage().bytes_lent, 0);
    fence.signal();
    for scatter in begun {
        scatter.await.1.unwrap();
    }
    registered.close().await.unwrap();
    allocation.with_shared(|bytes| assert!(bytes.iter().all(|byte| *byte == 7)));
}

#[test]
fn the_engine_stays_inside_its_allocation() {
    let device = open();
    let allocation: HostAllocation = device.allocate(100).unwrap();
    assert_eq!((allocation.len(), allocation.is_empty()), (100, false));
    allocation.write(90, &[1; 10]).unwrap();
    let mut bytes = [0; 20];
    allocation.read(80, &mut bytes).unwrap();
    assert_eq!(bytes, [[0; 10], [1; 10]].concat()[..]);
    let wrong = [allocation.write(91, &[1; 10]), allocation.read(usize::MAX, &mut bytes)];
    for outcome in wrong {
        assert_eq!(outcome.unwrap_err().kind(), ErrorKind::Invalid);
    }
    let nothing: Result<HostAllocation, Error> = device.allocate(0);
    assert_eq!(nothing.unwrap_err().kind(), ErrorKind::Invalid);
    assert_eq!(device.allocate(usize::MAX).unwrap_err().kind(), ErrorKind::OutOfMemory);
    let no_queue = HostDevice::new(HostDeviceOptions { queue_depth: 0, ..HostDeviceOptions::default() });
    assert_eq!(no_queue.unwrap_err().kind(), ErrorKind::Invalid);
}

#[tokio::test]
async fn the_null_device_counts_and_moves_nothing() {
    let device = NullDevice::new().unwrap();
    let anywhere = DeviceRegion { address: 0, len: 4096 };
    let registered = register(&*device, vec![anywhere]).unwrap();
    for _ in 0..3 {
        let (staging, outcome) = registered.gather(request(None)).await;
        outcome.unwrap();
        assert!(staging.iter().all(|byte| *byte == 7));
    }
    registered.scatter(request(None)).await.1.unwrap();
    let mut short = request(None);
    short.staging.set_len(4095).unwrap();
    assert_eq!(registered.scatter(short).await.1.unwrap_err().kind(), ErrorKind::Invalid);
    let fence = HostFence::new(&device);
    let mut late = request(Some(fence));
    late.fence_timeout = Duration::ZERO;
    assert_eq!(registered.gather(late).await.1.unwrap_err().kind(), ErrorKind::Timeout);
    registered.close().await.unwrap();
    assert_eq!(registered.gather(request(None)).await.1.unwrap_err().kind(), ErrorKind::Closed);
    let expected = TransferCounts {
        gathered: Moved { transfers: 3, bytes: 3 * 4096 },
        scattered: Moved { transfers: 1, bytes: 4096 },
    };
    assert_eq!(device.counts(), expected);
}
