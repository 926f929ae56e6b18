//! Cancelling and dropping at every await, and stores that hang: pool, store and engine memory come back to rest.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::*;
use kv_format::*;
use kv_pipeline::{ErrorKind, *};
use kv_storage::fault::{Injection, When};
use kv_storage::health::PROBE_NAMESPACE;
use kv_storage::{
    ErrorKind as StorageKind, Fault, GateOptions, HealthGate, KvStore, MemoryStore, Operation, PosixOptions,
    PosixStore,
};
use tokio::sync::Notify;

const COUNT: u32 = 2 * CHUNK;

/// A rank on a store that can fail, with the KV of `COUNT` tokens in its memory.
async fn producer() -> (Rank, Fault, MemoryStore) {
    let memory = MemoryStore::new();
    let fault = Fault::new(Arc::new(memory.clone()));
    // Parts of one page, so that an object is written in several.
    let builder = Pipeline::builder(namespace()).staging_bytes(2 << 20).part_bytes(4096);
    let rank = Rank::with(builder, Arc::new(fault.clone()), amd_like(0..HEADS, Replica::ONLY));
    rank.prefill(COUNT);
    (rank, fault, memory)
}

async fn consumer() -> (Rank, Fault) {
    let fault = Fault::new(Arc::new(saved(&namespace(), COUNT).await));
    let builder = Pipeline::builder(namespace()).staging_bytes(2 << 20).part_bytes(4096);
    (Rank::with(builder, Arc::new(fault.clone()), gaudi_like(0..HEADS, Replica::ONLY)), fault)
}

fn start_save(rank: &Rank, prompt: &[u32], timeout: Duration) -> Save {
    let request = SaveRequest::new(prompt).blocks(&rank.blocks).timeout(timeout);
    rank.kv.producer().save(&rank.registered, request).unwrap()
}

fn start_load(rank: &Rank, prompt: &[u32], timeout: Duration) -> Load {
    let request = LoadRequest::new(prompt).blocks(&rank.blocks).timeout(timeout);
    rank.kv.consumer().load(&rank.registered, request).unwrap()
}

/// Only whole chunks are visible, and what is visible loads.
async fn assert_whole(store: &MemoryStore) {
    for (name, bytes) in contents(store, &namespace()).await {
        let header = ObjectHeader::decode(&bytes, bytes.len() as u64).unwrap();
        assert_eq!(header.identity.key, name.key);
    }
    let rank = Rank::new(namespace(), Arc::new(store.clone()), gaudi_like(0..HEADS, Replica::ONLY));
    let loaded = rank.load(&tokens(COUNT)).await.unwrap();
    rank.assert_holds(loaded.tokens);
}

/// Waits until everything that the store was asked for is over.
async fn rest(rank: &Rank, fault: &Fault) {
    tokio::time::timeout(PATIENCE, async {
        fault.idle().await;
        while rank.kv.staging().bytes_lent > 0 {
            tokio::task::yield_now().await;
        }
    })
    .await
    .unwrap_or_else(|_| panic!("not at rest: {:?}, {:?}", rank.kv.staging(), rank.kv.store_health()));
    rank.assert_at_rest();
}

#[tokio::test]
async fn a_save_cancelled_in_any_store_call_leaves_nothing_behind() {
    let prompt = tokens(COUNT);
    let (rank, fault, _) = producer().await;
    start_save(&rank, &prompt, PATIENCE).finish().await.unwrap();
    let calls = fault.total_calls();
    assert!(calls > 20, "a save of four objects in several parts makes {calls} calls");
    for nth in 1..=calls {
        let (rank, fault, memory) = producer().await;
        let reached = Arc::new(Notify::new());
        let notify = Arc::clone(&reached);
        fault.on_call(move |call| {
            if call.total == nth {
                notify.notify_one()
            }
        });
        let hold = fault.hang(When::always().matching(move |call| call.total == nth));
        let save = start_save(&rank, &prompt, PATIENCE);
        reached.notified().await;
        // Returns although the call hangs.
        tokio::time::timeout(PATIENCE, save.cancel()).await.unwrap().unwrap();
        let before = rank.snapshot();
        hold.release();
        rest(&rank, &fault).await;
        assert!(rank.snapshot() == before, "call {nth}: the engine's memory changed after the cancellation");
        assert_whole(&memory).await;
        rank.registered.close().await.unwrap();
    }
}

