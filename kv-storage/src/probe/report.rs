//! What a probe found, for people and for programs.

use std::fmt;
use std::time::Duration;

use crate::{Capabilities, KvStore};

/// The answer to one question.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Verdict {
    /// It was tried, and it is so.
    Holds,
    /// It was tried, and it is not so.
    Broken,
}

/// One question, and its answer.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Finding {
    /// What was tried.
    pub what: &'static str,
    /// Whether a store for KV caches must do it. Others are for choosing options.
    pub must: bool,
    /// The answer.
    pub verdict: Verdict,
    /// What was seen.
    pub note: String,
}

/// One measurement. It is short and from caches: a hint, no benchmark.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Figure {
    /// How long calls of one kind took.
    Latency {
        /// What was called.
        what: &'static str,
        /// Half of the calls took no longer.
        median: Duration,
        /// No call took longer.
        longest: Duration,
        /// Calls.
        calls: usize,
    },
    /// How fast bytes moved in one direction, one call at a time.
    Bandwidth {
        /// Which way.
        what: &'static str,
        /// Bytes that moved.
        bytes: u64,
        /// Time that it took.
        took: Duration,
    },
}

/// What a probe found.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct ProbeReport {
    /// The store's name.
    pub store: String,
    /// What the store says of itself.
    pub capabilities: Capabilities,
    /// What was tried, in order.
    pub findings: Vec<Finding>,
    /// What was measured; nothing, if a must is broken.
    pub figures: Vec<Figure>,
}

impl ProbeReport {
    pub(super) fn new(store: &dyn KvStore) -> Self {
        Self {
            store: store.to_string(),
            capabilities: store.capabilities(),
            findings: Vec::new(),
            figures: Vec::new(),
        }
    }

    /// Whether the store does all that it must.
    pub fn musts_hold(&self) -> bool {
        self.broken_musts().next().is_none()
    }

    /// What the store must do and does not.
    pub fn broken_musts(&self) -> impl Iterator<Item = &Finding> {
        self.findings.iter().filter(|finding| finding.must && finding.verdict == Verdict::Broken)
    }
}

impl Finding {
    pub(super) fn must(what: &'static str, outcome: Result<String, String>) -> Self {
        Self::of(what, true, outcome)
    }

    #[cfg_attr(
        not(feature = "posix"),
        expect(dead_code, reason = "only directories are asked what they need not do")
    )]
    pub(super) fn may(what: &'static str, outcome: Result<String, String>) -> Self {
        Self::of(what, false, outcome)
    }

    fn of(what: &'static str, must: bool, outcome: Result<String, String>) -> Self {
        let (verdict, note) = match outcome {
            Ok(note) => (Verdict::Holds, note),
            Err(note) => (Verdict::Broken, note),
        };
        Self { what, must, verdict, note }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mark = match (self.verdict, self.must) {
            (Verdict::Holds, _) => "yes",
            (Verdict::Broken, false) => "no",
            (Verdict::Broken, true) => "BROKEN",
        };
        write!(f, "{mark:<7} {}", self.what)?;
        if self.note.is_empty() { Ok(()) } else { write!(f, ": {}", self.note) }
    }
}

impl fmt::Display for Figure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Latency { what, median, longest, calls } => {
                write!(f, "{what}: {median:.1?} (median), {longest:.1?} (longest of {calls})")
            }
            Self::Bandwidth { what, bytes, took } => {
                let mib = bytes >> 20;
                // Nanoseconds, so that a clock that stands still divides nothing by zero.
                let rate = u128::from(*bytes) * 1000 / took.as_nanos().max(1);
                write!(
                    f,
                    "{what}: {rate} MB/s ({mib} MiB, one call at a time, from caches: a hint, no benchmark)"
                )
            }
        }
    }
}

impl fmt::Display for ProbeReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Capabilities { write_order, part_bytes, alignment, concurrency, atomic_create } =
            self.capabilities;
        writeln!(f, "{}", self.store)?;
        writeln!(
            f,
            "says of itself: parts of {part_bytes} bytes in order {write_order:?}, alignment {alignment}, {concurrency} at a time, atomic create: {atomic_create}"
        )?;
        self.findings.iter().try_for_each(|finding| writeln!(f, "{finding}"))?;
        self.figures.iter().try_for_each(|figure| writeln!(f, "{:<7} {figure}", ""))?;
        match self.broken_musts().count() {
            0 => write!(f, "fit for KV caches: everything that a store must do, it did"),
            broken => {
                write!(f, "NOT FIT for KV caches: {broken} of the things that a store must do are broken")
            }
        }
    }
}
