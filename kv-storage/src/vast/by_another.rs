//! Which path a call takes, and which after that.

use std::cmp::Reverse;
use std::future::Future;

use super::path::Path;
use super::setbacks::PathSet;
use super::{Vast, may_differ};
use crate::{Error, HealthGate, Operation, Result};

/// Which kinds of paths may answer.
#[derive(Debug, Clone, Copy)]
pub(super) enum Asked {
    /// Every kind, this one before the others.
    First(usize),
    /// This kind and no other.
    Only(usize),
}

/// A path's answer.
pub(super) struct Answered<'a, T> {
    pub(super) path: &'a Path,
    pub(super) answer: T,
    /// Whether another path was asked before, and may have done it without an answer.
    pub(super) doubtful: bool,
}

impl Vast {
    /// The paths that may be asked, in an object's own order, those that are down behind the others: they refuse at once and say why.
    pub(super) fn order(&self, key: u64, tried: PathSet) -> Vec<&Path> {
        let mut order: Vec<&Path> = self.shared.paths.iter().filter(|path| !tried.has(path.number)).collect();
        order.sort_by_cached_key(|path| (path.gate.is_down(), Reverse(path.rank(key))));
        order
    }

    /// The path by which `bytes` are read.
    pub(super) fn choose_to_read(&self, key: u64, bytes: u64, tried: PathSet) -> Option<&Path> {
        self.through_first(&self.order(key, tried), bytes)
    }

    /// The path for an upload of `bytes`: of the first kind while one of its paths is up. Whether a name is free is then asked of one protocol
    /// only, and an object is shown as whoever wrote it has marked it.
    pub(super) fn choose_to_write(&self, key: u64, bytes: u64, tried: PathSet) -> Option<&Path> {
        let mut order = self.order(key, tried);
        order.sort_by_key(|path| (path.gate.is_down(), path.kind));
        let kind = order.first()?.kind;
        order.retain(|path| path.kind == kind);
        self.through_first(&order, bytes)
    }

    /// Of the first two in an object's order, the one that would be through first. The order spreads what many processes do that do not know
    /// of each other; what this one has measured corrects it.
    fn through_first<'a>(&self, order: &[&'a Path], bytes: u64) -> Option<&'a Path> {
        let now = self.now();
        let (first, second) = (*order.first()?, order.get(1).copied());
        let Some(second) = second.filter(|second| !second.gate.is_down()) else { return Some(first) };
        let known = self.shared.paths.iter().filter_map(|path| path.per_byte(now));
        let fastest =
            known.fold(None, |fastest: Option<f64>, known| Some(fastest.map_or(known, |f| f.min(known))));
        // Before anything was measured a byte is a byte.
        let cost = |path: &Path| path.cost(path.per_byte(now).or(fastest).unwrap_or(1.0), bytes);
        Some(if cost(second) < cost(first) { second } else { first })
    }

    /// Makes a call that moves next to nothing by one path after another, until one answers.
    pub(super) async fn by_any<T, F>(
        &self,
        operation: Operation,
        key: u64,
        asked: Asked,
        call: impl Fn(HealthGate) -> F,
    ) -> Result<Answered<'_, T>>
    where
        F: Future<Output = Result<T>>,
    {
        let mut order = self.order(key, PathSet::default());
        match asked {
            Asked::Only(kind) => order.retain(|path| path.kind == kind),
            Asked::First(kind) => {
                order.sort_by_key(|path| (path.gate.is_down(), path.kind != kind, path.kind));
            }
        }
        let mut last: Option<Error> = None;
        for path in order {
            match call(path.gate.clone()).await {
                Ok(answer) => return Ok(Answered { path, answer, doubtful: last.is_some() }),
                Err(error) if may_differ(&error) => last = Some(error),
                Err(error) => return Err(error),
            }
            path.fails_over();
        }
        Err(self.exhausted(operation, last))
    }
}