#[tokio::test]
async fn a_load_cancelled_in_any_store_call_leaves_nothing_behind() {
    let prompt = tokens(COUNT);
    let (rank, fault) = consumer().await;
    assert_eq!(start_load(&rank, &prompt, PATIENCE).finish().await.unwrap().tokens, COUNT);
    for nth in 1..=fault.total_calls() {
        let (rank, fault) = consumer().await;
        let reached = Arc::new(Notify::new());
        let notify = Arc::clone(&reached);
        fault.on_call(move |call| {
            if call.total == nth {
                notify.notify_one()
            }
        });
        let hold = fault.hang(When::always().matching(move |call| call.total == nth));
        let load = start_load(&rank, &prompt, PATIENCE);
        reached.notified().await;
        tokio::time::timeout(PATIENCE, load.cancel()).await.unwrap().unwrap();
        // The engine gives the blocks to somebody else, and nothing writes them any more.
        rank.wipe();
        hold.release();
        rest(&rank, &fault).await;
        rank.registered.close().await.unwrap();
        rank.assert_holds(0);
    }
}

/// Lets the operation make `steps` steps of its task, cancels or drops it, and checks that everything is at rest after `close`.
async fn interrupted(steps: u32, save: bool, cancel: bool) -> bool {
    let prompt = tokens(COUNT);
    let (rank, fault) = if save {
        let (rank, fault, _) = producer().await;
        (rank, fault)
    } else {
        consumer().await
    };
    let ended = if save {
        let operation = start_save(&rank, &prompt, PATIENCE);
        for _ in 0..steps {
            tokio::task::yield_now().await;
        }
        let ended = rank.kv.stats().objects_published == 4;
        if cancel {
            operation.cancel().await.unwrap()
        } else {
            drop(operation)
        }
        ended
    } else {
        let operation = start_load(&rank, &prompt, PATIENCE);
        for _ in 0..steps {
            tokio::task::yield_now().await;
        }
        let ended = rank.kv.stats().tokens_loaded == u64::from(COUNT);
        if cancel {
            operation.cancel().await.unwrap()
        } else {
            drop(operation)
        }
        ended
    };
    rank.registered.close().await.unwrap();
    rank.wipe();
    rest(&rank, &fault).await;
    rank.assert_holds(0);
    ended
}

#[tokio::test]
async fn saves_and_loads_can_be_cancelled_or_dropped_after_any_step() {
    for (save, cancel) in [(true, true), (true, false), (false, true), (false, false)] {
        // Every step at first, then wider and wider, until the operation has ended by itself.
        let mut steps = 0;
        while !interrupted(steps, save, cancel).await {
            steps += 1 + steps / 20;
            assert!(steps < 10_000_000, "save {save}, cancel {cancel}: the operation never ends");
        }
    }
}

#[tokio::test]
async fn a_cancelled_save_waits_for_the_gather_that_runs() {
    let (rank, fault, _) = producer().await;
    let prompt = tokens(COUNT);
    let fence = kv_device::HostFence::new(&"engine");
    let after = Arc::clone(&fence) as Arc<dyn kv_device::Fence>;
    let request = SaveRequest::new(&prompt).blocks(&rank.blocks).after(after).timeout(PATIENCE);
    let save = rank.kv.producer().save(&rank.registered, request).unwrap();
    while fault.calls(Operation::Begin) == 0 || rank.kv.staging().bytes_lent == 0 {
        tokio::task::yield_now().await;
    }
    let mut cancel = Box::pin(save.cancel());
    let early = tokio::time::timeout(Duration::from_millis(50), &mut cancel).await;
    assert!(early.is_err(), "cancel returned while the device waited to read the engine's blocks");
    fence.signal();
    cancel.await.unwrap();
    rest(&rank, &fault).await;
}

