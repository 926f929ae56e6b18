//! Which paths did badly by which objects, so that the next attempt takes another.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kv_format::ObjectName;

/// Objects that are remembered; the oldest are forgotten.
const REMEMBERED: usize = 4096;

/// A setback is forgotten after so long: another reader of the same object begins anew.
const HELD_FOR: Duration = Duration::from_secs(60);

/// Paths by their bits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct PathSet(u64);

impl PathSet {
    pub(super) fn add(&mut self, path: usize) {
        self.0 |= 1 << path;
    }

    pub(super) fn has(self, path: usize) -> bool {
        self.0 & (1 << path) != 0
    }
}

#[derive(Debug, Default)]
pub(super) struct Setbacks(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    objects: BTreeMap<ObjectName, Entry>,
    order: VecDeque<ObjectName>,
}

#[derive(Debug)]
struct Entry {
    /// Which path the object was last read or written by.
    last: usize,
    avoided: PathSet,
    /// Of the last setback.
    at: Duration,
}

impl Setbacks {
    fn known(&self) -> MutexGuard<'_, Known> {
        // Both halves are repaired by the next call if a panic should ever come between them.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The object goes by this path now.
    pub(super) fn goes_by(&self, name: &ObjectName, path: usize, now: Duration) {
        let mut known = self.known();
        if let Some(entry) = known.objects.get_mut(name) {
            entry.last = path;
            return;
        }
        if known.order.len() >= REMEMBERED
            && let Some(oldest) = known.order.pop_front()
        {
            known.objects.remove(&oldest);
        }
        known.order.push_back(*name);
        known.objects.insert(*name, Entry { last: path, avoided: PathSet::default(), at: now });
    }

    /// The paths that the object avoids.
    pub(super) fn avoided(&self, name: &ObjectName, now: Duration) -> PathSet {
        let known = self.known();
        let entry = known.objects.get(name).filter(|entry| now.saturating_sub(entry.at) < HELD_FOR);
        entry.map_or_else(PathSet::default, |entry| entry.avoided)
    }

    /// The path that the object went by last is avoided from now on: which it was, and all that are avoided. `None` if nobody knows.
    pub(super) fn avoid_last(&self, name: &ObjectName, now: Duration) -> Option<(usize, PathSet)> {
        let mut known = self.known();
        let entry = known.objects.get_mut(name)?;
        if now.saturating_sub(entry.at) >= HELD_FOR {
            entry.avoided = PathSet::default();
        }
        entry.avoided.add(entry.last);
        entry.at = now;
        Some((entry.last, entry.avoided))
    }

    /// Every path did badly: none is better than another, and the next attempt begins anew.
    pub(super) fn forgive(&self, name: &ObjectName) {
        if let Some(entry) = self.known().objects.get_mut(name) {
            entry.avoided = PathSet::default();
        }
    }
}
