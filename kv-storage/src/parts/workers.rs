//! The threads on which blocking I/O runs.
//!
//! A job owns its buffers and answers through a oneshot. A job whose caller leaves while it is queued is taken out and its buffers
//! are given back at once; a job that runs cannot be interrupted, keeps what it holds, and is counted stranded. Each stranded job
//! blocks its thread, so another thread takes that one's place: up to the bound at which the store is down, hung operations never
//! starve the others. Clean-up work has no caller, and at most one of it runs at a time, on a thread beside the others.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use crate::parts::{Admission, Caller, Ticket};
use crate::{Error, ErrorKind, Result};

type Job = Box<dyn FnOnce() + Send>;
type Sender<B, T> = oneshot::Sender<(B, Result<T>)>;

/// The threads of one store. Dropped, they finish what is queued and end.
pub struct Workers {
    inner: Arc<Inner>,
}

struct Inner {
    store: String,
    admission: Admission,
    places: Arc<Semaphore>,
    state: Mutex<State>,
    work: Condvar,
}

#[derive(Default)]
struct State {
    /// Jobs with callers in order of arrival.
    queue: BTreeMap<u64, Job>,
    arrivals: u64,
    clean_up: VecDeque<Job>,
    cleaning: bool,
    /// Threads that there may be beside the stranded ones.
    most: usize,
    threads: usize,
    idle: usize,
    spawned: u64,
    closed: bool,
}

impl Workers {
    /// Threads for `store`, started when there is work: `threads` beside the stranded ones, `places` jobs in the queue.
    pub fn new(store: String, threads: usize, places: usize, admission: Admission) -> Self {
        Self {
            inner: Arc::new(Inner {
                store,
                admission,
                places: Arc::new(Semaphore::new(places.clamp(1, Semaphore::MAX_PERMITS))),
                state: Mutex::new(State { most: threads.max(1), ..State::default() }),
                work: Condvar::new(),
            }),
        }
    }

    /// From now on there are at most `threads` threads beside the stranded ones; those beyond end with what they do.
    pub fn set_threads(&self, threads: usize) {
        let mut state = self.inner.state();
        state.most = threads.max(1);
        self.inner.attend(state);
    }

    /// Runs `work` on a thread. `held` is what the operation owns: it comes back with the answer, whatever happens.
    ///
    /// # Errors
    /// What `work` returns; `Unavailable` while too many calls are stranded; `Backend` if `work` panics or no thread can be started.
    ///
    /// # Cancel safety
    /// Dropped while queued, `work` never runs and what was held is dropped at once; dropped later, `work` runs to its end, keeps what
    /// it holds until then, and is counted stranded.
    pub async fn run<B, T>(
        &self,
        held: B,
        work: impl FnOnce(&mut B) -> Result<T> + Send + 'static,
    ) -> (B, Result<T>)
    where
        B: Send + 'static,
        T: Send + 'static,
    {
        let inner = &self.inner;
        let (ticket, caller) = match inner.admission.admit(&inner.store) {
            Ok(admitted) => admitted,
            Err(error) => return (held, Err(error)),
        };
        let Ok(place) = Arc::clone(&inner.places).acquire_owned().await else {
            return (held, Err(inner.error("its I/O threads have ended")));
        };
        let (sender, receiver) = oneshot::channel();
        let answer = Answer { inner: Arc::clone(inner), sender: Some((sender, held)), _ticket: ticket };
        let waiting = Waiting {
            inner: Arc::clone(inner),
            number: inner.submit(Box::new(move || answer.work(place, work))),
            caller: Some(caller),
        };
        let receiver = receiver; // declared behind `waiting`, so that an unread answer is dropped before it is counted
        match receiver.await {
            Ok(answer) => {
                waiting.received();
                answer
            }
            // The channel closes unanswered only if `Answer` is leaked, and nobody leaks it.
            Err(_) => unreachable!("an answer is sent when the job is dropped"),
        }
    }

    /// Runs `work` when there is time; nobody waits for it.
    pub fn clean_up(&self, work: impl FnOnce() + Send + 'static) {
        let background = self.inner.admission.background();
        let mut state = self.inner.state();
        state.clean_up.push_back(Box::new(move || {
            work();
            drop(background);
        }));
        self.inner.attend(state);
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.inner.state().closed = true;
        self.inner.work.notify_all();
    }
}

/// What a job sends, whether it runs or is dropped in the queue. The held things come back before the ticket ends.
struct Answer<B, T> {
    inner: Arc<Inner>,
    sender: Option<(Sender<B, T>, B)>,
    _ticket: Ticket,
}

