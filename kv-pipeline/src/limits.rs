//! What bounds an operation: its deadline, its cancellation, and how long a device may hold the engine's blocks beyond them.

use std::future::Future;
use std::time::Duration;

use kv_storage::env::Environment;
use tokio::sync::watch;

use crate::{Error, ErrorKind};

/// Why an operation ended before its work did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stop {
    /// The caller cancelled or dropped it, or another part of it has failed.
    Cancelled,
    /// Its deadline passed.
    Deadline,
}

impl From<Stop> for Error {
    fn from(stop: Stop) -> Self {
        match stop {
            Stop::Cancelled => Self::new(ErrorKind::Cancelled, "the operation was cancelled"),
            Stop::Deadline => Self::new(ErrorKind::Deadline, "the deadline passed"),
        }
    }
}

/// The bounds of one operation.
#[derive(Debug)]
pub(crate) struct Limits {
    environment: Environment,
    /// On the environment's monotonic clock.
    deadline: Duration,
    device_grace: Duration,
    cancelled: watch::Receiver<bool>,
    /// Set by the operation itself when one of its parts has failed and the others need not go on.
    ended: watch::Sender<bool>,
}

impl Limits {
    pub(crate) fn new(
        environment: &Environment,
        timeout: Duration,
        device_grace: Duration,
        cancelled: watch::Receiver<bool>,
    ) -> Self {
        let deadline = environment.clock.now().saturating_add(timeout);
        Self {
            environment: environment.clone(),
            deadline,
            device_grace,
            cancelled,
            ended: watch::Sender::new(false),
        }
    }

    /// Time left.
    pub(crate) fn remaining(&self) -> Duration {
        self.deadline.saturating_sub(self.environment.clock.now())
    }

    /// Fails if the operation should not start anything more.
    pub(crate) fn check(&self) -> Result<(), Stop> {
        if *self.cancelled.borrow() {
            return Err(Stop::Cancelled);
        }
        if self.remaining().is_zero() {
            return Err(Stop::Deadline);
        }
        if *self.ended.borrow() {
            return Err(Stop::Cancelled);
        }
        Ok(())
    }

    /// Why a part is ended by another: the deadline passes for all of them, whichever notices first.
    fn ended(&self) -> Stop {
        self.check().err().unwrap_or(Stop::Cancelled)
    }

    /// Ends all that still runs of the operation: it starts nothing more, and its waits return.
    pub(crate) fn end(&self) {
        self.ended.send_replace(true);
    }

    /// The error of a task that ended by a panic or with its runtime; ends the rest of the operation, which may wait for it.
    pub(crate) fn panicked(&self, error: &tokio::task::JoinError) -> Error {
        self.end();
        Error::new(ErrorKind::Cancelled, format!("a task of the operation ended early: {error}"))
    }

    /// Runs a future that may be dropped at any await: a store call, a wait for staging.
    pub(crate) async fn run<T>(&self, future: impl Future<Output = T>) -> Result<T, Stop> {
        self.check()?;
        let (cancelled, ended) = (self.cancelled.clone(), self.ended.subscribe());
        tokio::select! {
            biased;
            // The sender lives as long as the handle; a handle that is gone has cancelled.
            () = told(cancelled) => Err(Stop::Cancelled),
            () = told(ended) => Err(self.ended()),
            output = future => Ok(output),
            () = self.environment.clock.sleep(self.remaining()) => Err(Stop::Deadline),
        }
    }

    /// Runs a device transfer. It is awaited to its end whatever happens, since it touches the engine's blocks; only a device that
    /// holds them beyond deadline and grace is given up on.
    pub(crate) async fn device<T>(&self, transfer: impl Future<Output = T>) -> Result<T, Error> {
        self.check()?;
        self.let_go(transfer).await
    }

    /// Waits until the engine's blocks are let go of, also if the operation has been cancelled, but not beyond deadline and grace.
    pub(crate) async fn let_go<T>(&self, transfer: impl Future<Output = T>) -> Result<T, Error> {
        let patience = self.remaining().saturating_add(self.device_grace);
        tokio::select! {
            biased;
            output = transfer => Ok(output),
            () = self.environment.clock.sleep(patience) => Err(Error::new(
                ErrorKind::Device,
                format!("a transfer did not end {:?} after the deadline: keep the engine's blocks until Registered::close has returned", self.device_grace),
            )),
        }
    }

    /// Runs a clean-up that goes on by itself when it is dropped, waiting for it no longer than the time that is left.
    pub(crate) async fn clean_up<T>(&self, future: impl Future<Output = T>) {
        tokio::select! {
            biased;
            _ = future => {}
            () = self.environment.clock.sleep(self.remaining()) => {}
        }
    }

    /// Waits before trying again.
    pub(crate) async fn pause(&self, duration: Duration) -> Result<(), Stop> {
        self.run(self.environment.clock.sleep(duration)).await
    }
}

/// Waits until a flag is set. What `wait_for` answers locks the flag while it lives, which in a branch of `select!` is to the branch's end:
/// whoever looked at the flag there would wait for itself as soon as another thread waits to set it.
async fn told(mut flag: watch::Receiver<bool>) {
    let _ = flag.wait_for(|told| *told).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(timeout: Duration) -> (watch::Sender<bool>, Limits) {
        let (cancel, cancelled) = watch::channel(false);
        (cancel, Limits::new(&Environment::default(), timeout, Duration::ZERO, cancelled))
    }

    #[tokio::test]
    async fn a_part_that_is_ended_after_the_deadline_tells_the_deadline() {
        let (_cancel, late) = limits(Duration::ZERO);
        late.end();
        assert_eq!(late.check(), Err(Stop::Deadline));
        assert_eq!(late.run(std::future::ready(())).await, Err(Stop::Deadline));
        let (_cancel, early) = limits(Duration::from_secs(60));
        early.end();
        assert_eq!(early.run(std::future::ready(())).await, Err(Stop::Cancelled));
        let (cancel, cancelled) = limits(Duration::ZERO);
        cancel.send_replace(true);
        assert_eq!(cancelled.check(), Err(Stop::Cancelled), "what the caller did comes first");
    }

    /// Many times, since it takes one that ends the operation between another one's look at its end and its question why.
    #[test]
    fn parts_that_end_each_other_at_the_same_time_all_return() {
        const ROUNDS: usize = 3000;
        let (done, ends) = std::sync::mpsc::channel();
        let rounds = async move {
            for _ in 0..ROUNDS {
                let (_cancel, limits) = limits(Duration::from_secs(600));
                let limits = std::sync::Arc::new(limits);
                let part = || {
                    let limits = std::sync::Arc::clone(&limits);
                    tokio::spawn(async move {
                        let outcome = limits.run(std::future::pending::<()>()).await;
                        limits.end();
                        outcome
                    })
                };
                let parts: Vec<_> = std::iter::repeat_with(part).take(4).collect();
                tokio::task::yield_now().await;
                limits.end();
                for part in parts {
                    assert_eq!(part.await.unwrap(), Err(Stop::Cancelled));
                }
            }
            done.send(()).unwrap();
        };
        // On threads of their own: what hangs would hold this one.
        std::thread::spawn(|| {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(4).enable_time().build();
            runtime.unwrap().block_on(rounds);
        });
        ends.recv_timeout(Duration::from_secs(60)).expect("a part waits for another one's lock");
    }
}