#[tokio::test]
async fn a_fence_that_is_never_reached_ends_a_save_at_its_deadline() {
    let (rank, fault, memory) = producer().await;
    let prompt = tokens(COUNT);
    let after = kv_device::HostFence::new(&"engine") as Arc<dyn kv_device::Fence>;
    let request =
        SaveRequest::new(&prompt).blocks(&rank.blocks).after(after).timeout(Duration::from_millis(100));
    let error = rank.kv.producer().save(&rank.registered, request).unwrap().finish().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Deadline, "{error}");
    rest(&rank, &fault).await;
    assert!(contents(&memory, &namespace()).await.is_empty());
}

#[tokio::test]
async fn a_hung_store_ends_at_the_deadline_counts_stranded_and_recovers() {
    let prompt = tokens(COUNT);
    let short = Duration::from_secs(1);
    for operation in [Operation::Read, Operation::Begin, Operation::Write, Operation::Commit] {
        let (rank, fault, memory) = producer().await;
        let hold = fault.hang(When::every(operation));
        let error = start_save(&rank, &prompt, short).finish().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Deadline, "{operation:?}: {error}");
        let health = rank.kv.store_health();
        assert!((1..=4).contains(&health.stranded) && !health.down, "{operation:?}: {health:?}");
        fault.clear();
        hold.release();
        rest(&rank, &fault).await;
        assert_eq!(start_save(&rank, &prompt, PATIENCE).finish().await.unwrap().tokens, COUNT);
        assert_whole(&memory).await;
    }
    let (rank, fault) = consumer().await;
    let hold = fault.hang(When::nth(Operation::Read, 3));
    let loaded = start_load(&rank, &prompt, short).finish().await.unwrap();
    assert_eq!((loaded.tokens, loaded.failures[0].reason), (CHUNK, StopReason::Deadline));
    rank.assert_holds(CHUNK);
    assert!((1..=4).contains(&rank.kv.store_health().stranded));
    assert!(rank.kv.staging().bytes_lent > 0, "the hung read still owns its buffers");
    hold.release();
    rest(&rank, &fault).await;
    assert_eq!(start_load(&rank, &prompt, PATIENCE).finish().await.unwrap().tokens, COUNT);
    rank.assert_holds(COUNT);
}

#[tokio::test]
async fn a_store_that_is_down_fails_at_once_and_comes_back() {
    let prompt = tokens(COUNT);
    let memory = saved(&namespace(), COUNT).await;
    let fault = Fault::with_stranded_bound(Arc::new(memory), 2);
    let rank = Rank::new(namespace(), Arc::new(fault.clone()), gaudi_like(0..HEADS, Replica::ONLY));
    let hold = fault.hang(When::every(Operation::Read));
    // Both chunks of the load hang, which is the bound.
    let loaded = start_load(&rank, &prompt, Duration::from_millis(500)).finish().await.unwrap();
    assert_eq!(loaded.failures[0].reason, StopReason::Deadline);
    assert!(rank.kv.store_health().down);
    let loaded = start_load(&rank, &prompt, PATIENCE).finish().await.unwrap();
    assert_eq!(loaded.failures[0].reason, StopReason::Unavailable);
    fault.clear();
    hold.release();
    rest(&rank, &fault).await;
    assert_eq!(start_load(&rank, &prompt, PATIENCE).finish().await.unwrap().tokens, COUNT);
}

