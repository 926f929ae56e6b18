//! What wrappers have in common: every call passes, and a [`Rule`] acts at the door.
//!
//! A wrapper is a store and has all of a store's calls, streamed ones included; one that forgets to pass a call on loses what the
//! store beneath does better. So there is one wrapper, [`Passage`], and what differs is its rule: count, delay, queue, refuse. What
//! changes answers or makes calls twice ([`Fault`](crate::Fault), [`Retrying`](crate::Retrying)) is a store of its own.

mod store;
mod upload;

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use kv_memory::HostBuf;

use crate::env::Clock;
use crate::{ByteRange, Capabilities, Error, ErrorKind, KvStore, Operation, ReadPart, Result, StoreHealth};

/// A call at the door.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Entry {
    /// What is called; a streamed read is a `Read`, a streamed write a `Write`.
    pub operation: Operation,
    /// Bytes of the object or record that it moves if it succeeds; 0 for a record that is read, whose length nobody knows.
    pub bytes: u64,
}

/// How a call ended.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct Answer<'a> {
    /// The error that it answered.
    pub error: Option<&'a Error>,
    /// Bytes of the object or record that it moved: 0 after a miss or an error.
    pub bytes: u64,
}

/// The time that one call has, running.
pub struct Deadline {
    allowed: Duration,
    over: Pin<Box<dyn Future<Output = ()> + Send>>,
}

impl Deadline {
    /// Ends `allowed` from now.
    pub fn after(allowed: Duration, clock: &dyn Clock) -> Self {
        Self { allowed, over: clock.sleep(allowed) }
    }
}

impl fmt::Debug for Deadline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Deadline").field("allowed", &self.allowed).finish_non_exhaustive()
    }
}

/// What a wrapper does to the calls that pass through it.
///
/// ```
/// use std::sync::Arc;
/// use std::sync::atomic::{AtomicU64, Ordering};
/// use kv_storage::parts::{Answer, Entry, Passage, Rule};
/// use kv_storage::{KvStore, MemoryStore, Result};
///
/// /// Adds up the bytes that were asked for.
/// #[derive(Debug, Default)]
/// struct Sum(AtomicU64);
///
/// impl Rule for Sum {
///     type Pass = ();
///     async fn enter(&self, entry: Entry) -> Result<()> {
///         self.0.fetch_add(entry.bytes, Ordering::Relaxed);
///         Ok(())
///     }
///     fn leave(&self, (): (), _: Answer<'_>) {}
/// }
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<()> {
/// let store = Passage::through(Arc::new(MemoryStore::new()), Sum::default());
/// store.create_record(&kv_format::RecordName::request("r", 0), b"four").await?;
/// assert_eq!(store.rule().0.load(Ordering::Relaxed), 4);
/// # Ok(()) }
/// ```
pub trait Rule: fmt::Debug + Send + Sync + 'static {
    /// What a call holds while it goes on; dropped without [`leave`](Self::leave) if its caller left first.
    type Pass: Send;

    /// Lets a call in, now or later.
    ///
    /// # Errors
    /// The call's answer, if it may not pass; its buffers go back to its caller.
    ///
    /// # Cancel safety
    /// A caller may leave while it waits: whatever was taken for it has to be given back.
    fn enter(&self, entry: Entry) -> impl Future<Output = Result<Self::Pass>> + Send;

    /// The call has answered.
    fn leave(&self, pass: Self::Pass, answer: Answer<'_>);

    /// When a call that enters now has to answer: else the caller gets [`Unavailable`](ErrorKind::Unavailable), and the call is
    /// dropped, which leaves what hangs stranded in the store beneath.
    fn deadline(&self) -> Option<Deadline> {
        None
    }

    /// What the store beneath can do, seen through this rule.
    fn capabilities(&self, beneath: Capabilities) -> Capabilities {
        beneath
    }

    /// The state of the store beneath, seen through this rule.
    fn health(&self, beneath: StoreHealth) -> StoreHealth {
        beneath
    }

    /// Waits until nothing that the rule itself started goes on.
    fn idle(&self) -> impl Future<Output = ()> + Send {
        async {}
    }
}

/// A store behind a rule. Clones share both; it has the name of the store beneath, so that errors name the store that failed.
pub struct Passage<R> {
    inner: Arc<dyn KvStore>,
    rule: Arc<R>,
}

impl<R: Rule> Passage<R> {
    /// Puts `rule` before `inner`.
    pub fn through(inner: Arc<dyn KvStore>, rule: R) -> Self {
        Self { inner, rule: Arc::new(rule) }
    }

    /// The rule.
    pub fn rule(&self) -> &R {
        &self.rule
    }

    async fn enter(&self, operation: Operation, bytes: u64) -> Result<R::Pass> {
        self.rule.enter(Entry { operation, bytes }).await
    }

    fn leave<T>(&self, pass: R::Pass, result: &Result<T>, bytes: u64) {
        let bytes = if result.is_ok() { bytes } else { 0 };
        self.rule.leave(pass, Answer { error: result.as_ref().err(), bytes });
    }

    /// The call's answer, or the error of one that does not come in time.
    async fn in_time<T>(&self, operation: Operation, call: impl Future<Output = T> + Send) -> Result<T> {
        let Some(Deadline { allowed, over }) = self.rule.deadline() else { return Ok(call.await) };
        tokio::select! {
            biased;
            answer = call => Ok(answer),
            () = over => {
                let message = format!(
                    "no answer to {operation} within {allowed:?}: the call stays with the backend and keeps its buffers until that lets go; try again later"
                );
                Err(Error::new(ErrorKind::Unavailable, &self.inner, message))
            }
        }
    }

    /// Makes a call that owns no buffers, and moves `bytes(answer)`.
    async fn pass<T: Send>(
        &self,
        operation: Operation,
        asked: u64,
        call: impl Future<Output = Result<T>> + Send,
        bytes: impl FnOnce(&T) -> u64 + Send,
    ) -> Result<T> {
        let pass = self.enter(operation, asked).await?;
        let result = self.in_time(operation, call).await.and_then(|answer| answer);
        let moved = result.as_ref().map_or(0, bytes);
        self.leave(pass, &result, moved);
        result
    }
}

impl<R> Clone for Passage<R> {
    fn clone(&self) -> Self {
        Self { inner: Arc::clone(&self.inner), rule: Arc::clone(&self.rule) }
    }
}

impl<R: fmt::Debug> fmt::Debug for Passage<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Passage").field("inner", &self.inner).field("rule", &self.rule).finish()
    }
}

impl<R> fmt::Display for Passage<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

fn asked(parts: &[ReadPart]) -> u64 {
    parts.iter().map(|part| part.buffer.len() as u64).sum()
}

fn ranged(ranges: &[ByteRange]) -> u64 {
    ranges.iter().map(|range| range.len as u64).sum()
}

fn buffers(parts: Vec<ReadPart>) -> Vec<HostBuf> {
    parts.into_iter().map(|part| part.buffer).collect()
}
