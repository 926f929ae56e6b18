//! What the tier holds: which object each copy is of, and which copy was used least lately. Knows no store and no clock.

use std::collections::BTreeMap;
use std::time::Duration;

use kv_format::ObjectName;

use super::TierState;
use crate::Version;

#[derive(Debug)]
pub(super) struct Contents {
    most: u64,
    copies: BTreeMap<ObjectName, Copy>,
    /// By their last use.
    order: BTreeMap<u64, ObjectName>,
    /// Bytes of copies on their way in.
    coming: BTreeMap<ObjectName, u64>,
    /// Copies that were given up where nothing could wait for their removal.
    doomed: Vec<ObjectName>,
    uses: u64,
    state: TierState,
}

#[derive(Debug)]
struct Copy {
    version: Version,
    len: u64,
    /// When the store behind was asked about it.
    asked: Duration,
    used: u64,
}

impl Contents {
    pub(super) fn new(most: u64) -> Self {
        Self {
            most,
            copies: BTreeMap::new(),
            order: BTreeMap::new(),
            coming: BTreeMap::new(),
            doomed: Vec::new(),
            uses: 0,
            state: TierState::default(),
        }
    }

    pub(super) fn state(&self) -> TierState {
        TierState { objects: self.copies.len(), ..self.state }
    }

    /// The version of a copy, and when it was asked about; it counts as used.
    pub(super) fn used(&mut self, name: &ObjectName) -> Option<(Version, u64, Duration)> {
        let copy = self.copies.get_mut(name)?;
        self.order.remove(&copy.used);
        self.uses += 1;
        copy.used = self.uses;
        self.order.insert(copy.used, *name);
        Some((copy.version.clone(), copy.len, copy.asked))
    }

    /// The store behind has said that the copy is of what is there.
    pub(super) fn confirmed(&mut self, name: &ObjectName, version: &Version, now: Duration) {
        if let Some(copy) = self.copies.get_mut(name).filter(|copy| copy.version == *version) {
            copy.asked = copy.asked.max(now);
        }
    }

    pub(super) fn hit(&mut self) {
        self.state.hits += 1;
    }

    pub(super) fn missed(&mut self) {
        self.state.misses += 1;
    }

    /// Whether a copy is there or on its way.
    pub(super) fn has(&self, name: &ObjectName) -> bool {
        self.copies.contains_key(name) || self.coming.contains_key(name)
    }

    /// Gives a copy up, to be removed when there is next room to be made; whether there was one.
    pub(super) fn doom(&mut self, name: &ObjectName) -> bool {
        let removed = self.remove(name);
        if removed {
            self.doomed.push(*name);
        }
        removed
    }

    /// Room for a copy that is to come, and the names of those that are to be removed first; `None` if it cannot come: it is too large, on its way
    /// already, or there, or everything else is on its way.
    pub(super) fn reserve(&mut self, name: &ObjectName, bytes: u64) -> Option<Vec<ObjectName>> {
        let coming: u64 = self.coming.values().sum();
        if self.has(name) || coming.checked_add(bytes).is_none_or(|coming| coming > self.most) {
            return None;
        }
        let mut evicted = std::mem::take(&mut self.doomed);
        while self.state.bytes + bytes > self.most {
            // What is left when all of them are gone is on its way in, and leaves room for this.
            let Some((_, oldest)) = self.order.pop_first() else { break };
            let Some(copy) = self.copies.remove(&oldest) else { continue };
            self.state.bytes -= copy.len;
            self.state.evicted += 1;
            evicted.push(oldest);
        }
        self.state.bytes += bytes;
        self.coming.insert(*name, bytes);
        Some(evicted)
    }

    /// A copy that was to come does not.
    pub(super) fn gave_up(&mut self, name: &ObjectName) {
        if let Some(bytes) = self.coming.remove(name) {
            self.state.bytes -= bytes;
        }
    }

    /// A copy is complete.
    pub(super) fn came(&mut self, name: &ObjectName, version: Version, asked: Duration) {
        let Some(len) = self.coming.remove(name) else { return };
        self.uses += 1;
        self.order.insert(self.uses, *name);
        self.copies.insert(*name, Copy { version, len, asked, used: self.uses });
    }

    /// Whether a copy was there, which is not any more.
    pub(super) fn remove(&mut self, name: &ObjectName) -> bool {
        let Some(copy) = self.copies.remove(name) else { return false };
        self.order.remove(&copy.used);
        self.state.bytes -= copy.len;
        self.state.stale += 1;
        true
    }
}
