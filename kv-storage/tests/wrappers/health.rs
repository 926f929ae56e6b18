//! `HealthGate` in virtual time: deadlines, going down, coming back, and not flapping.

use std::sync::Arc;
use std::time::Duration;

use kv_format::RecordName;
use kv_memory::{HostBuf, HugePages, StagingPool};
use kv_storage::fault::{Hold, Injection, When};
use kv_storage::health::PROBE_NAMESPACE;
use kv_storage::{
    DownReason, ErrorKind, Fault, GateOptions, HealthGate, KvStore, MemoryStore, Operation, ReadPart, Retry,
};
use tokio::time::Instant;

use super::{DEADLINE, faulty, name, part, read, waiting};

const SECOND: Duration = Duration::from_secs(1);

fn options() -> GateOptions {
    GateOptions::default()
        .deadline(Some(5 * SECOND))
        .intervals(SECOND, 16 * SECOND)
        .probe_deadline(2 * SECOND)
}

async fn gated(options: GateOptions) -> (MemoryStore, Fault, HealthGate) {
    let (memory, fault, _) = faulty().await;
    let gate = HealthGate::new(Arc::new(fault.clone()), options);
    (memory, fault, gate)
}

fn failing(fault: &Fault) {
    fault.inject(When::always(), Injection::Fail(ErrorKind::Unavailable));
}

/// Fails calls until the gate has given its store up.
async fn bring_down(fault: &Fault, gate: &HealthGate) {
    failing(fault);
    for _ in 0..5 {
        assert!(!gate.health().down);
        gate.head(&name(1)).await.unwrap_err();
    }
    assert!(gate.health().down);
}

/// Waits in virtual time until the store is up, or for a minute.
async fn comes_back(gate: &HealthGate) -> bool {
    for _ in 0..600 {
        if !gate.health().down {
            return true;
        }
        tokio::time::sleep(SECOND / 10).await;
    }
    false
}

/// What the probes of any gate have left in a store.
async fn leftovers(store: &MemoryStore) -> usize {
    store.list(&PROBE_NAMESPACE, None, 10).await.unwrap().len()
}

//= SEMANTICS.md#hung-deadline
#[tokio::test(start_paused = true)]
async fn a_hung_call_answers_at_the_deadline_and_keeps_its_buffers() {
    let (_, fault, gate) = gated(options()).await;
    let pool = StagingPool::new(HugePages::allocate(4 << 20).unwrap(), 1 << 20).unwrap();
    let hold = fault
        .hang(When::always().matching(|call| matches!(call.operation, Operation::Read | Operation::Write)));
    let upload = gate.begin(&name(2), 1 << 20).await.unwrap();
    let began = Instant::now();
    let mut buffer = pool.acquire().await;
    buffer.set_len(100).unwrap();
    let outcome = gate.read(&name(1), vec![ReadPart { offset: 0, buffer }]).await;
    let error = outcome.result.unwrap_err();
    assert_eq!((error.kind(), error.retry()), (ErrorKind::Unavailable, Retry::Later));
    assert!(error.to_string().contains("no answer to read within 5s"), "{error}");
    assert!(outcome.buffers.is_empty());
    let (buffer, result) = upload.write(0, pool.acquire().await).await;
    assert_eq!((result.unwrap_err().kind(), buffer.len(), buffer.capacity()), (ErrorKind::Unavailable, 0, 0));
    assert_eq!(began.elapsed().as_secs(), 10);
    assert_eq!((gate.health().in_flight, gate.health().stranded), (0, 2));
    assert_eq!(pool.usage().bytes_lent, 2 << 20, "the backend has them still");
    hold.release();
    tokio::time::timeout(DEADLINE, gate.idle()).await.unwrap();
    assert_eq!(pool.usage().bytes_lent, 0);
    assert_eq!(
        upload.commit().await.unwrap_err().kind(),
        ErrorKind::Invalid,
        "a write was left at its deadline"
    );
}