impl<B, T> Answer<B, T> {
    fn work(mut self, place: OwnedSemaphorePermit, work: impl FnOnce(&mut B) -> Result<T>) {
        drop(place); // another job may queue
        if let Some((sender, mut held)) = self.sender.take() {
            let result = catch_unwind(AssertUnwindSafe(|| work(&mut held))).unwrap_or_else(|_| {
                Err(self.inner.error("an I/O job panicked: this is a defect of the store"))
            });
            // If the caller has gone, what the job held is dropped here.
            drop(sender.send((held, result)));
        }
    }
}

impl<B, T> Drop for Answer<B, T> {
    fn drop(&mut self) {
        if let Some((sender, held)) = self.sender.take() {
            drop(sender.send((held, Err(self.inner.error("no I/O thread could be started")))));
        }
    }
}

/// The caller of a queued or running job.
struct Waiting {
    inner: Arc<Inner>,
    number: u64,
    caller: Option<Caller>,
}

impl Waiting {
    fn received(mut self) {
        if let Some(caller) = self.caller.take() {
            caller.received();
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let Some(caller) = self.caller.take() else { return };
        let queued = self.inner.state().queue.remove(&self.number);
        drop(queued); // gives its buffers back, if it was not started
        drop(caller); // counts as stranded, if it runs
        self.inner.attend(self.inner.state());
    }
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        // Jobs run outside the lock, and what runs inside does not panic half-way.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn error(&self, what: &str) -> Error {
        Error::new(ErrorKind::Unavailable, &self.store, what)
    }

    fn submit(self: &Arc<Self>, job: Job) -> u64 {
        let mut state = self.state();
        let number = state.arrivals;
        state.arrivals += 1;
        state.queue.insert(number, job);
        self.attend(state);
        number
    }

    /// Threads that there should be: those of the options, and one for each that hangs or cleans up.
    fn wanted(&self, state: &State) -> usize {
        let cleaning = state.cleaning || !state.clean_up.is_empty();
        state.most + self.admission.health().stranded + usize::from(cleaning)
    }

    /// Wakes or starts a thread for what is queued. A thread that waits is woken when the lock is free, which it takes first; one that works
    /// looks into the queue before it waits.
    fn attend(self: &Arc<Self>, mut state: MutexGuard<'_, State>) {
        let cleanable = usize::from(!state.cleaning && !state.clean_up.is_empty());
        let jobs = state.queue.len() + cleanable;
        if jobs == 0 {
            return;
        }
        if jobs > state.idle && state.threads < self.wanted(&state) {
            let inner = Arc::clone(self);
            let name = format!("kv-posix-{}", state.spawned);
            let spawned = std::thread::Builder::new().name(name).spawn(move || inner.serve());
            if spawned.is_ok() {
                state.spawned += 1;
                state.threads += 1;
            }
        }
        // Without a single thread nobody would ever answer: the dropped jobs do.
        let hopeless = if state.threads == 0 { std::mem::take(&mut state.queue) } else { BTreeMap::new() };
        let waits = state.idle > 0;
        drop(state);
        if waits {
            self.work.notify_one();
        }
        drop(hopeless);
    }

    /// One thread's life.
    fn serve(&self) {
        let mut state = self.state();
        loop {
            if !state.cleaning
                && let Some(job) = state.clean_up.pop_front()
            {
                state.cleaning = true;
                drop(state);
                let _ = catch_unwind(AssertUnwindSafe(job));
                state = self.state();
                state.cleaning = false;
            } else if let Some((_, job)) = state.queue.pop_first() {
                drop(state);
                let _ = catch_unwind(AssertUnwindSafe(job));
                state = self.state();
            } else if state.closed {
                break;
            } else {
                state.idle += 1;
                state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner);
                state.idle -= 1;
                continue;
            }
            if state.threads > self.wanted(&state) {
                break; // the operation whose place this thread took has come back
            }
        }
        state.threads -= 1;
        // This thread may have been woken for a job that it leaves to another.
        drop(state);
        self.work.notify_one();
    }
}

