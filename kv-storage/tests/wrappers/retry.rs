//! `Retrying` in virtual time: which calls are made again, how often, and what becomes of answers that are lost.

use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use kv_format::RecordName;
use kv_memory::HostBuf;
use kv_storage::env::{Clock, Entropy, Environment};
use kv_storage::fault::{Injection, When};
use kv_storage::parts::{Answer, Entry, Passage, Rule};
use kv_storage::{
    ByteRange, Error, ErrorKind, Fault, GateOptions, HealthGate, KvStore, MemoryStore, Next, ObjectMeta,
    Operation, PosixOptions, PosixStore, Publication, ReadSink, RetryOptions, Retrying, WriteSource,
};
use tokio::time::Instant;

use super::{faulty, name, part, publish, read, waiting};

const UNAVAILABLE: Injection = Injection::Fail(ErrorKind::Unavailable);
const LOST: Injection = Injection::FailAfter(ErrorKind::Unavailable);

/// Notes how long somebody slept, and does not sleep.
#[derive(Debug, Default)]
struct NotingClock(Mutex<Vec<Duration>>);

impl Clock for NotingClock {
    fn now(&self) -> Duration {
        self.0.lock().unwrap().iter().sum()
    }

    fn unix_millis(&self) -> u64 {
        0
    }

    fn sleep(&self, duration: Duration) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        self.0.lock().unwrap().push(duration);
        Box::pin(std::future::ready(()))
    }
}

/// SplitMix64.
#[derive(Debug)]
struct Seeded(Mutex<u64>);