//= SEMANTICS.md#down-failing
//= SEMANTICS.md#down-at-once
#[tokio::test(start_paused = true)]
async fn failures_in_a_row_mark_the_store_down_and_calls_fail_at_once() {
    let (_, fault, gate) = gated(options()).await;
    // Four of five, and then one that succeeds: it starts anew.
    for _ in 0..3 {
        failing(&fault);
        for _ in 0..4 {
            gate.head(&name(1)).await.unwrap_err();
        }
        fault.clear();
        gate.head(&name(9)).await.unwrap();
    }
    bring_down(&fault, &gate).await;
    assert_eq!(gate.health().reason, Some(DownReason::Failing));
    tokio::time::sleep(SECOND / 2).await;
    let before = (fault.total_calls(), Instant::now());
    let mut buffer = HostBuf::copy_of(b"kept").unwrap();
    buffer.set_len(3).unwrap();
    let outcome = gate.read(&name(1), vec![ReadPart { offset: 0, buffer }]).await;
    assert_eq!(
        (outcome.buffers.len(), outcome.buffers[0].len()),
        (1, 3),
        "a refused call keeps its caller's buffers"
    );
    let error = outcome.result.unwrap_err();
    assert_eq!((error.kind(), error.retry()), (ErrorKind::Unavailable, Retry::Later));
    let text = error.to_string();
    for part in [
        "fault(memory): store marked down 0.5 s ago because 5 calls in a row failed",
        "injected fault in head",
    ] {
        assert!(text.contains(part), "{text}");
    }
    gate.create_record(&RecordName::request("r", 0), b"r").await.unwrap_err();
    gate.begin(&name(2), 1).await.unwrap_err();
    assert_eq!((fault.total_calls(), Instant::now()), before, "nothing was asked, and nobody waited");
}

//= SEMANTICS.md#down-failing
#[tokio::test(start_paused = true)]
async fn answers_are_no_failures_whatever_they_say() {
    for kind in [ErrorKind::NoSpace, ErrorKind::OutOfRange, ErrorKind::Invalid, ErrorKind::Unsupported] {
        let (_, fault, gate) = gated(options()).await;
        fault.inject(When::always(), Injection::Fail(kind));
        for _ in 0..100 {
            gate.head(&name(1)).await.unwrap_err();
        }
        assert!(!gate.health().down, "{kind:?}");
    }
    // Whoever may not write can read still; whoever may not read has no store.
    let (_, fault, gate) = gated(options()).await;
    fault.inject(When::every(Operation::Begin), Injection::Fail(ErrorKind::PermissionDenied));
    for _ in 0..100 {
        gate.begin(&name(2), 1).await.unwrap_err();
    }
    assert!(!gate.health().down);
    fault.inject(When::every(Operation::Head), Injection::Fail(ErrorKind::PermissionDenied));
    for _ in 0..5 {
        gate.head(&name(1)).await.unwrap_err();
    }
    assert!(gate.health().down);
}

//= SEMANTICS.md#down-stranded
#[tokio::test(start_paused = true)]
async fn a_store_that_hangs_stays_down_until_it_has_proved_itself() {
    let (memory, _, _) = faulty().await;
    let fault = Fault::with_stranded_bound(Arc::new(memory.clone()), 2);
    let gate = HealthGate::new(Arc::new(fault.clone()), options());
    let hold = fault.hang(When::every(Operation::Read));
    // Their callers leave before the gate's deadline: no failures, but the store beneath says that it hangs.
    for _ in 0..2 {
        drop(waiting(read(&gate, vec![part(0, 1)])));
    }
    let error = gate.head(&name(1)).await.unwrap_err();
    assert!(error.to_string().contains("2 of its operations hang"), "{error}");
    assert_eq!(gate.health().reason, Some(DownReason::Stranded));
    tokio::time::sleep(100 * SECOND).await;
    let history = gate.history();
    assert!(history.probes_failed > 3 && history.probes_passed == 0, "{history:?}");
    assert_eq!(gate.health().stranded, 2, "probes do not add to what hangs");
    fault.clear();
    hold.release();
    tokio::time::timeout(DEADLINE, fault.idle()).await.unwrap();
    assert!(!fault.health().down && gate.health().down, "one good moment is not enough");
    assert!(comes_back(&gate).await);
    assert_eq!(gate.history().probes_passed, 3);
    assert_eq!(read(&gate, vec![part(0, 1)]).await.unwrap().unwrap(), [[0]]);
}

