//! Which calls fail, and how.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use kv_format::{ObjectName, RecordName};
use tokio::sync::watch;

use crate::{ErrorKind, Operation};

/// One call as a script sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Call {
    /// What was called.
    pub operation: Operation,
    /// The how-manieth call of this kind it is, from 1.
    pub number: u64,
    /// The how-manieth call of any kind it is, from 1.
    pub total: u64,
    /// The object it is about.
    pub object: Option<ObjectName>,
    /// The record it is about.
    pub record: Option<RecordName>,
}

type Predicate = Arc<dyn Fn(&Call) -> bool + Send + Sync>;

/// Chooses calls.
#[derive(Clone, Default)]
pub struct When {
    operation: Option<Operation>,
    nth: Option<u64>,
    predicate: Option<Predicate>,
}

impl When {
    /// Every call.
    pub fn always() -> Self {
        Self::default()
    }

    /// Every call of one kind.
    pub fn every(operation: Operation) -> Self {
        Self { operation: Some(operation), ..Self::default() }
    }

    /// The `n`-th call of one kind after the rule was added, from 1; that one only.
    pub fn nth(operation: Operation, n: u64) -> Self {
        Self { nth: Some(n), ..Self::every(operation) }
    }

    /// The next call of one kind.
    pub fn next(operation: Operation) -> Self {
        Self::nth(operation, 1)
    }

    /// Only calls for which `predicate` holds; with [`nth`](Self::nth), the n-th of those.
    #[must_use]
    pub fn matching(mut self, predicate: impl Fn(&Call) -> bool + Send + Sync + 'static) -> Self {
        self.predicate = Some(Arc::new(predicate));
        self
    }

    fn chooses(&self, call: &Call) -> bool {
        self.operation.is_none_or(|operation| operation == call.operation)
            && self.predicate.as_ref().is_none_or(|predicate| predicate(call))
    }
}

impl fmt::Debug for When {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("When")
            .field("operation", &self.operation)
            .field("nth", &self.nth)
            .field("predicate", &self.predicate.is_some())
            .finish()
    }
}

/// What happens to a chosen call. Offsets are offsets in the object.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Injection {
    /// It fails and has no effect.
    Fail(ErrorKind),
    /// It takes effect, and its answer is lost: a commit that fails this way has published.
    FailAfter(ErrorKind),
    /// A read answers the object with one bit flipped.
    Flip {
        /// Which byte of the object.
        at: u64,
        /// Which bit of the byte, 0 to 7.
        bit: u8,
    },
    /// A read answers the object with zeros in a range, like a page that never reached the disk.
    Zero(Range<u64>),
    /// A read or head sees the object end after this many bytes.
    Truncate(u64),
    /// A read or head sees this many zero bytes behind the object's end.
    Extend(u64),
    /// A read of an object or record, or a head, finds nothing.
    Vanish,
}

impl Injection {
    /// Whether the injection means anything for an operation. Others pass unharmed, and do not count as chosen.
    fn applies_to(&self, operation: Operation) -> bool {
        match self {
            Self::Fail(_) | Self::FailAfter(_) => true,
            Self::Flip { .. } | Self::Zero(_) => operation == Operation::Read,
            Self::Truncate(_) | Self::Extend(_) => matches!(operation, Operation::Read | Operation::Head),
            Self::Vanish => matches!(operation, Operation::Read | Operation::Head | Operation::ReadRecord),
        }
    }
}

/// Holds hung calls. They go on when it is [released](Self::release) or dropped.
#[derive(Debug)]
#[must_use = "dropped, it releases the calls that it should hold"]
pub struct Hold {
    pub(super) released: watch::Sender<bool>,
}

impl Hold {
    /// Lets the held calls go on, and holds no others.
    pub fn release(&self) {
        self.released.send_replace(true);
    }
}

/// What a rule does.
#[derive(Debug, Clone)]
pub(super) enum Action {
    Inject(Injection),
    Hang(watch::Receiver<bool>),
}

#[derive(Debug)]
struct Rule {
    when: When,
    action: Action,
    /// Calls that matched so far.
    matched: u64,
}

/// The rules of one faulty store, and what happened.
#[derive(Debug, Default)]
pub(super) struct Script {
    rules: Vec<Rule>,
    calls: BTreeMap<Operation, u64>,
    total: u64,
    fired: u64,
}

impl Script {
    pub(super) fn add(&mut self, when: When, action: Action) {
        self.rules.push(Rule { when, action, matched: 0 });
    }

    pub(super) fn clear(&mut self) {
        self.rules.clear();
    }

    pub(super) fn calls(&self, operation: Operation) -> u64 {
        self.calls.get(&operation).copied().unwrap_or_default()
    }

    pub(super) fn total(&self) -> u64 {
        self.total
    }

    pub(super) fn fired(&self) -> u64 {
        self.fired
    }

    /// Counts a call.
    pub(super) fn count(
        &mut self,
        operation: Operation,
        object: Option<ObjectName>,
        record: Option<RecordName>,
    ) -> Call {
        let number = self.calls.entry(operation).or_default();
        *number += 1;
        self.total += 1;
        Call { operation, number: *number, total: self.total, object, record }
    }

    /// What happens to a call: the first rule that chooses it decides.
    pub(super) fn decide(&mut self, call: &Call) -> Option<Action> {
        let mut decision = None;
        for rule in &mut self.rules {
            let applies = match &rule.action {
                Action::Inject(injection) => injection.applies_to(call.operation),
                Action::Hang(_) => true,
            };
            if applies && rule.when.chooses(call) {
                rule.matched += 1;
                if decision.is_none() && rule.when.nth.is_none_or(|n| n == rule.matched) {
                    decision = Some(rule.action.clone());
                }
            }
        }
        self.fired += u64::from(decision.is_some());
        decision
    }
}