impl Entropy for Seeded {
    fn next_u64(&self) -> u64 {
        let mut state = self.0.lock().unwrap();
        *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (*state ^ (*state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

fn generous() -> RetryOptions {
    RetryOptions::default().budget(100, 1000)
}

async fn retrying(options: RetryOptions) -> (MemoryStore, Fault, Retrying, Vec<u8>) {
    let (memory, fault, bytes) = faulty().await;
    let retrying = Retrying::new(Arc::new(fault.clone()), options);
    (memory, fault, retrying, bytes)
}

//= SEMANTICS.md#retry-kinds
#[tokio::test(start_paused = true)]
async fn calls_that_were_not_answered_are_made_again_with_their_buffers() {
    let (memory, fault, store, bytes) = retrying(generous()).await;
    let record = RecordName::request("r", 0);
    for operation in Operation::ALL {
        // Twice in a row; an abort and a commit are made once.
        fault.inject(When::nth(operation, 1), UNAVAILABLE);
        if operation != Operation::Commit {
            fault.inject(When::nth(operation, 2), UNAVAILABLE);
        }
    }
    assert_eq!(
        read(&store, vec![part(50, 50), part(0, 10)]).await.unwrap().unwrap(),
        [&bytes[50..], &bytes[..10]]
    );
    let meta = store.head(&name(1)).await.unwrap().unwrap();
    let listed = store.list(&name(1).namespace, None, 10).await.unwrap();
    assert_eq!((listed.len(), &listed[0]), (1, &meta));
    let upload = store.begin(&name(2), 4).await.unwrap();
    upload.write(0, HostBuf::copy_of(b"four").unwrap()).await.1.unwrap();
    assert_eq!(upload.commit().await.unwrap_err().kind(), ErrorKind::Unavailable);
    assert_eq!(memory.head(&name(2)).await.unwrap(), None, "no effect, no object");
    assert_eq!(fault.calls(Operation::Commit), 1);
    assert!(store.quarantine(&name(1), &meta.version).await.unwrap());
    let version = store.create_record(&record, b"first").await.unwrap().unwrap();
    store.replace_record(&record, &version, b"second").await.unwrap().unwrap();
    assert_eq!(store.read_record(&record).await.unwrap().unwrap().body, b"second");
    assert!(store.delete_record(&record).await.unwrap());
    assert!(!store.delete(&name(1)).await.unwrap());
    let calls = Operation::ALL.map(|operation| fault.calls(operation));
    // begin, write, commit, abort, read, head (and after the commit), list, delete, quarantine, records
    assert_eq!(calls, [3, 3, 1, 0, 3, 4, 3, 3, 3, 3, 3, 3, 3]);
    assert_eq!(store.retries(), calls.iter().sum::<u64>() - 12);
}

//= SEMANTICS.md#retry-kinds
#[tokio::test(start_paused = true)]
async fn what_will_not_pass_by_itself_is_not_tried_again() {
    for kind in [
        ErrorKind::PermissionDenied,
        ErrorKind::NoSpace,
        ErrorKind::OutOfRange,
        ErrorKind::Invalid,
        ErrorKind::Unsupported,
        ErrorKind::Backend,
    ] {
        let (_, fault, store, _) = retrying(generous()).await;
        fault.inject(When::always(), Injection::Fail(kind));
        assert_eq!(store.head(&name(1)).await.unwrap_err().kind(), kind);
        assert_eq!(read(&store, vec![part(0, 1)]).await.unwrap_err().kind(), kind);
        assert_eq!((fault.total_calls(), store.retries()), (2, 0), "{kind:?}");
    }
    // A store that is marked down is left alone.
    let (memory, _, _) = faulty().await;
    let fault = Fault::with_stranded_bound(Arc::new(memory), 1);
    let store = Retrying::new(Arc::new(fault.clone()), generous());
    let _hold = fault.hang(When::next(Operation::Delete));
    let object = name(9);
    drop(waiting(store.delete(&object)));
    assert!(store.health().down);
    assert_eq!(store.head(&name(1)).await.unwrap_err().kind(), ErrorKind::Unavailable);
    assert_eq!((fault.calls(Operation::Head), store.retries()), (1, 0));
}

//= SEMANTICS.md#retry-kinds
#[tokio::test(start_paused = true)]
async fn a_call_whose_buffers_stayed_with_the_backend_is_not_made_again() {
    let (_, fault, _) = faulty().await;
    let gate = HealthGate::new(
        Arc::new(fault.clone()),
        GateOptions::default().deadline(Some(Duration::from_secs(1))),
    );
    let store = Retrying::new(Arc::new(gate), generous());
    let upload = store.begin(&name(2), 4).await.unwrap();
    let _hold = fault.hang(When::always());
    let (buffer, written) = upload.write(0, HostBuf::copy_of(b"four").unwrap()).await;
    assert_eq!((buffer.len(), written.unwrap_err().kind()), (0, ErrorKind::Unavailable));
    assert_eq!(read(&store, vec![part(0, 1)]).await.unwrap_err().kind(), ErrorKind::Unavailable);
    assert_eq!((fault.calls(Operation::Write), fault.calls(Operation::Read)), (1, 1));
    // A call that owns none is.
    assert_eq!(store.head(&name(1)).await.unwrap_err().kind(), ErrorKind::Unavailable);
    assert!(fault.calls(Operation::Head) > 1);
}

//= SEMANTICS.md#retry-budget
#[tokio::test(start_paused = true)]
async fn all_calls_together_retry_no_more_than_the_budget() {
    let (_, fault, store, _) = retrying(RetryOptions::default()).await;
    fault.inject(When::always(), UNAVAILABLE);
    let calls = 2000;
    for _ in 0..calls / 2 {
        store.head(&name(1)).await.unwrap_err();
        store.clone().read_record(&RecordName::request("r", 0)).await.unwrap_err();
    }
    let made = fault.total_calls();
    assert!(made <= calls + calls / 10 + 10, "{calls} calls became {made}");
    assert!(made > calls + calls / 10 - 5, "{calls} calls became {made}: the budget is not used");
    assert_eq!(store.retries(), made - calls);
}

//= SEMANTICS.md#retry-backoff
#[tokio::test]
async fn waits_are_random_parts_of_a_bound_that_doubles() {
    let seed = Environment::default().entropy.next_u64();
    println!("seed {seed:#x}");
    let clock = Arc::new(NotingClock::default());
    let environment = Environment {
        clock: Arc::<NotingClock>::clone(&clock),
        entropy: Arc::new(Seeded(Mutex::new(seed))),
        ..Environment::default()
    };
    let options = generous()
        .attempts(7)
        .backoff(Duration::from_millis(100), Duration::from_millis(1000))
        .environment(environment);
    let (_, fault, store, _) = retrying(options).await;
    fault.inject(When::always(), UNAVAILABLE);
    let bounds = [100, 200, 400, 800, 1000, 1000].map(Duration::from_millis);
    let mut longest = [Duration::ZERO; 6];
    let mut shortest = [Duration::MAX; 6];
    for _ in 0..100 {
        clock.0.lock().unwrap().clear();
        store.head(&name(1)).await.unwrap_err();
        let waits = clock.0.lock().unwrap().clone();
        assert_eq!(waits.len(), 6);
        for (index, (wait, bound)) in waits.into_iter().zip(bounds).enumerate() {
            assert!(wait <= bound, "retry {index} waited {wait:?}");
            longest[index] = longest[index].max(wait);
            shortest[index] = shortest[index].min(wait);
        }
    }
    for ((longest, shortest), bound) in longest.into_iter().zip(shortest).zip(bounds) {
        assert!(
            longest > bound / 2 && shortest < bound / 2,
            "{shortest:?} to {longest:?} is not all of {bound:?}"
        );
    }
}

//= SEMANTICS.md#retry-backoff
#[tokio::test(start_paused = true)]
async fn no_retry_begins_when_patience_is_over() {
    let options = generous().attempts(1000).patience(Duration::from_secs(3));
    let (_, fault, store, _) = retrying(options).await;
    fault.inject(When::always(), UNAVAILABLE);
    let began = Instant::now();
    store.head(&name(1)).await.unwrap_err();
    assert!(began.elapsed() <= Duration::from_millis(3010), "{:?}", began.elapsed());
    assert!((2..1000).contains(&fault.total_calls()), "{} attempts", fault.total_calls());
}

//= SEMANTICS.md#retry-commit
#[tokio::test(start_paused = true)]
async fn a_commit_whose_answer_is_lost_is_resolved_by_looking() {
    let (memory, fault, store, _) = retrying(generous()).await;
    fault.inject(When::next(Operation::Commit), LOST);
    assert_eq!(publish(&store, &name(2), b"ours").await.unwrap(), Publication::AlreadyExists);
    let ours = memory.head(&name(2)).await.unwrap().unwrap();
    assert_eq!((ours.len, fault.calls(Operation::Commit)), (4, 1), "published once");
    // If the store does not say, neither does the wrapper.
    fault.inject(When::next(Operation::Commit), LOST);
    fault.inject(When::every(Operation::Head), UNAVAILABLE);
    assert_eq!(publish(&store, &name(3), b"ours").await.unwrap_err().kind(), ErrorKind::Unavailable);
    assert!(memory.head(&name(3)).await.unwrap().is_some());
}

//= SEMANTICS.md#retry-record
#[tokio::test(start_paused = true)]
async fn a_record_whose_answer_is_lost_is_known_by_its_body() {
    let (memory, fault, store, _) = retrying(generous()).await;
    let (ours, others) = (RecordName::request("ours", 0), RecordName::request("others", 0));
    fault.inject(When::next(Operation::CreateRecord), LOST);
    let created = store.create_record(&ours, b"pending").await.unwrap();
    assert_eq!(created, memory.read_record(&ours).await.unwrap().map(|record| record.version));
    assert_eq!(store.create_record(&ours, b"pending").await.unwrap(), None, "no attempt was lost");
    fault.inject(When::next(Operation::ReplaceRecord), LOST);
    let replaced = store.replace_record(&ours, &created.clone().unwrap(), b"complete").await.unwrap();
    assert_eq!(replaced, memory.read_record(&ours).await.unwrap().map(|record| record.version));
    assert_ne!(replaced, created);
    // Somebody else's record stays somebody else's.
    memory.create_record(&others, b"theirs").await.unwrap();
    fault.inject(When::next(Operation::CreateRecord), UNAVAILABLE);
    assert_eq!(store.create_record(&others, b"ours").await.unwrap(), None);
    assert_eq!(memory.read_record(&others).await.unwrap().unwrap().body, b"theirs");
}

/// Keeps what it is handed.
#[derive(Default)]
struct Kept(Mutex<Vec<u8>>);

impl ReadSink for Kept {
    fn filled(&self, _: &ObjectMeta, _: usize, buffer: HostBuf) -> Next {
        self.0.lock().unwrap().extend_from_slice(&buffer);
        Next::Reuse(buffer)
    }
}

/// Refuses the next reads and writes.
#[derive(Debug)]
struct Refusing(AtomicU64);

impl Rule for Refusing {
    type Pass = ();

    async fn enter(&self, entry: Entry) -> kv_storage::Result<()> {
        let moves = matches!(entry.operation, Operation::Read | Operation::Write);
        if moves && self.0.swap(0, Ordering::Relaxed) > 0 {
            return Err(Error::new(ErrorKind::Unavailable, "refusing", "not now"));
        }
        Ok(())
    }

    fn leave(&self, (): (), _: Answer<'_>) {}
}

/// Fills every range with ones.
struct Ones;

impl WriteSource for Ones {
    fn fill(&self, _: usize, buffer: &mut HostBuf) -> bool {
        buffer.fill(1);
        true
    }
}

//= SEMANTICS.md#retry-stream
#[tokio::test(start_paused = true)]
async fn streams_are_retried_read_by_read_or_not_at_all() {
    let (_, fault, store, bytes) = retrying(generous()).await;
    fault.inject(When::nth(Operation::Read, 2), UNAVAILABLE);
    let ranges = || vec![ByteRange { offset: 0, len: 50 }, ByteRange { offset: 50, len: 50 }];
    let kept = Arc::new(Kept::default());
    let buffers = || vec![HostBuf::copy_of(&[0; 50]).unwrap()];
    store.read_into(&name(1), ranges(), buffers(), Arc::<Kept>::clone(&kept)).await.unwrap().unwrap();
    assert_eq!((&*kept.0.lock().unwrap(), store.retries()), (&bytes, 1));
    // On the threads of a store that has some, a stream is made once.
    let root = tempfile::tempdir().unwrap();
    let posix = PosixStore::open(root.path(), PosixOptions::default().format_if_empty(true)).await.unwrap();
    publish(&posix, &name(1), &bytes).await.unwrap();
    let refusing = Passage::through(Arc::new(posix), Refusing(AtomicU64::new(0)));
    let store = Retrying::new(Arc::new(refusing.clone()), generous());
    assert!(store.calls_back_on_own_threads());
    let refuse = || refusing.rule().0.store(1, Ordering::Relaxed);
    let upload = store.begin(&name(2), 50).await.unwrap();
    refuse();
    let error = store.read_into(&name(1), ranges(), buffers(), kept).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    refuse();
    let buffer = HostBuf::copy_of(&[0; 50]).unwrap();
    let (buffer, result) = upload.write_from(ranges()[..1].to_vec(), buffer, Arc::new(Ones)).await;
    assert_eq!((result.unwrap_err().kind(), store.retries()), (ErrorKind::Unavailable, 0));
    refuse();
    upload.write(0, buffer).await.1.unwrap();
    refuse();
    read(&store, vec![part(0, 100)]).await.unwrap().unwrap();
    assert_eq!(store.retries(), 2);
}