//= SEMANTICS.md#down-probe
#[tokio::test(start_paused = true)]
async fn probes_write_read_verify_and_remove_and_three_in_a_row_bring_the_store_back() {
    let (memory, fault, gate) = gated(options()).await;
    bring_down(&fault, &gate).await;
    let since = Instant::now();
    fault.clear();
    // It takes writes but loses them: heads and begins succeed, and that is not enough.
    fault.inject(When::every(Operation::Read), Injection::Flip { at: 4000, bit: 1 });
    tokio::time::sleep(3 * SECOND + SECOND / 2).await; // probes after 1 s and 2 s more
    let error = gate.head(&name(1)).await.unwrap_err().to_string();
    assert!(error.contains("probed every 4s (the last: what was read is not what was written)"), "{error}");
    fault.clear();
    // One probe succeeds and one fails: the count starts anew, and the interval grows.
    tokio::time::sleep(4 * SECOND).await; // passes at 7 s
    fault.inject(When::every(Operation::Commit), Injection::Fail(ErrorKind::Backend));
    tokio::time::sleep(4 * SECOND).await; // fails at 11 s
    fault.clear();
    assert_eq!((gate.history().probes_passed, gate.history().probes_failed), (1, 3));
    assert!(comes_back(&gate).await);
    let took = since.elapsed().as_secs();
    assert_eq!(took, 11 + 3 * 8, "three more, 8 s apart");
    assert_eq!(gate.history().readmissions, 1);
    assert!(fault.calls(Operation::Delete) >= 5);
    assert_eq!(leftovers(&memory).await, 0);
    assert_eq!(gate.head(&name(1)).await.unwrap().unwrap().len, 100);
}

//= SEMANTICS.md#down-probe
#[tokio::test(start_paused = true)]
async fn a_probe_that_hangs_fails_at_its_deadline_and_the_next_removes_what_it_left() {
    let (memory, fault, gate) = gated(options()).await;
    bring_down(&fault, &gate).await;
    fault.clear();
    let hold = fault.hang(When::next(Operation::Read)); // behind the publication
    tokio::time::sleep(4 * SECOND).await;
    assert_eq!((gate.history().probes_failed, leftovers(&memory).await), (1, 1));
    hold.release();
    assert!(comes_back(&gate).await);
    assert_eq!((gate.history().probes_failed, leftovers(&memory).await), (1, 0));
    tokio::time::timeout(DEADLINE, gate.idle()).await.unwrap();
}

//= SEMANTICS.md#down-refused
#[tokio::test(start_paused = true)]
async fn a_store_that_may_only_be_read_comes_back_to_be_read() {
    for kind in [ErrorKind::PermissionDenied, ErrorKind::NoSpace] {
        let (_, fault, gate) = gated(options()).await;
        bring_down(&fault, &gate).await;
        fault.clear();
        fault.inject(When::every(Operation::Begin), Injection::Fail(kind));
        fault.inject(When::every(Operation::Head), Injection::Fail(kind));
        tokio::time::sleep(10 * SECOND).await;
        assert!(gate.health().down, "{kind:?}: it cannot even be read");
        fault.clear();
        fault.inject(When::every(Operation::Begin), Injection::Fail(kind));
        assert!(comes_back(&gate).await, "{kind:?}");
        gate.head(&name(1)).await.unwrap().unwrap();
    }
}

