//! What all operations share: lanes, limits, the retry loop, and the way from a caller to a lane and back.

use std::future::Future;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use object_store::path::Path;
use object_store::{Attribute, GetOptions, GetResult, ObjectMeta as StoreMeta};
use tokio::task::{AbortHandle, JoinHandle};

use super::adaptive::Adaptive;
use super::budget::RetryBudget;
use super::credentials::Refreshing;
use super::failure::{Class, Failure};
use super::lanes::{Lane, Lanes};
use super::observe::Observed;
use super::options::{Deadlines, S3Options};
use super::probe::Conditions;
use super::staging_pool::Staging;
use super::tag::Tag;
use crate::env::Environment;
use crate::parts::{Admission, Caller};
use crate::{Error, ErrorKind, Result, Version};

/// The name of the mark that every object and record is uploaded with, as `x-amz-meta-kvupload`: it tells two uploads of the same bytes
/// apart, and one's own upload from another's after a lost answer. A name that Azure takes, too: an identifier.
pub(super) const MARK: &str = "kvupload";

/// One store.
#[derive(Debug)]
pub(super) struct Core {
    pub(super) label: String,
    pub(super) prefix: Path,
    pub(super) lanes: Lanes,
    pub(super) admission: Admission,
    pub(super) staging: Staging,
    pub(super) limits: Arc<Adaptive>,
    pub(super) budget: RetryBudget,
    pub(super) deadlines: Deadlines,
    pub(super) concurrency: usize,
    pub(super) environment: Environment,
    /// Those of S3, which can be fetched again.
    pub(super) credentials: Option<Arc<Refreshing>>,
    /// Whether the client may keep the bytes that it is given, as another's `ObjectStore` may.
    pub(super) keeps_bytes: bool,
    /// What the probe found; without one, all that AWS does.
    conditions: OnceLock<Conditions>,
    /// Why objects are not uploaded in parts, if they are not.
    no_parts: OnceLock<String>,
}

/// How a request with its retries ended.
#[derive(Debug)]
pub(super) struct Ended<T> {
    pub(super) result: Result<T, Failure>,
    /// Whether an attempt before the last may have been carried out without an answer.
    pub(super) doubtful: bool,
}

/// What is known of an object without its bytes.
#[derive(Debug, Clone)]
pub(super) struct Head {
    pub(super) len: u64,
    pub(super) etag: Option<String>,
    pub(super) tag: Option<Tag>,
    pub(super) version: Version,
    /// The mark of the upload, if it was one of ours.
    pub(super) mark: Option<String>,
}

/// A lane's task, ended when its caller leaves.
struct Task<T> {
    answer: JoinHandle<T>,
    _end: EndOnDrop,
}

struct EndOnDrop(AbortHandle);

impl Drop for EndOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Head {
    pub(super) fn new(meta: &StoreMeta, attributes: &object_store::Attributes) -> Self {
        let mark = attributes.get(&Attribute::Metadata(MARK.into())).map(|mark| mark.as_ref().to_owned());
        let version = match &mark {
            Some(mark) => mark.clone(),
            // Somebody else's upload: the best that S3 knows.
            None => {
                let etag = meta.e_tag.as_deref().unwrap_or("none");
                format!("{etag}@{}", meta.last_modified.timestamp_millis())
            }
        };
        Self { len: meta.size, etag: meta.e_tag.clone(), tag: Tag::of(meta), version: Version(version), mark }
    }

    pub(super) fn of(result: &GetResult) -> Self {
        Self::new(&result.meta, &result.attributes)
    }
}

impl Core {
    /// A store over `lanes`.
    pub(super) fn new(
        label: String,
        prefix: Path,
        lanes: Lanes,
        options: &S3Options,
        credentials: Option<Arc<Refreshing>>,
        keeps_bytes: bool,
    ) -> Self {
        Self {
            label,
            prefix,
            lanes,
            admission: Admission::new(options.stranded_bound),
            staging: Staging::new(options.staging.clone()),
            limits: Adaptive::new(options.concurrency),
            budget: RetryBudget::new(options.retries),
            deadlines: options.deadlines,
            concurrency: options.concurrency.max(1),
            environment: options.environment.clone(),
            credentials,
            keeps_bytes,
            conditions: OnceLock::new(),
            no_parts: OnceLock::new(),
        }
    }

    /// What the server keeps to.
    pub(super) fn conditions(&self) -> Conditions {
        self.conditions.get().copied().unwrap_or_default()
    }

    /// Notes what the probe found, once.
    pub(super) fn learned(&self, conditions: Conditions) {
        self.conditions.get_or_init(|| conditions);
    }

    /// Notes why objects are not uploaded in parts.
    pub(super) fn without_parts(&self, why: String) {
        self.no_parts.get_or_init(|| why);
    }

    /// Whether objects may be uploaded in parts, or why not.
    pub(super) fn parts(&self) -> Result<(), &str> {
        if self.conditions().parts {
            return Ok(());
        }
        Err(self.no_parts.get().map_or("it was not tried at open", String::as_str))
    }

    /// The key of a name.
    pub(super) fn path(&self, name: &str) -> Path {
        self.prefix.parts().chain(Path::from(name).parts()).collect()
    }

    /// A mark for one upload.
    pub(super) fn mark(&self) -> String {
        let entropy = &self.environment.entropy;
        format!("{:016x}{:016x}", entropy.next_u64(), entropy.next_u64())
    }