/// A store that its gate has marked down is a tier that is down: at once, whatever the operation's own deadline, and until it is well.
#[tokio::test]
async fn a_store_behind_a_gate_is_a_tier_that_is_down_and_not_a_hang() {
    let prompt = tokens(COUNT);
    let fault = Fault::new(Arc::new(saved(&namespace(), COUNT).await));
    let brief = Duration::from_millis(500);
    let options = GateOptions::default().deadline(Some(brief)).failures(2).intervals(brief, brief);
    let gate = HealthGate::new(Arc::new(fault.clone()), options);
    let rank = Rank::new(namespace(), Arc::new(gate.clone()), gaudi_like(0..HEADS, Replica::ONLY));
    // The reads hang: it is the gate's deadline that ends the loads, not their own. So do the probes, which read too.
    let hold = fault.hang(When::every(Operation::Read));
    while !gate.health().down {
        let loaded = start_load(&rank, &prompt, PATIENCE).finish().await.unwrap();
        assert_eq!(loaded.failures[0].reason, StopReason::Unavailable);
    }
    // Down: nothing more is asked of the backend, but by probes.
    let asked = Arc::new(Mutex::new(0));
    let count = Arc::clone(&asked);
    fault.on_call(move |call| {
        *count.lock().unwrap() += u32::from(call.object.is_some_and(|name| name.namespace != PROBE_NAMESPACE))
    });
    let loaded = start_load(&rank, &prompt, PATIENCE).finish().await.unwrap();
    assert_eq!((loaded.tokens, loaded.failures[0].reason), (0, StopReason::Unavailable));
    assert!(loaded.failures[0].message.contains("store marked down"), "{}", loaded.failures[0].message);
    let error = start_save(&rank, &prompt, PATIENCE).finish().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Storage, "{error}");
    let hit = rank.kv.consumer().lookup(LookupRequest::new(&prompt)).await.unwrap();
    assert_eq!((hit.tokens, hit.stopped), (0, Some(StopReason::Unavailable)));
    assert_eq!(*asked.lock().unwrap(), 0, "the backend was asked although the store was down");
    fault.clear();
    hold.release();
    tokio::time::timeout(PATIENCE, async {
        while gate.health().down {
            tokio::task::yield_now().await;
        }
    })
    .await
    .unwrap();
    rest(&rank, &fault).await;
    assert_eq!(start_load(&rank, &prompt, PATIENCE).finish().await.unwrap().tokens, COUNT);
    rank.assert_holds(COUNT);
}

#[tokio::test]
async fn a_full_pool_makes_work_wait_and_a_cancelled_wait_leaves_nothing() {
    let memory = saved(&namespace(), COUNT).await;
    let fault = Fault::new(Arc::new(memory));
    // Two objects of two parts each: one chunk takes the whole pool.
    let builder = Pipeline::builder(namespace()).staging_bytes(4 * 8192).part_bytes(8192);
    let rank = Rank::with(builder, Arc::new(fault.clone()), gaudi_like(0..HEADS, Replica::ONLY));
    let prompt = tokens(COUNT);
    let hold = fault.hang(When::next(Operation::Read));
    let first = start_load(&rank, &prompt, PATIENCE);
    while fault.calls(Operation::Read) == 0 {
        tokio::task::yield_now().await;
    }
    let waiting = start_load(&rank, &prompt, PATIENCE);
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert_eq!(fault.calls(Operation::Read), 1, "the second load did not wait for staging");
    waiting.cancel().await.unwrap();
    hold.release();
    assert_eq!(first.finish().await.unwrap().tokens, COUNT);
    rest(&rank, &fault).await;
}

#[tokio::test]
async fn any_failing_store_call_is_a_typed_answer_and_leaves_nothing() {
    let prompt = tokens(COUNT);
    let (rank, fault, _) = producer().await;
    start_save(&rank, &prompt, PATIENCE).finish().await.unwrap();
    for nth in 1..=fault.total_calls() {
        for injection in
            [Injection::Fail(StorageKind::NoSpace), Injection::FailAfter(StorageKind::Unavailable)]
        {
            let (rank, fault, memory) = producer().await;
            fault.inject(When::always().matching(move |call| call.total == nth), injection.clone());
            let error = start_save(&rank, &prompt, PATIENCE).finish().await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Storage, "call {nth}, {injection:?}: {error}");
            rest(&rank, &fault).await;
            assert_whole(&memory).await;
            // The next save finishes the work, whatever the failed call left.
            assert_eq!(start_save(&rank, &prompt, PATIENCE).finish().await.unwrap().tokens, COUNT);
        }
    }
    let (rank, fault) = consumer().await;
    start_load(&rank, &prompt, PATIENCE).finish().await.unwrap();
    for nth in 1..=fault.total_calls() {
        for (kind, reason) in [
            (StorageKind::PermissionDenied, StopReason::Denied),
            (StorageKind::Backend, StopReason::Unavailable),
        ] {
            let (rank, fault) = consumer().await;
            fault.inject(When::always().matching(move |call| call.total == nth), Injection::Fail(kind));
            let loaded = start_load(&rank, &prompt, PATIENCE).finish().await.unwrap();
            assert_eq!(loaded.failures[0].reason, reason, "call {nth}");
            rank.assert_holds(loaded.tokens);
            rest(&rank, &fault).await;
        }
    }
}

