//! Whether a store is up or down, and for how long it has to be tried before it is up again. Knows no clock: it is told the time.

use std::time::Duration;

use super::GateOptions;
use crate::DownReason;

/// What happened to a store so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct History {
    /// Times that the store was marked down.
    pub downs: u64,
    /// Times that it came back.
    pub readmissions: u64,
    /// Probes that succeeded.
    pub probes_passed: u64,
    /// Probes that failed, or had no answer in time.
    pub probes_failed: u64,
}

#[derive(Debug)]
pub(super) struct Condition {
    failures: u32,
    successes: u32,
    first_interval: Duration,
    longest_interval: Duration,
    /// Time between two probes now; kept while the store is up.
    interval: Duration,
    place: Place,
    history: History,
}

#[derive(Debug)]
enum Place {
    Up { since: Option<Duration>, failed: u32 },
    Down { since: Duration, reason: DownReason, why: String, passed: u32, last_probe: Option<String> },
}

impl Condition {
    pub(super) fn new(options: &GateOptions) -> Self {
        let first_interval = options.first_interval.max(Duration::from_millis(1));
        Self {
            failures: options.failures.max(1),
            successes: options.successes.max(1),
            first_interval,
            longest_interval: options.longest_interval.max(first_interval),
            interval: first_interval,
            place: Place::Up { since: None, failed: 0 },
            history: History::default(),
        }
    }

    pub(super) fn history(&self) -> History {
        self.history
    }

    pub(super) fn interval(&self) -> Duration {
        self.interval
    }

    pub(super) fn is_down(&self) -> bool {
        self.reason().is_some()
    }

    pub(super) fn reason(&self) -> Option<DownReason> {
        match &self.place {
            Place::Up { .. } => None,
            Place::Down { reason, .. } => Some(*reason),
        }
    }

    /// Lets a call in; what it is to show when it leaves.
    ///
    /// # Errors
    /// Why nobody may enter.
    pub(super) fn admit(&self, now: Duration) -> Result<u64, String> {
        match &self.place {
            Place::Up { .. } => Ok(self.history.downs),
            Place::Down { since, why, passed, last_probe, .. } => {
                let ago = now.saturating_sub(*since).as_secs_f64();
                let probe =
                    last_probe.as_ref().map(|error| format!(" (the last: {error})")).unwrap_or_default();
                let Self { interval, successes, .. } = self;
                Err(format!(
                    "store marked down {ago:.1} s ago because {why}; it is probed every {interval:?}{probe} and comes back after {successes} good probes in a row, {passed} so far"
                ))
            }
        }
    }

    /// The store beneath says that it is down.
    pub(super) fn hangs(&mut self, stranded: usize, now: Duration) {
        if let Place::Up { .. } = self.place {
            self.go_down(DownReason::Stranded, format!("{stranded} of its operations hang"), now);
        }
    }

    /// A call that entered at `epoch` ended. Calls from before the store went down say nothing about the time since it came back.
    pub(super) fn answered(&mut self, verdict: Result<(), String>, epoch: u64, now: Duration) {
        let Place::Up { failed, .. } = &mut self.place else { return };
        if epoch != self.history.downs {
            return;
        }
        match verdict {
            Ok(()) => *failed = 0,
            Err(error) => {
                *failed += 1;
                if *failed >= self.failures {
                    let why = format!("{failed} calls in a row failed, the last with: {error}");
                    self.go_down(DownReason::Failing, why, now);
                }
            }
        }
    }

    /// A probe ended; whether the store is up again.
    pub(super) fn probed(&mut self, answer: Result<(), String>, now: Duration) -> bool {
        let Place::Down { passed, last_probe, .. } = &mut self.place else { return true };
        match answer {
            Ok(()) => {
                self.history.probes_passed += 1;
                *passed += 1;
                if *passed < self.successes {
                    return false;
                }
                self.history.readmissions += 1;
                self.place = Place::Up { since: Some(now), failed: 0 };
                true
            }
            Err(error) => {
                self.history.probes_failed += 1;
                *passed = 0;
                *last_probe = Some(error);
                self.lengthen();
                false
            }
        }
    }

    fn go_down(&mut self, reason: DownReason, why: String, now: Duration) {
        if let Place::Up { since: Some(since), .. } = self.place
            && now.saturating_sub(since) < self.longest_interval
        {
            self.lengthen();
        } else {
            self.interval = self.first_interval;
        }
        self.history.downs += 1;
        self.place = Place::Down { since: now, reason, why, passed: 0, last_probe: None };
    }

    fn lengthen(&mut self) {
        self.interval = self.interval.saturating_mul(2).min(self.longest_interval);
    }
}
