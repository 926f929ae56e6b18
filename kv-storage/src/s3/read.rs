//! Reading: runs of ranges that touch are one request each, whose [`Body`] fills the buffers as it comes. All requests but the first ask
//! for the version that the first one saw.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use kv_format::ObjectName;
use kv_memory::HostBuf;
use object_store::path::Path;
use object_store::{GetOptions, GetRange, GetResult};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::body::Body;
use super::core::{Core, Head};
use super::failure::{Class, Failure};
use super::lanes::Lane;
use super::straight::straight;
use crate::parts::out_of_range;
use crate::{ByteRange, Error, ErrorKind, ObjectMeta, Result};

/// Most bytes of one request where several may run at a time.
const RUN_BYTES: u64 = 8 << 20;
/// Most requests of one read at a time: other reads want connections, too.
pub(super) const AT_A_TIME: usize = 8;

/// Where ranges go.
#[async_trait]
pub(super) trait Target: Send + Sync + 'static {
    /// A buffer of the length of a range; waits until there is one.
    async fn buffer(&self, index: usize, len: usize) -> Result<HostBuf>;
    /// Takes a buffer that could not be filled.
    fn give_back(&self, index: usize, buffer: HostBuf);
    /// Takes a filled buffer; `false` if no more are wanted.
    async fn filled(&self, meta: &ObjectMeta, index: usize, buffer: HostBuf) -> bool;
}

/// Ranges that touch, read by one request.
#[derive(Debug)]
struct Run {
    start: u64,
    end: u64,
    ranges: Vec<(usize, usize)>,
}

/// One read.
pub(super) struct Reading<T> {
    pub(super) core: Arc<Core>,
    name: ObjectName,
    pub(super) path: Path,
    /// What the first request saw.
    pub(super) head: Head,
    target: Arc<T>,
    /// Runs that nobody has begun.
    runs: Mutex<VecDeque<Run>>,
    /// Set when no more is wanted: by a sink, or after an error.
    end: watch::Sender<bool>,
}

/// Groups ranges in their order; `None` if one has no end. With one buffer there is one request at a time, and its run may be long.
fn runs(ranges: &[ByteRange], at_a_time: usize) -> Option<VecDeque<Run>> {
    let most = if at_a_time > 1 { RUN_BYTES } else { u64::MAX };
    let mut runs: VecDeque<Run> = VecDeque::new();
    for (index, range) in ranges.iter().enumerate() {
        let end = range.offset.checked_add(range.len as u64)?;
        match runs.back_mut() {
            Some(run) if run.end == range.offset && end - run.start <= most => {
                run.end = end;
                run.ranges.push((index, range.len));
            }
            _ => runs.push_back(Run { start: range.offset, end, ranges: vec![(index, range.len)] }),
        }
    }
    Some(runs)
}

impl Core {
    /// Reads ranges of one version into `target`, at most `at_a_time` requests together.
    pub(super) async fn read_ranges<T: Target>(
        self: Arc<Self>,
        lane: Lane,
        name: ObjectName,
        ranges: Vec<ByteRange>,
        at_a_time: usize,
        target: Arc<T>,
    ) -> Result<Option<ObjectMeta>> {
        let path = self.path(&name.to_string());
        let fail = |failure: Failure| self.error(failure, &format!("read {name}"));
        let planned = runs(&ranges, at_a_time);
        let first = planned.as_ref().and_then(|runs| runs.front()).filter(|run| run.end > run.start);
        let (head, body) = match first {
            Some(run) => match straight(self.get(&lane, &path, &range_of(run.start, run.end, None))).await {
                Ok(None) => return Ok(None),
                Ok(Some(result)) => (Head::of(&result), Some(result)),
                // Whether the range or the server is wrong is told by the length.
                Err(failure) if matches!(failure.class, Class::Range | Class::Other) => {
                    let Some(head) = self.head(&lane, &path).await.map_err(fail)? else { return Ok(None) };
                    self.check(&name, &ranges, head.len)?;
                    return Err(fail(failure));
                }
                Err(failure) => return Err(fail(failure)),
            },
            None => match self.head(&lane, &path).await.map_err(fail)? {
                None => return Ok(None),
                Some(head) => (head, None),
            },
        };
        self.check(&name, &ranges, head.len)?;
        let meta = ObjectMeta { name, len: head.len, version: head.version.clone() };
        let mut runs = planned.unwrap_or_default();
        let Some(run) = runs.pop_front() else { return Ok(Some(meta)) };
        let helpers = at_a_time.saturating_sub(1).min(runs.len());
        let reading = Arc::new(Reading {
            core: Arc::clone(&self),
            name,
            path,
            head,
            target,
            runs: Mutex::new(runs),
            end: watch::Sender::new(false),
        });
        let mut others = JoinSet::new();
        for _ in 0..helpers {
            let lane = self.lanes.pick().clone();
            let runtime = lane.runtime.clone();
            others.spawn_on(Arc::clone(&reading).serve(lane, None), &runtime);
        }
        // Without helpers this task stays on its lane; a panic of a sink ends it as it ends theirs.
        let mut result = Arc::clone(&reading).serve(lane, Some((run, body))).await;
        while let Some(joined) = others.join_next().await {
            let other = joined.unwrap_or_else(|error| {
                reading.end.send_replace(true);
                let message = format!("a sink panicked, or this is a defect of the store: {error}");
                Err(Error::new(ErrorKind::Backend, &self.label, message))
            });
            result = result.and(other);
        }
        result.map(|()| Some(meta))
    }