#[tokio::test]
async fn a_failed_save_has_removed_its_temporary_file_when_it_returns() {
    let directory = tempfile::tempdir().unwrap();
    let posix = Arc::new(
        PosixStore::open(directory.path(), PosixOptions::default().format_if_empty(true)).await.unwrap(),
    );
    let fault = Fault::new(posix);
    let builder = Pipeline::builder(namespace()).staging_bytes(2 << 20).part_bytes(4096);
    let rank = Rank::with(builder, Arc::new(fault.clone()), amd_like(0..1, Replica::ONLY));
    rank.prefill(CHUNK);
    let name_of =
        |path: &String| path.strip_prefix(&format!("{}/", directory.path().display())).unwrap().to_owned();
    let temporary = || {
        let names = files(directory.path()).iter().map(name_of).collect::<Vec<_>>();
        let is_stored = |name: &String| name.parse::<ObjectName>().is_ok() || name == "kvbridge-store";
        names.into_iter().filter(|name| !is_stored(name)).collect::<Vec<_>>()
    };
    fault.inject(When::nth(Operation::Write, 2), Injection::Fail(StorageKind::NoSpace));
    start_save(&rank, &tokens(CHUNK), PATIENCE).finish().await.unwrap_err();
    assert_eq!(temporary(), Vec::<String>::new());
    // Not by the luck of a clean-up in the background: the one object of this save was aborted, and that was waited for. (An object
    // whose `begin` is dropped because another failed is cleaned up in the background, which `KvStore::idle` waits for.)
    let calls = [Operation::Begin, Operation::Commit, Operation::Abort].map(|op| fault.calls(op));
    assert_eq!(calls, [1, 0, 1], "began, committed, aborted");
    // The same for a save that somebody else stops.
    let hold = fault.hang(When::every(Operation::Write));
    let writes = fault.calls(Operation::Write);
    let save = start_save(&rank, &tokens(CHUNK), PATIENCE);
    let canceller = save.canceller();
    while fault.calls(Operation::Write) == writes {
        tokio::task::yield_now().await;
    }
    assert_ne!(temporary(), Vec::<String>::new(), "the test looks at the right directory");
    canceller.cancel();
    assert_eq!(save.finish().await.unwrap_err().kind(), ErrorKind::Cancelled);
    hold.release();
    tokio::time::timeout(PATIENCE, fault.idle()).await.unwrap();
    assert_eq!(temporary(), Vec::<String>::new());
}

/// Every file below a directory.
fn files(directory: &std::path::Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path.display().to_string()) }
    }
    found
}

#[tokio::test]
async fn a_waiting_load_gets_what_is_published_meanwhile() {
    let memory = MemoryStore::new();
    let store: Arc<dyn KvStore> = Arc::new(memory.clone());
    let consumer = Rank::new(namespace(), Arc::clone(&store), gaudi_like(0..HEADS, Replica::ONLY));
    let prompt = tokens(COUNT);
    let wait = |timeout| {
        LoadRequest::new(&prompt).blocks(&consumer.blocks).policy(LoadPolicy::Wait).timeout(timeout)
    };
    let load = consumer.kv.consumer().load(&consumer.registered, wait(PATIENCE)).unwrap();
    while consumer.kv.stats().load_waits == 0 {
        tokio::task::yield_now().await;
    }
    let producer = Rank::new(namespace(), store, amd_like(0..HEADS, Replica::ONLY));
    producer.prefill(COUNT);
    producer.save(&prompt).await.unwrap();
    assert_eq!(load.finish().await.unwrap().tokens, COUNT);
    consumer.assert_holds(COUNT);
    // What never comes ends at the deadline.
    memory.delete(&contents(&memory, &namespace()).await[0].0).await.unwrap();
    let load = consumer.kv.consumer().load(&consumer.registered, wait(Duration::from_millis(500))).unwrap();
    let loaded = load.finish().await.unwrap();
    assert_eq!(loaded.failures[0].reason, StopReason::NotFound);
}