impl fmt::Debug for Workers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Workers")
            .field("threads", &self.inner.state().most)
            .field("health", &self.inner.admission.health())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use std::pin::Pin;
    use std::sync::mpsc;
    use std::task::{Context, Poll, Waker};
    use std::time::Duration;

    use super::*;
    use crate::{DownReason, StoreHealth};

    const DEADLINE: Duration = Duration::from_secs(60);

    fn workers(threads: usize, bound: usize) -> Workers {
        Workers::new("test".into(), threads, 8, Admission::new(bound))
    }

    /// A call that hangs in the kernel until the sender is used or dropped; its future, already on its thread.
    async fn hung(
        workers: &Workers,
        held: Arc<()>,
    ) -> (Pin<Box<dyn Future<Output = (Arc<()>, Result<()>)> + Send + '_>>, mpsc::Sender<()>) {
        let (release, released) = mpsc::channel::<()>();
        let (started, starts) = oneshot::channel();
        let mut call = Box::pin(workers.run(held, move |_| {
            let _ = started.send(());
            let _ = released.recv();
            Ok(())
        }));
        let pending = call.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        assert!(matches!(pending, Poll::Pending));
        tokio::time::timeout(DEADLINE, starts).await.unwrap().unwrap();
        (call, release)
    }

    async fn ends(future: impl Future<Output = ()>) {
        tokio::time::timeout(DEADLINE, future).await.expect("it hangs");
    }

    //= SEMANTICS.md#hung-bounded
    #[tokio::test]
    async fn hung_calls_do_not_starve_others_until_the_bound() {
        let workers = workers(1, 2);
        let admission = workers.inner.admission.clone();
        let held = Arc::new(());
        let (first, release_first) = hung(&workers, Arc::clone(&held)).await;
        drop(first);
        assert_eq!(Arc::strong_count(&held), 2, "the kernel still has the buffer");
        ends(async { assert_eq!(workers.run((), |_| Ok(7)).await.1.unwrap(), 7) }).await;

        let (second, release_second) = hung(&workers, Arc::clone(&held)).await;
        drop(second);
        let reason = Some(DownReason::Stranded);
        assert_eq!(admission.health(), StoreHealth { in_flight: 0, stranded: 2, down: true, reason });
        let (_, refused) = workers.run((), |_| Ok(())).await;
        assert_eq!(refused.unwrap_err().kind(), ErrorKind::Unavailable);

        drop(release_first);
        drop(release_second);
        ends(admission.idle()).await;
        assert_eq!(Arc::strong_count(&held), 1, "idle, and a buffer is not back");
        ends(async { workers.run((), |_| Ok(())).await.1.unwrap() }).await;
    }

    #[tokio::test]
    async fn no_more_jobs_run_at_a_time_than_threads_were_set() {
        let workers = workers(4, 8);
        let (first, release) = hung(&workers, Arc::new(())).await;
        workers.set_threads(1);
        let mut second = Box::pin(workers.run((), |()| Ok(2)));
        // The one thread is busy: nobody but it may run this, so that it is queued as long as the thread is not released.
        let pending = second.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        assert!(matches!(pending, Poll::Pending));
        assert_eq!(workers.inner.state().threads, 1);
        assert_eq!(workers.inner.state().queue.len(), 1);
        workers.set_threads(2);
        ends(async { assert_eq!(second.await.1.unwrap(), 2) }).await;
        drop(release);
        first.await.1.unwrap();
    }

    //= SEMANTICS.md#hung-queued
    #[tokio::test]
    async fn a_queued_call_whose_caller_leaves_gives_its_buffers_back_at_once() {
        let workers = workers(1, 2);
        let (running, release) = hung(&workers, Arc::new(())).await;
        let held = Arc::new(());
        let mut queued = Box::pin(workers.run(Arc::clone(&held), |_| -> Result<()> {
            panic!("a call whose caller left before it began was made")
        }));
        let pending = queued.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        assert!(matches!(pending, Poll::Pending));
        assert_eq!(Arc::strong_count(&held), 2);
        drop(queued);
        assert_eq!(Arc::strong_count(&held), 1);
        assert_eq!(workers.inner.admission.health().stranded, 0);
        drop(release);
        running.await.1.unwrap();
    }

    #[tokio::test]
    async fn a_panicking_job_answers_an_error_and_gives_back_what_it_held() {
        let workers = workers(1, 2);
        let held = Arc::new(());
        let (back, result) = workers.run(Arc::clone(&held), |_| -> Result<()> { panic!("on purpose") }).await;
        assert!(Arc::ptr_eq(&back, &held));
        assert_eq!(result.unwrap_err().kind(), ErrorKind::Unavailable);
        ends(async { workers.run((), |_| Ok(())).await.1.unwrap() }).await;
    }

    #[tokio::test]
    async fn clean_up_is_done_beside_a_hung_call_and_after_the_store_is_gone() {
        let workers = workers(1, 8);
        let admission = workers.inner.admission.clone();
        let (call, release) = hung(&workers, Arc::new(())).await;
        let (done, is_done) = oneshot::channel();
        workers.clean_up(move || done.send(()).unwrap());
        tokio::time::timeout(DEADLINE, is_done).await.unwrap().unwrap();
        drop(call);
        let (done, is_done) = oneshot::channel();
        workers.clean_up(move || done.send(()).unwrap());
        drop(workers);
        tokio::time::timeout(DEADLINE, is_done).await.unwrap().unwrap();
        drop(release);
        ends(admission.idle()).await;
    }
}