/// A server that works and fails in turns while somebody asks it ten times a second; how often its gate changed its mind.
async fn flap(good: Duration, bad: Duration, hours: u32) -> (u64, u64) {
    let (_, fault, gate) = gated(GateOptions::default()).await;
    let (mut toggles, began) = (0, Instant::now());
    while began.elapsed() < hours * 3600 * SECOND {
        for (failing, lasts) in [(false, good), (true, bad)] {
            fault.clear();
            if failing {
                fault.inject(When::always(), Injection::Fail(ErrorKind::Backend));
            }
            toggles += 1;
            let until = Instant::now() + lasts;
            while Instant::now() < until {
                let _ = gate.head(&name(1)).await;
                tokio::time::sleep(SECOND / 10).await;
            }
        }
    }
    let history = gate.history();
    assert!(
        history.readmissions <= history.downs && history.downs <= history.readmissions + 1,
        "{history:?}"
    );
    (toggles, history.downs + history.readmissions)
}

//= SEMANTICS.md#down-flapping
#[tokio::test(start_paused = true)]
async fn a_flapping_server_does_not_flap_its_users() {
    for (good, bad) in [(2, 1), (5, 1), (1, 5), (10, 10), (30, 5)] {
        let (toggles, changes) = flap(good * SECOND, bad * SECOND, 1).await;
        println!("{good} s good, {bad} s bad: {toggles} toggles, {changes} changes");
        // At its longest interval, three probes and the time up before the next fault take three minutes.
        assert!(
            changes <= 2 * (60 / 3 + 6),
            "{good} s good, {bad} s bad: {toggles} toggles, {changes} changes"
        );
    }
    // Long faults with long peace between them are not held against the store.
    let (toggles, changes) = flap(600 * SECOND, 60 * SECOND, 4).await;
    assert!(toggles - changes <= 1, "{toggles} toggles, {changes} changes"); // the last may come after the end
}

#[tokio::test(start_paused = true)]
async fn answers_from_before_the_store_went_down_say_nothing_about_it_now() {
    let (_, fault, gate) = gated(options().deadline(Some(60 * SECOND))).await;
    let hold: Hold = fault.hang(When::every(Operation::Read));
    let old: Vec<_> = (0..10).map(|_| waiting(read(&gate, vec![part(0, 1)]))).collect();
    bring_down(&fault, &gate).await;
    fault.clear();
    assert!(comes_back(&gate).await);
    // Ten late failures, twice as many as it takes.
    for call in old {
        assert_eq!(call.await.unwrap_err().kind(), ErrorKind::Unavailable);
    }
    assert!(!gate.health().down);
    hold.release();
}

#[tokio::test(start_paused = true)]
async fn a_gate_that_is_dropped_probes_no_more() {
    let (_, fault, gate) = gated(options()).await;
    bring_down(&fault, &gate).await;
    let clone = gate.clone();
    drop(gate);
    assert!(!comes_back(&clone).await);
    let failed = clone.history().probes_failed;
    assert!(failed > 3, "the clone's store is probed");
    drop(clone);
    let calls = fault.total_calls();
    tokio::time::sleep(100 * SECOND).await;
    assert_eq!(fault.total_calls(), calls);
}

/// The task that probes belongs to the runtime that found the store down. If that ends, another takes over.
#[test]
fn a_store_is_probed_although_the_runtime_that_found_it_down_is_gone() {
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let first = runtime();
    let millisecond = Duration::from_millis(1);
    let (fault, gate) = first.block_on(async {
        let (_, fault, gate) = gated(options().intervals(millisecond, millisecond)).await;
        bring_down(&fault, &gate).await;
        (fault, gate)
    });
    drop(first);
    fault.clear();
    runtime().block_on(async {
        let back = async {
            while gate.head(&name(1)).await.is_err() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(DEADLINE, back).await.unwrap();
    });
}