    /// Fails unless every range lies in the object.
    fn check(&self, name: &ObjectName, ranges: &[ByteRange], len: u64) -> Result<()> {
        let outside =
            |range: &&ByteRange| range.offset.checked_add(range.len as u64).is_none_or(|end| end > len);
        match ranges.iter().find(outside) {
            Some(range) => Err(out_of_range(&self.label, name, (range.offset, range.len), len)),
            None => Ok(()),
        }
    }
}

pub(super) fn range_of(start: u64, end: u64, etag: Option<&str>) -> GetOptions {
    GetOptions {
        range: Some(GetRange::Bounded(start..end)),
        if_match: etag.map(str::to_owned),
        ..GetOptions::default()
    }
}

impl<T: Target> Reading<T> {
    /// Reads the first run, if this is who has it, and then one after the other until none is left.
    async fn serve(self: Arc<Self>, lane: Lane, first: Option<(Run, Option<GetResult>)>) -> Result<()> {
        let mut next = first;
        loop {
            let (run, body) = match next.take() {
                Some(run) => run,
                None => match self.runs.lock().unwrap_or_else(PoisonError::into_inner).pop_front() {
                    Some(run) => (run, None),
                    None => return Ok(()),
                },
            };
            if *self.end.borrow() {
                return Ok(());
            }
            match self.read(&lane, run, body).await {
                Ok(true) => {}
                Ok(false) => {
                    self.end.send_replace(true);
                    return Ok(());
                }
                Err(error) => {
                    self.end.send_replace(true);
                    return Err(error);
                }
            }
        }
    }

    /// Fills the ranges of one run; `false` if no more are wanted.
    async fn read(&self, lane: &Lane, run: Run, body: Option<GetResult>) -> Result<bool> {
        let mut body = Body::new(self, lane, run.start..run.end, body);
        let meta = ObjectMeta { name: self.name, len: self.head.len, version: self.head.version.clone() };
        for (index, len) in run.ranges {
            let Some(buffer) = self.unless_ended(self.target.buffer(index, len)).await else {
                return Ok(false);
            };
            let mut buffer = buffer?;
            match self.unless_ended(body.fill(&mut buffer)).await {
                Some(Ok(())) => {}
                ended => {
                    self.target.give_back(index, buffer);
                    let Some(Err(failure)) = ended else { return Ok(false) };
                    return Err(self.core.error(failure, &format!("read {}", self.name)));
                }
            }
            if !self.target.filled(&meta, index, buffer).await {
                return Ok(false);
            }
        }
        body.expect_end()
            .await
            .map_err(|failure| self.core.error(failure, &format!("read {}", self.name)))?;
        Ok(true)
    }

    /// What `work` answers; `None` if no more is wanted first.
    async fn unless_ended<O>(&self, work: impl Future<Output = O>) -> Option<O> {
        let mut end = self.end.subscribe();
        tokio::select! {
            biased;
            answer = work => Some(answer),
            // The sender lives as long as `self`.
            _ = end.wait_for(|end| *end) => None,
        }
    }
}
