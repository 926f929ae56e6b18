//! A wrapper that fails on purpose, by script: for tests of everything above a store.
//!
//! ```
//! use std::sync::Arc;
//! use kv_storage::fault::{Injection, When};
//! use kv_storage::{ErrorKind, Fault, KvStore, MemoryStore, Operation};
//! # use kv_format::RecordName;
//! # #[tokio::main(flavor = "current_thread")] async fn main() {
//! let fault = Fault::new(Arc::new(MemoryStore::new()));
//! fault.inject(When::nth(Operation::CreateRecord, 2), Injection::Fail(ErrorKind::NoSpace));
//! assert!(fault.create_record(&RecordName::request("a", 0), b"first").await.is_ok());
//! let full = fault.create_record(&RecordName::request("b", 0), b"second").await.unwrap_err();
//! assert_eq!(full.kind(), ErrorKind::NoSpace);
//! assert_eq!(fault.fired(), 1);
//! # }
//! ```

mod damage;
mod script;
mod upload;

use std::fmt;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use kv_format::{NamespaceDigest, ObjectName, RecordName};
use kv_memory::HostBuf;
use tokio::sync::{oneshot, watch};

use script::{Action, Script};
pub use script::{Call, Hold, Injection, When};
use upload::FaultUpload;

use crate::parts::{Admission, DEFAULT_STRANDED_BOUND, read_in_turns};
use crate::{
    ByteRange, Capabilities, Error, ErrorKind, KvStore, ObjectMeta, Operation, ReadOutcome, ReadPart,
    ReadSink, Record, Result, Setback, StoreHealth, Upload, Version,
};

type Hook = Arc<dyn Fn(&Call) + Send + Sync>;

/// Passes calls to the store beneath, except those that its script chooses. Clones share the script.
///
/// A call that hangs cannot be cancelled, as on a dead NFS server: it runs in a task of its own that owns its buffers, and is
/// counted [stranded](StoreHealth::stranded) once its caller has gone.
#[derive(Clone)]
pub struct Fault {
    inner: Arc<dyn KvStore>,
    script: Arc<Mutex<Script>>,
    hook: Arc<Mutex<Option<Hook>>>,
    admission: Admission,
}

impl Fault {
    /// A wrapper without faults, which is down while 64 calls are stranded.
    pub fn new(inner: Arc<dyn KvStore>) -> Self {
        Self::with_stranded_bound(inner, DEFAULT_STRANDED_BOUND)
    }

    /// A wrapper without faults, which is down while `bound` calls are stranded.
    pub fn with_stranded_bound(inner: Arc<dyn KvStore>, bound: usize) -> Self {
        Self { inner, script: Arc::default(), hook: Arc::default(), admission: Admission::new(bound) }
    }

    /// From now on, `injection` happens to the calls that `when` chooses, unless an earlier rule chooses them.
    pub fn inject(&self, when: When, injection: Injection) {
        self.script().add(when, Action::Inject(injection));
    }

    /// From now on, the calls that `when` chooses hang before they have any effect, until the hold releases them.
    pub fn hang(&self, when: When) -> Hold {
        let (released, receiver) = watch::channel(false);
        self.script().add(when, Action::Hang(receiver));
        Hold { released }
    }

    /// Forgets every rule; what hangs goes on hanging.
    pub fn clear(&self) {
        self.script().clear();
    }

