//! A wrapper that makes calls again which the store beneath did not answer.
//!
//! Retries help against a short fault and harm in a long one, when every caller sends more than usual to a store that has less than
//! usual. So all calls through one wrapper share one [budget](RetryOptions::budget_percent), waits grow and are drawn at random, and a
//! store that is marked down is left alone.

mod attempts;
mod upload;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use kv_format::{NamespaceDigest, ObjectName, RecordName};
use kv_memory::HostBuf;

use attempts::{Attempts, Budget};
use upload::RetryingUpload;

use crate::env::Environment;
use crate::parts::read_in_turns;
use crate::{
    ByteRange, Capabilities, Error, KvStore, ObjectMeta, ReadOutcome, ReadPart, ReadSink, Record, Result,
    Setback, StoreHealth, Upload, Version,
};

/// When and how often a [`Retrying`] tries again.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct RetryOptions {
    /// Calls that are made for one of the caller's, the first included. Default 4.
    pub attempts: u32,
    /// Retries for 100 calls, over all kinds of calls: what a store that fails gets on top. Default 10.
    pub budget_percent: u32,
    /// Retries that may be made at once after a time without any. Default 10.
    pub budget_burst: u32,
    /// Longest wait before the first retry; each wait is a random part of a bound that doubles from here. Default 50 ms.
    pub first_backoff: Duration,
    /// Longest wait at all. Default 2 s.
    pub longest_backoff: Duration,
    /// No retry begins later than this after its first attempt. Default 10 s.
    pub patience: Duration,
    /// Time and randomness.
    pub environment: Environment,
}

impl Default for RetryOptions {
    fn default() -> Self {
        Self {
            attempts: 4,
            budget_percent: 10,
            budget_burst: 10,
            first_backoff: Duration::from_millis(50),
            longest_backoff: Duration::from_secs(2),
            patience: Duration::from_secs(10),
            environment: Environment::default(),
        }
    }
}

impl RetryOptions {
    /// Sets the calls that are made for one of the caller's.
    #[must_use]
    pub fn attempts(mut self, attempts: u32) -> Self {
        self.attempts = attempts;
        self
    }

    /// Sets the retries for 100 calls, and how many of them may come at once.
    #[must_use]
    pub fn budget(mut self, percent: u32, burst: u32) -> Self {
        (self.budget_percent, self.budget_burst) = (percent, burst);
        self
    }

    /// Sets the bound of the first wait, and that of all.
    #[must_use]
    pub fn backoff(mut self, first: Duration, longest: Duration) -> Self {
        (self.first_backoff, self.longest_backoff) = (first, longest);
        self
    }

    /// Sets the time after which no retry begins.
    #[must_use]
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// Sets time and randomness.
    #[must_use]
    pub fn environment(mut self, environment: Environment) -> Self {
        self.environment = environment;
        self
    }
}

/// Makes calls again that failed with [`Unavailable`](crate::ErrorKind::Unavailable), the one kind that passes by itself, and soon. Clones
/// share the budget.
///
/// * A call that may have taken effect is resolved by looking: an object under the name of a commit that failed answers
///   [`AlreadyExists`](crate::Publication::AlreadyExists), for the caller to compare; a record with the body that was to be created or put
///   counts as done, so give the bodies of different owners something that differs. After a retry, `false` from a deletion or
///   quarantine may mean that the first attempt did it.
/// * Calls are streamed on the threads of a store that has some, and those are not made again: what was handed over cannot be taken
///   back. Elsewhere streams are made of reads and writes, and each of these is.
/// * A write is made again only if its buffer came back. After a deadline of the store beneath it does not.
#[derive(Debug, Clone)]
pub struct Retrying {
    inner: Arc<dyn KvStore>,
    options: Arc<RetryOptions>,
    budget: Arc<Budget>,
}

impl Retrying {
    /// Tries again as the options say.
    pub fn new(inner: Arc<dyn KvStore>, options: RetryOptions) -> Self {
        let budget = Arc::new(Budget::new(options.budget_percent, options.budget_burst));
        Self { inner, options: Arc::new(options), budget }
    }

    /// Retries so far.
    pub fn retries(&self) -> u64 {
        self.budget.retries()
    }

    /// Counts a call that begins.
    fn attempts(&self) -> Attempts<'_> {
        Attempts::begin(self)
    }
}

/// Makes a call until it is answered, or is not to be made again.
macro_rules! again {
    ($store:expr, $call:expr) => {{
        let mut attempts = $store.attempts();
        loop {
            match $call.await {
                Err(error) => attempts.again_after(error).await?,
                answer => return answer,
            }
        }
    }};
}

