//! One path: its gate, and how much it costs to send something more its way.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kv_format::ObjectName;

use super::{PathState, Vast};
use crate::{HealthGate, KvStore};

/// A path that had nothing to do for so long is taken for as fast as the fastest again: how fast it was is no longer known.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(10);

/// How much a transfer that was faster than expected changes what is expected.
const WEIGHT: f64 = 0.25;

#[derive(Debug)]
pub(super) struct Path {
    pub(super) number: usize,
    /// Index into the kinds of its store.
    pub(super) kind: usize,
    pub(super) gate: HealthGate,
    load: Mutex<Load>,
}

/// What is on its way by a path, and how long a byte takes.
#[derive(Debug, Default)]
struct Load {
    /// Begin and bytes of each transfer on its way.
    running: BTreeMap<u64, (Duration, u64)>,
    in_flight: u64,
    next: u64,
    /// Seconds that a byte took, with the company that its transfer had; rises at once and falls slowly.
    per_byte: Option<f64>,
    last_use: Duration,
    moved: u64,
    failed_over: u64,
    doubted: u64,
}

impl Load {
    fn is_forgotten(&self, now: Duration) -> bool {
        self.running.is_empty() && now.saturating_sub(self.last_use) >= FORGOTTEN_AFTER
    }
}

/// A transfer on its way; dropped, it has ended without moving anything.
pub(super) struct Running {
    vast: Vast,
    path: usize,
    ticket: u64,
    bytes: u64,
    ended: bool,
}

impl Path {
    pub(super) fn new(number: usize, kind: usize, gate: HealthGate) -> Self {
        Self { number, kind, gate, load: Mutex::default() }
    }

    fn load(&self) -> MutexGuard<'_, Load> {
        // Every critical section is a few assignments that do not panic.
        self.load.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn state(&self, kind: String) -> PathState {
        let load = self.load();
        PathState {
            store: self.gate.to_string(),
            kind,
            health: self.gate.health(),
            history: self.gate.history(),
            in_flight_bytes: load.in_flight,
            moved_bytes: load.moved,
            failed_over: load.failed_over,
            doubted: load.doubted,
        }
    }

    pub(super) fn fails_over(&self) {
        self.load().failed_over += 1;
    }

    pub(super) fn doubts(&self) {
        self.load().doubted += 1;
    }

    /// Seconds that a byte takes, as far as anybody knows.
    pub(super) fn per_byte(&self, now: Duration) -> Option<f64> {
        let load = self.load();
        // A transfer that is on its way for long already says so before it ends.
        let oldest = load.running.values().next();
        let at_least = oldest.map_or(0.0, |(began, bytes)| per_byte(now.saturating_sub(*began), *bytes));
        load.per_byte.filter(|_| !load.is_forgotten(now)).map(|known| known.max(at_least))
    }

    /// When another `bytes` would be through, in seconds.
    pub(super) fn cost(&self, per_byte: f64, bytes: u64) -> f64 {
        per_byte * as_f64(self.load().in_flight.saturating_add(bytes))
    }

    /// The path's place in the order of an object: the same in every process, and another for every object.
    pub(super) fn rank(&self, key: u64) -> u64 {
        mixed(key ^ mixed(self.number as u64))
    }
}

impl Vast {
    /// Notes a transfer of `bytes` by a path.
    pub(super) fn begin_transfer(&self, path: &Path, bytes: u64) -> Running {
        let now = self.now();
        let mut load = path.load();
        if load.is_forgotten(now) {
            load.per_byte = None;
        }
        let ticket = load.next;
        load.next += 1;
        load.running.insert(ticket, (now, bytes));
        load.in_flight += bytes;
        load.last_use = now;
        Running { vast: self.clone(), path: path.number, ticket, bytes, ended: false }
    }
}

impl Running {
    /// The path has moved all of it, or some of it before it failed.
    pub(super) fn end(mut self, moved: u64) {
        self.ended = true;
        self.settle(Some(moved));
    }

    fn settle(&self, moved: Option<u64>) {
        let now = self.vast.now();
        let mut load = self.vast.shared.paths[self.path].load();
        load.in_flight -= self.bytes;
        load.last_use = now;
        let began = load.running.remove(&self.ticket).map_or(now, |(began, _)| began);
        let Some(moved) = moved else { return };
        load.moved += moved;
        // What took no time says nothing, and neither does a header: a round trip is not a rate.
        let took = per_byte(now.saturating_sub(began), self.bytes);
        if self.bytes >= 64 << 10 && moved > 0 && took > 0.0 {
            let known = load.per_byte.unwrap_or(took);
            load.per_byte = Some(if took > known { took } else { known + WEIGHT * (took - known) });
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.ended {
            self.settle(None);
        }
    }
}

fn per_byte(time: Duration, bytes: u64) -> f64 {
    time.as_secs_f64() / as_f64(bytes.max(1))
}

/// To the nearest that there is.
fn as_f64(bytes: u64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "an estimate")]
    {
        bytes as f64
    }
}

/// A number that the object's name decides.
pub(super) fn key_of(name: &ObjectName) -> u64 {
    let words = name.key.0.chunks_exact(8).filter_map(|word| word.try_into().ok().map(u64::from_le_bytes));
    let digest = words.fold(0, |hash, word: u64| mixed(hash ^ word));
    mixed(digest ^ (u64::from(name.chunk_index) << 32) ^ u64::from(name.slice))
}

/// Every bit of the result depends on every bit of `z` (SplitMix64's last steps).
pub(super) fn mixed(z: u64) -> u64 {
    let z = z.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
