//! A queue with several transfers under way: begun and ended in order, ended before a fence is waited for, and counted until then.
#![expect(clippy::unwrap_used, reason = "a test ends where it goes wrong")]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use kv_device::parts::{Completion, InFlight, Moved, TransferQueue};
use kv_device::{Error, ErrorKind, Fence, HostFence, TransferRequest};
use kv_format::{
    AttentionParts, Dtype, Geometry, LayerPlan, PagingLayout, Replica, RopePairing, TensorBase, Transfer,
};
use kv_memory::{HugePages, StagingPool};

/// What happened, in order.
type Log = Arc<Mutex<Vec<String>>>;

fn transfer() -> Transfer {
    let paging = PagingLayout::token_major(16, 1, 64);
    let geometry = Geometry::new(AttentionParts {
        dtype: Dtype::Bf16,
        rope: RopePairing::RotateHalf,
        layers: 0..1,
        heads: 0..1,
        replica: Replica::ONLY,
        key_dim: 64,
        value_dim: 64,
        block_tokens: 16,
        blocks: 1,
        key: paging,
        value: paging,
        tensors: vec![TensorBase { region: 0, offset: 0 }, TensorBase { region: 1, offset: 0 }],
        regions: vec![2048; 2],
    });
    let plan = LayerPlan::new(&geometry.unwrap(), &[0], 0..1, 0..1).unwrap();
    Transfer { plan: plan.into(), sections: Vec::new() }
}

struct Scene {
    queue: Arc<TransferQueue>,
    in_flight: Arc<InFlight>,
    pool: StagingPool,
    log: Log,
}

impl Scene {
    fn new(ahead: usize) -> Self {
        Self {
            queue: TransferQueue::start_ahead(&"test:0", "ahead", 8, ahead).unwrap().into(),
            in_flight: InFlight::new(),
            pool: StagingPool::new(HugePages::allocate(8 << 12).unwrap(), 1 << 12).unwrap(),
            log: Log::default(),
        }
    }

    /// Queues transfers, the first behind a gate so that all are queued before any begins; the results.
    async fn run(&self, fences: Vec<Option<Arc<dyn Fence>>>, fails: Option<usize>) -> Vec<Option<ErrorKind>> {
        let gate = HostFence::new(&"test:0");
        let mut running = tokio::task::JoinSet::new();
        for (index, fence) in fences.into_iter().enumerate() {
            let after =
                if index == 0 { Some(Arc::<HostFence>::clone(&gate) as Arc<dyn Fence>) } else { fence };
            let (log, ended) = (Arc::clone(&self.log), Arc::clone(&self.log));
            let begin = move |_: &Transfer, _: &mut kv_memory::HostBuf| -> kv_device::Result<Completion> {
                log.lock().unwrap().push(format!("begin {index}"));
                Ok(Box::new(move || {
                    ended.lock().unwrap().push(format!("end {index}"));
                    let failed = Error::new(ErrorKind::Vendor, "test:0", "as it should");
                    if fails == Some(index) { Err(failed) } else { Ok(()) }
                }))
            };
            let staging = self.pool.acquire().await;
            let fence_timeout =
                Duration::from_millis(1) + Duration::from_secs(if index == 0 { 30 } else { 0 });
            let request = TransferRequest { transfer: transfer(), staging, after, fence_timeout };
            let (queue, in_flight) = (Arc::clone(&self.queue), Arc::clone(&self.in_flight));
            running.spawn(async move {
                let (_staging, outcome) = queue.run_ahead(&in_flight, request, begin).await;
                (index, outcome.err().map(|error| error.kind()))
            });
            tokio::task::yield_now().await;
        }
        gate.signal();
        let mut outcomes = running.join_all().await;
        outcomes.sort_unstable_by_key(|(index, _)| *index);
        self.in_flight.quiesce().await;
        outcomes.into_iter().map(|(_, outcome)| outcome).collect()
    }

    fn log(&self) -> String {
        self.log.lock().unwrap().join(", ")
    }
}

#[tokio::test]
async fn the_next_transfer_begins_before_the_last_one_has_ended() {
    let scene = Scene::new(2);
    assert_eq!(scene.run(vec![None, None, None], None).await, [None; 3]);
    assert_eq!(scene.log(), "begin 0, begin 1, end 0, begin 2, end 1, end 2");
    assert_eq!(scene.queue.moved(), Moved { transfers: 3, bytes: 0 });
    let one = Scene::new(1);
    one.run(vec![None, None], None).await;
    assert_eq!(one.log(), "begin 0, end 0, begin 1, end 1");
}

#[tokio::test]
async fn what_is_under_way_ends_before_a_fence_is_waited_for() {
    let scene = Scene::new(4);
    let late = HostFence::new(&"test:0");
    let outcomes = scene.run(vec![None, None, Some(late), None], None).await;
    assert_eq!(outcomes, [None, None, Some(ErrorKind::Timeout), None]);
    assert_eq!(scene.log(), "begin 0, begin 1, end 0, end 1, begin 3, end 3");
}

#[tokio::test]
async fn an_end_that_fails_is_its_transfers_own() {
    let scene = Scene::new(2);
    assert_eq!(scene.run(vec![None; 3], Some(1)).await, [None, Some(ErrorKind::Vendor), None]);
    assert_eq!(scene.queue.moved().transfers, 2);
    assert_eq!(scene.pool.usage().bytes_lent, 0);
}