impl fmt::Display for Retrying {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f) // errors name the store that failed, not its wrapper
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl KvStore for Retrying {
    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    fn health(&self) -> StoreHealth {
        self.inner.health()
    }

    async fn idle(&self) {
        self.inner.idle().await;
    }

    async fn begin(&self, name: &ObjectName, len: u64) -> Result<Box<dyn Upload>> {
        let mut attempts = self.attempts();
        loop {
            match self.inner.begin(name, len).await {
                Ok(inner) => return Ok(Box::new(RetryingUpload::new(self.clone(), *name, inner))),
                Err(error) => attempts.again_after(error).await?,
            }
        }
    }

    async fn read(&self, name: &ObjectName, mut parts: Vec<ReadPart>) -> ReadOutcome {
        let asked: Vec<(u64, usize)> = parts.iter().map(|part| (part.offset, part.buffer.len())).collect();
        let mut attempts = self.attempts();
        loop {
            let ReadOutcome { buffers, result } = self.inner.read(name, parts).await;
            let error = match result {
                Err(error) if buffers.len() == asked.len() => error,
                result => return ReadOutcome { buffers, result },
            };
            if let Err(error) = attempts.again_after(error).await {
                return ReadOutcome { buffers, result: Err(error) };
            }
            let whole = asked.iter().zip(buffers);
            parts = whole.map(|(&(offset, _), buffer)| ReadPart { offset, buffer }).collect();
        }
    }

    fn calls_back_on_own_threads(&self) -> bool {
        self.inner.calls_back_on_own_threads()
    }

    async fn read_into(
        &self,
        name: &ObjectName,
        ranges: Vec<ByteRange>,
        buffers: Vec<HostBuf>,
        sink: Arc<dyn ReadSink>,
    ) -> Result<Option<ObjectMeta>> {
        if self.inner.calls_back_on_own_threads() {
            return self.inner.read_into(name, ranges, buffers, sink).await;
        }
        read_in_turns(self, name, ranges, buffers, sink).await
    }

    async fn head(&self, name: &ObjectName) -> Result<Option<ObjectMeta>> {
        again!(self, self.inner.head(name))
    }

    async fn list(
        &self,
        namespace: &NamespaceDigest,
        after: Option<&ObjectName>,
        limit: usize,
    ) -> Result<Vec<ObjectMeta>> {
        again!(self, self.inner.list(namespace, after, limit))
    }

    async fn delete(&self, name: &ObjectName) -> Result<bool> {
        again!(self, self.inner.delete(name))
    }

    async fn quarantine(&self, name: &ObjectName, version: &Version) -> Result<bool> {
        again!(self, self.inner.quarantine(name, version))
    }

    fn another_way(&self, name: &ObjectName, setback: Setback) -> bool {
        self.inner.another_way(name, setback)
    }

    async fn create_record(&self, name: &RecordName, body: &[u8]) -> Result<Option<Version>> {
        let mut attempts = self.attempts();
        loop {
            match self.inner.create_record(name, body).await {
                Err(error) => attempts.again_after(error).await?,
                Ok(None) if attempts.retried() => return self.version_of(name, body).await,
                answer => return answer,
            }
        }
    }

    async fn replace_record(
        &self,
        name: &RecordName,
        expected: &Version,
        body: &[u8],
    ) -> Result<Option<Version>> {
        let mut attempts = self.attempts();
        loop {
            match self.inner.replace_record(name, expected, body).await {
                Err(error) => attempts.again_after(error).await?,
                Ok(None) if attempts.retried() => return self.version_of(name, body).await,
                answer => return answer,
            }
        }
    }

    async fn read_record(&self, name: &RecordName) -> Result<Option<Record>> {
        again!(self, self.inner.read_record(name))
    }

    async fn delete_record(&self, name: &RecordName) -> Result<bool> {
        again!(self, self.inner.delete_record(name))
    }
}

impl Retrying {
    /// What is under the name of a commit that failed; `None` also if the store does not say.
    async fn look_after(&self, name: &ObjectName, failed: &Error) -> Option<ObjectMeta> {
        let lost = Error::new(failed.kind(), self, "the answer of a commit is lost");
        self.attempts().again_after(lost).await.ok()?;
        self.head(name).await.ok().flatten()
    }

    /// The version of a record that has this body: the answer that an earlier attempt lost.
    async fn version_of(&self, name: &RecordName, body: &[u8]) -> Result<Option<Version>> {
        let record = self.read_record(name).await?;
        Ok(record.filter(|record| record.body == body).map(|record| record.version))
    }
}
