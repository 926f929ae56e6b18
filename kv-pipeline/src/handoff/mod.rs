//! Hand-off of a request from a producer's ranks to a consumer through one small record a rank.
//!
//! A rank opens its record *before* the consumer learns the request's id: a file that is polled before it exists may stay invisible
//! for half a minute on a default NFS mount. A request is complete when every rank is, and aborted as soon as one is.

mod record;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use kv_format::{ChunkKey, FORMAT_MAJOR, RecordName};
use kv_storage::Version;
use tokio::sync::watch;

use crate::crash::{self, reach};
use crate::limits::{Limits, Stop};
use crate::pipeline::Core;
use crate::{Consumer, Error, ErrorKind, Producer, Result, Saved};
use record::{RequestRecord, State, tail_key};

/// Lifetime of a record and its tail.
const TIME_TO_LIVE: Duration = Duration::from_secs(3600);

/// Longest text of a reason that is kept, in characters.
const REASON_CHARS: usize = 500;

/// Most ranks of a request: a record that announces more is not believed.
const MAX_RANKS: u32 = 65_536;

/// Pauses between looks at a record grow from the first to the second.
const POLL: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(200));

/// A producer rank's part of a request. End it by [`complete`](Self::complete) or [`abort`](Self::abort); dropping it aborts in the
/// background.
#[derive(Debug)]
#[must_use = "a dropped request is aborted: call complete()"]
pub struct Request {
    core: Arc<Core>,
    name: RecordName,
    open: Option<(RequestRecord, Version)>,
}

/// What a consumer learns of a complete request.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Handoff {
    /// Tokens from the start of the sequence that are stored.
    pub tokens: u32,
    /// Key of the tail, which only this record leads to.
    pub tail: Option<ChunkKey>,
    /// Producer ranks that took part.
    pub ranks: u32,
}

impl Producer {
    /// Announces this rank's part of a request, before anybody is told the id.
    ///
    /// # Errors
    /// `Invalid` if `rank` is not below `ranks`; `Conflict` if the id was used before; `Storage`, `Deadline`.
    ///
    /// # Cancel safety
    /// A dropped call may have created the record, which then stays pending until it expires.
    pub async fn open_request(&self, id: &str, rank: u32, ranks: u32, timeout: Duration) -> Result<Request> {
        if rank >= ranks || ranks > MAX_RANKS {
            return Err(Error::invalid(format!(
                "rank {rank} of {ranks}: expected a rank below at most {MAX_RANKS}"
            )));
        }
        let name = RecordName::request(id, rank);
        let environment = &self.core.environment;
        let ttl = u64::try_from(TIME_TO_LIVE.as_millis()).unwrap_or(u64::MAX);
        let record = RequestRecord {
            format: FORMAT_MAJOR,
            namespace: self.core.namespace.digest().to_string(),
            rank,
            ranks,
            epoch: environment.entropy.next_u64(),
            expires_unix_ms: environment.clock.unix_millis().saturating_add(ttl),
            state: State::Pending,
        };
        let body = record.encode();
        let created = bounded(&self.core, timeout, self.core.store.create_record(&name, &body)).await??;
        let version = created.ok_or_else(|| {
            Error::new(
                ErrorKind::Conflict,
                format!("request {id:?} has a record already ({name}): use a fresh id"),
            )
        })?;
        reach(&self.core, crash::REQUEST_OPENED);
        Ok(Request { core: Arc::clone(&self.core), name, open: Some((record, version)) })
    }
}

impl Request {
    /// Tells consumers that everything this rank saves is in the store.
    ///
    /// # Errors
    /// `Conflict` if somebody else changed the record; `Storage`, `Deadline`.
    ///
    /// # Cancel safety
    /// A dropped call may or may not have completed the request.
    pub async fn complete(mut self, saved: &Saved, timeout: Duration) -> Result<()> {
        let tail = saved.tail.map(|key| key.to_string());
        self.end(State::Complete { tokens: saved.tokens, tail }, timeout).await?;
        reach(&self.core, crash::REQUEST_COMPLETED);
        Ok(())
    }

    /// Tells consumers that the request will not be completed. Final, and seen at their next look.
    ///
    /// # Errors
    /// As [`complete`](Self::complete).
    ///
    /// # Cancel safety
    /// A dropped call may or may not have aborted the request.
    pub async fn abort(mut self, reason: &str, timeout: Duration) -> Result<()> {
        self.end(aborted(reason), timeout).await
    }

    async fn end(&mut self, state: State, timeout: Duration) -> Result<()> {
        let Some((record, version)) = self.open.take() else {
            return Ok(());
        };
        replace(&self.core, &self.name, record, &version, state, timeout).await
    }
}

impl Drop for Request {
    fn drop(&mut self) {
        if let Some((record, version)) = self.open.take() {
            let (core, name) = (Arc::clone(&self.core), self.name);
            self.core.runtime.spawn(async move {
                let state = aborted("the producer dropped the request");
                // Nobody is left to tell; consumers have a deadline.
                let _ = replace(&core, &name, record, &version, state, TIME_TO_LIVE).await;
            });
        }
    }
}