    /// Calls `hook` at the start of every call, before its fault.
    pub fn on_call(&self, hook: impl Fn(&Call) + Send + Sync + 'static) {
        *self.hook.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(hook));
    }

    /// Calls of one kind so far, whatever became of them.
    pub fn calls(&self, operation: Operation) -> u64 {
        self.script().calls(operation)
    }

    /// Calls so far.
    pub fn total_calls(&self) -> u64 {
        self.script().total()
    }

    /// Calls to which something happened: a test that injects should see this grow.
    pub fn fired(&self) -> u64 {
        self.script().fired()
    }

    fn script(&self) -> MutexGuard<'_, Script> {
        // A predicate that panics leaves counts that are off by one, in a test that fails anyway.
        self.script.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn injected(&self, kind: ErrorKind, operation: Operation) -> Error {
        Error::new(kind, self, format!("injected fault in {operation}"))
    }

    /// Counts a call, and decides what happens to it.
    fn plan(
        &self,
        operation: Operation,
        object: Option<ObjectName>,
        record: Option<RecordName>,
    ) -> Option<Action> {
        let call = self.script().count(operation, object, record);
        let hook = self.hook.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(hook) = hook {
            hook(&call);
        }
        self.script().decide(&call)
    }

    /// Makes one call, with its fault. `held` is what the call owns.
    async fn drive<B, T, F>(
        &self,
        operation: Operation,
        object: Option<ObjectName>,
        record: Option<RecordName>,
        held: B,
        work: impl FnOnce(B, Option<Injection>) -> F + Send + 'static,
    ) -> (B, Result<T>)
    where
        B: Send + 'static,
        T: Send + 'static,
        F: Future<Output = (B, Result<T>)> + Send + 'static,
    {
        let action = self.plan(operation, object, record);
        let (ticket, caller) = match self.admission.admit(self) {
            Ok(admitted) => admitted,
            Err(error) => return (held, Err(error)),
        };
        let ticket = ticket; // dropped before `caller`: a dropped call that does not hang has ended
        let injection = match action {
            Some(Action::Hang(mut hold)) => {
                let (sender, receiver) = oneshot::channel();
                tokio::spawn(async move {
                    // An error means that the hold was dropped, which releases too.
                    let _ = hold.wait_for(|released| *released).await;
                    let answer = work(held, None).await;
                    drop(sender.send(answer)); // gives the buffers back before the ticket ends
                    drop(ticket);
                });
                return match receiver.await {
                    Ok(answer) => {
                        caller.received();
                        answer
                    }
                    Err(_) => unreachable!("the task of a hung call ended without an answer"),
                };
            }
            Some(Action::Inject(injection)) => Some(injection),
            None => None,
        };
        let answer = match injection {
            Some(Injection::Fail(kind)) => (held, Err(self.injected(kind, operation))),
            Some(Injection::FailAfter(kind)) => {
                let (held, _) = work(held, None).await;
                (held, Err(self.injected(kind, operation)))
            }
            injection => work(held, injection).await,
        };
        drop(ticket);
        caller.received();
        answer
    }

    /// Makes one call that owns nothing.
    async fn drive_unheld<T, F>(
        &self,
        operation: Operation,
        object: Option<ObjectName>,
        record: Option<RecordName>,
        work: impl FnOnce(Option<Injection>) -> F + Send + 'static,
    ) -> Result<T>
    where
        T: Send + 'static,
        F: Future<Output = Result<T>> + Send + 'static,
    {
        let work = move |(), injection| {
            let work = work(injection);
            async move { ((), work.await) }
        };
        self.drive(operation, object, record, (), work).await.1
    }
}