    /// Runs an operation on a lane.
    ///
    /// # Errors
    /// Those of the operation; `Unavailable` while the store is down; `Backend` if the operation panics.
    ///
    /// # Cancel safety
    /// Dropped, it ends the operation, which gives back what it holds at its next step and is counted stranded until then.
    pub(super) async fn run<T, F>(self: &Arc<Self>, work: impl FnOnce(Arc<Self>, Lane) -> F) -> Result<T>
    where
        F: Future<Output = Result<T>> + Send + 'static,
        T: Send + 'static,
    {
        let (ticket, caller) = self.admission.admit(&self.label)?;
        let lane = self.lanes.pick().clone();
        let runtime = lane.runtime.clone();
        let busy = lane.clone();
        let work = work(Arc::clone(self), lane);
        let answer = runtime.spawn(async move {
            let _ticket = ticket; // dropped behind what the operation holds
            let _busy = busy;
            work.await
        });
        let task = Task { _end: EndOnDrop(answer.abort_handle()), answer };
        self.receive(task, caller).await
    }

    async fn receive<T>(&self, task: Task<Result<T>>, caller: Caller) -> Result<T> {
        // The task is dropped, and thereby ended, before the caller counts as gone.
        let Task { answer, _end } = task;
        let answer = answer.await;
        caller.received();
        answer.unwrap_or_else(|error| {
            let message = format!("a transfer ended without an answer ({error}): a sink or a source panicked, or this is a defect of the store");
            Err(Error::new(ErrorKind::Backend, &self.label, message))
        })
    }

    /// Repeats `attempt` until it succeeds, or fails for good, or the retries are spent. An attempt that takes longer than `deadline` has
    /// failed. A request has its place until the head of its answer is there: a body may wait for its reader, who may wait for other bodies.
    pub(super) async fn attempts<T, F>(&self, deadline: Duration, mut attempt: impl FnMut() -> F) -> Ended<T>
    where
        F: Future<Output = object_store::Result<T>>,
    {
        let (mut number, mut doubtful, mut refreshed) = (1, false, false);
        loop {
            let place = self.limits.enter().await;
            let mut failure = match self.once(deadline, attempt()).await {
                Ok(answer) => {
                    place.succeeded();
                    self.budget.earn();
                    return Ended { result: Ok(answer), doubtful };
                }
                Err(failure) => failure,
            };
            if failure.class == Class::Throttled {
                place.throttled();
            }
            drop(place);
            if !self.again(&failure, number, &mut refreshed).await {
                failure.spent = true;
                return Ended { result: Err(failure), doubtful };
            }
            doubtful |= failure.ambiguous();
            number += 1;
        }
    }

    /// One attempt, not longer than `deadline`.
    async fn once<T>(
        &self,
        deadline: Duration,
        attempt: impl Future<Output = object_store::Result<T>>,
    ) -> Result<T, Failure> {
        let observed = Observed::default();
        let late = self.environment.clock.sleep(deadline);
        tokio::select! {
            result = observed.scope(attempt) => result.map_err(|error| Failure::new(error, observed.answer())),
            () = late => {
                let message = format!("no answer within {} ms", deadline.as_millis());
                Err(Failure::local(Class::Transient, message))
            }
        }
    }

    /// Whether to try again behind attempt `number`; waits as long as that takes.
    pub(super) async fn again(&self, failure: &Failure, number: u32, refreshed: &mut bool) -> bool {
        match failure.class {
            _ if failure.spent => false,
            Class::Throttled | Class::Transient | Class::Busy => {
                let Some(pause) = self.budget.pause(number, &*self.environment.entropy) else { return false };
                self.environment.clock.sleep(pause).await;
                true
            }
            Class::Expired if !*refreshed => {
                *refreshed = true;
                if let Some(credentials) = &self.credentials {
                    credentials.forget();
                }
                true
            }
            _ => false,
        }
    }

    /// A read request, answered by its head; `None` if there is no such object.
    pub(super) async fn get(
        &self,
        lane: &Lane,
        path: &Path,
        options: &GetOptions,
    ) -> Result<Option<GetResult>, Failure> {
        let ended = self.attempts(self.deadlines.first_byte, || {
            let (store, path, options) = (Arc::clone(&lane.store), path.clone(), options.clone());
            async move { store.get_opts(&path, options).await }
        });
        match ended.await.result {
            Ok(answered) => Ok(Some(answered)),
            Err(failure) if failure.class == Class::Missing => Ok(None),
            Err(failure) => Err(failure),
        }
    }

    /// What is known of an object; `None` if there is none.
    pub(super) async fn head(&self, lane: &Lane, path: &Path) -> Result<Option<Head>, Failure> {
        let options = GetOptions { head: true, ..GetOptions::default() };
        Ok(self.get(lane, path, &options).await?.map(|result| Head::of(&result)))
    }

    /// Removes an object.
    pub(super) async fn remove(&self, lane: &Lane, path: &Path) -> Result<bool, Failure> {
        if self.head(lane, path).await?.is_none() {
            return Ok(false);
        }
        let ended = self.attempts(self.deadlines.first_byte, || {
            let (store, path) = (Arc::clone(&lane.store), path.clone());
            async move { object_store::ObjectStoreExt::delete(&store, &path).await }
        });
        match ended.await.result {
            Ok(_) => Ok(true),
            // Another removed it meanwhile.
            Err(failure) if failure.class == Class::Missing => Ok(false),
            Err(failure) => Err(failure),
        }
    }

    /// The error of a failed operation.
    pub(super) fn error(&self, failure: Failure, asked: &str) -> Error {
        failure.error(&self.label, asked)
    }
}