impl Consumer {
    /// Waits until every producer rank has completed a request.
    ///
    /// # Errors
    /// * [`Aborted`](ErrorKind::Aborted) as soon as a rank has given up, with its reason.
    /// * [`Deadline`](ErrorKind::Deadline) naming the rank that is missing or pending.
    /// * [`Incompatible`](ErrorKind::Incompatible) if the producer's namespace or record format is another, or its ranks contradict
    ///   each other.
    /// * [`Storage`](ErrorKind::Storage).
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn wait_request(&self, id: &str, timeout: Duration) -> Result<Handoff> {
        let (_open, cancelled) = watch::channel(false);
        let limits = Limits::new(&self.core.environment, timeout, Duration::ZERO, cancelled);
        let (mut pause, longest) = POLL;
        let mut complete = BTreeMap::new();
        let mut ranks = 1;
        let mut waiting_for = "rank 0, which has no record".to_owned();
        loop {
            let mut first_waiting = None;
            // Every rank that is not complete is looked at in every round: an abort of any of them is final for all.
            for rank in 0..MAX_RANKS {
                if rank >= ranks {
                    break;
                }
                if complete.contains_key(&rank) {
                    continue;
                }
                let Ok(seen) = limits.run(self.look(id, rank)).await else {
                    return Err(late(id, &waiting_for));
                };
                ranks = seen.as_ref().map_or(ranks, |(announced, _)| ranks.max(*announced));
                match seen? {
                    (_, Seen::Complete(handoff)) => {
                        complete.insert(rank, handoff);
                    }
                    (_, state) => {
                        first_waiting
                            .get_or_insert_with(|| format!("rank {rank}, which {}", state.describe()));
                    }
                }
            }
            match first_waiting {
                Some(rank) => waiting_for = rank,
                None => return agreed(id, complete),
            }
            if limits.pause(pause).await.is_err() {
                return Err(late(id, &waiting_for));
            }
            pause = (pause * 2).min(longest);
        }
    }

    /// Looks at the record of one rank once; tells how many ranks it announces.
    async fn look(&self, id: &str, rank: u32) -> Result<(u32, Seen)> {
        let name = RecordName::request(id, rank);
        let Some(read) = self.core.store.read_record(&name).await? else { return Ok((1, Seen::Missing)) };
        let record = RequestRecord::decode(&name, &read.body)?;
        record.expect_namespace(&name, self.core.namespace.digest())?;
        if record.ranks > MAX_RANKS {
            let message = format!("record {name} announces {} ranks: at most {MAX_RANKS}", record.ranks);
            return Err(Error::new(ErrorKind::Incompatible, message));
        }
        let seen = match record.state {
            State::Pending => Seen::Pending,
            State::Complete { tokens, tail } => {
                let tail = tail_key(&name, tail.as_deref())?;
                Seen::Complete(Handoff { tokens, tail, ranks: record.ranks })
            }
            State::Aborted { reason } => {
                let message = format!("request {id:?}: rank {rank} gave up: {reason}");
                return Err(Error::new(ErrorKind::Aborted, message));
            }
        };
        Ok((record.ranks, seen))
    }
}

/// What a look at one rank's record saw.
enum Seen {
    Missing,
    Pending,
    Complete(Handoff),
}

impl Seen {
    fn describe(&self) -> &'static str {
        match self {
            Self::Missing => "has no record",
            Self::Pending => "is pending",
            Self::Complete(_) => "is complete",
        }
    }
}

fn late(id: &str, waiting_for: &str) -> Error {
    Error::new(
        ErrorKind::Deadline,
        format!("request {id:?}: the deadline passed while waiting for {waiting_for}"),
    )
}

/// The one hand-off that all ranks describe.
fn agreed(id: &str, complete: BTreeMap<u32, Handoff>) -> Result<Handoff> {
    let mut parts = complete.into_iter();
    let (_, first) = parts.next().ok_or_else(|| Error::invalid("a request has at least one rank"))?;
    match parts.find(|(_, part)| *part != first) {
        None => Ok(first),
        Some((rank, part)) => {
            let message = format!("request {id:?}: rank {rank} says {part:?}, rank 0 says {first:?}");
            Err(Error::new(ErrorKind::Incompatible, message))
        }
    }
}

/// Runs a store call with a deadline.
async fn bounded<T>(core: &Core, timeout: Duration, call: impl Future<Output = T>) -> Result<T, Stop> {
    let (_open, cancelled) = watch::channel(false);
    Limits::new(&core.environment, timeout, Duration::ZERO, cancelled).run(call).await
}

/// Replaces a record by its owner.
async fn replace(
    core: &Core,
    name: &RecordName,
    record: RequestRecord,
    version: &Version,
    state: State,
    timeout: Duration,
) -> Result<()> {
    let body = RequestRecord { state, ..record }.encode();
    let replaced = bounded(core, timeout, core.store.replace_record(name, version, &body)).await??;
    replaced.map(|_| ()).ok_or_else(|| {
        Error::new(
            ErrorKind::Conflict,
            format!("record {name} was changed by somebody else: the request is not handed over"),
        )
    })
}

fn aborted(reason: &str) -> State {
    State::Aborted { reason: reason.chars().take(REASON_CHARS).collect() }
}