impl fmt::Debug for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fault")
            .field("inner", &self.inner)
            .field("script", &self.script())
            .field("health", &self.admission.health())
            .finish()
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "fault({})", self.inner)
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl KvStore for Fault {
    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    fn health(&self) -> StoreHealth {
        let inner = self.inner.health();
        let own = self.admission.health();
        StoreHealth {
            // A call in flight here is in flight beneath too, unless it hangs here.
            in_flight: own.in_flight.max(inner.in_flight),
            stranded: own.stranded + inner.stranded,
            down: own.down || inner.down,
            reason: own.reason.or(inner.reason),
        }
    }

    async fn idle(&self) {
        self.admission.idle().await;
        self.inner.idle().await;
    }

    async fn begin(&self, name: &ObjectName, len: u64) -> Result<Box<dyn Upload>> {
        let (inner, fault, name) = (Arc::clone(&self.inner), self.clone(), *name);
        self.drive_unheld(Operation::Begin, Some(name), None, move |_| async move {
            let inner = inner.begin(&name, len).await?;
            Ok(Box::new(FaultUpload::new(fault, name, inner)) as Box<dyn Upload>)
        })
        .await
    }

    async fn read(&self, name: &ObjectName, parts: Vec<ReadPart>) -> ReadOutcome {
        let (inner, name) = (Arc::clone(&self.inner), *name);
        // What a read owns are buffers; the parts' offsets travel beside them.
        let (offsets, buffers): (Vec<_>, Vec<_>) =
            parts.into_iter().map(|part| (part.offset, part.buffer)).unzip();
        let work = move |buffers: Vec<_>, injection: Option<Injection>| async move {
            let parts = offsets.into_iter().zip(buffers);
            let parts = parts.map(|(offset, buffer)| ReadPart { offset, buffer }).collect();
            damage::read(&*inner, &name, parts, injection.as_ref()).await
        };
        let (buffers, result) = self.drive(Operation::Read, Some(name), None, buffers, work).await;
        ReadOutcome { buffers, result }
    }

    // Streams are made of this wrapper's own reads, so that what the script injects reaches the sink.
    fn calls_back_on_own_threads(&self) -> bool {
        false
    }

    async fn read_into(
        &self,
        name: &ObjectName,
        ranges: Vec<ByteRange>,
        buffers: Vec<HostBuf>,
        sink: Arc<dyn ReadSink>,
    ) -> Result<Option<ObjectMeta>> {
        read_in_turns(self, name, ranges, buffers, sink).await
    }

    async fn head(&self, name: &ObjectName) -> Result<Option<ObjectMeta>> {
        let (inner, name) = (Arc::clone(&self.inner), *name);
        self.drive_unheld(Operation::Head, Some(name), None, move |injection| async move {
            let meta = inner.head(&name).await?;
            let meta = meta.filter(|_| injection != Some(Injection::Vanish));
            Ok(meta.map(|meta| damage::shown(meta, injection.as_ref())))
        })
        .await
    }

    async fn list(
        &self,
        namespace: &NamespaceDigest,
        after: Option<&ObjectName>,
        limit: usize,
    ) -> Result<Vec<ObjectMeta>> {
        let (inner, namespace, after) = (Arc::clone(&self.inner), *namespace, after.copied());
        self.drive_unheld(Operation::List, None, None, move |_| async move {
            inner.list(&namespace, after.as_ref(), limit).await
        })
        .await
    }

    async fn delete(&self, name: &ObjectName) -> Result<bool> {
        let (inner, name) = (Arc::clone(&self.inner), *name);
        self.drive_unheld(
            Operation::Delete,
            Some(name),
            None,
            move |_| async move { inner.delete(&name).await },
        )
        .await
    }

    async fn quarantine(&self, name: &ObjectName, version: &Version) -> Result<bool> {
        let (inner, name, version) = (Arc::clone(&self.inner), *name, version.clone());
        self.drive_unheld(Operation::Quarantine, Some(name), None, move |_| async move {
            inner.quarantine(&name, &version).await
        })
        .await
    }

    fn another_way(&self, name: &ObjectName, setback: Setback) -> bool {
        self.inner.another_way(name, setback)
    }

    async fn create_record(&self, name: &RecordName, body: &[u8]) -> Result<Option<Version>> {
        let (inner, name, body) = (Arc::clone(&self.inner), *name, body.to_vec());
        self.drive_unheld(Operation::CreateRecord, None, Some(name), move |_| async move {
            inner.create_record(&name, &body).await
        })
        .await
    }

    async fn replace_record(
        &self,
        name: &RecordName,
        expected: &Version,
        body: &[u8],
    ) -> Result<Option<Version>> {
        let (inner, name) = (Arc::clone(&self.inner), *name);
        let (expected, body) = (expected.clone(), body.to_vec());
        self.drive_unheld(Operation::ReplaceRecord, None, Some(name), move |_| async move {
            inner.replace_record(&name, &expected, &body).await
        })
        .await
    }

    async fn read_record(&self, name: &RecordName) -> Result<Option<Record>> {
        let (inner, name) = (Arc::clone(&self.inner), *name);
        self.drive_unheld(Operation::ReadRecord, None, Some(name), move |injection| async move {
            let record = inner.read_record(&name).await?;
            Ok(record.filter(|_| injection != Some(Injection::Vanish)))
        })
        .await
    }

    async fn delete_record(&self, name: &RecordName) -> Result<bool> {
        let (inner, name) = (Arc::clone(&self.inner), *name);
        self.drive_unheld(Operation::DeleteRecord, None, Some(name), move |_| async move {
            inner.delete_record(&name).await
        })
        .await
    }
}
