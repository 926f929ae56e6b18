//! When a gate gives a store up, and what brings it back.

use std::time::Duration;

use crate::env::Environment;

/// Options of a [`HealthGate`](super::HealthGate).
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct GateOptions {
    /// Longest time for one call; then its caller gets [`Unavailable`](crate::ErrorKind::Unavailable), and the call and its buffers
    /// stay with the backend until that lets go. A streamed call is one call, however much it moves. `None`: callers have deadlines
    /// of their own. Default 60 s: longer than a healthy store takes for anything, a flush on a busy disk included.
    pub deadline: Option<Duration>,
    /// Failures in a row that mark the store down. Default 5.
    pub failures: u32,
    /// Probes in a row that bring it back. Default 3.
    pub successes: u32,
    /// Longest time for one probe, which writes, reads and removes one page. Default 10 s.
    pub probe_deadline: Duration,
    /// Time before the first probe, and between probes that succeed. It doubles after each that fails, and if the store goes down
    /// again within [`longest_interval`](Self::longest_interval) of coming back. Default 1 s.
    pub first_interval: Duration,
    /// Longest time between two probes. Default 60 s.
    pub longest_interval: Duration,
    /// Time, and randomness for the probe's name and bytes.
    pub environment: Environment,
}

impl Default for GateOptions {
    fn default() -> Self {
        Self {
            deadline: Some(Duration::from_secs(60)),
            failures: 5,
            successes: 3,
            probe_deadline: Duration::from_secs(10),
            first_interval: Duration::from_secs(1),
            longest_interval: Duration::from_secs(60),
            environment: Environment::default(),
        }
    }
}

impl GateOptions {
    /// Sets the longest time for one call.
    #[must_use]
    pub fn deadline(mut self, deadline: Option<Duration>) -> Self {
        self.deadline = deadline;
        self
    }

    /// Sets how many failures in a row mark the store down; 0 counts as 1.
    #[must_use]
    pub fn failures(mut self, failures: u32) -> Self {
        self.failures = failures;
        self
    }

    /// Sets how many probes in a row bring it back; 0 counts as 1.
    #[must_use]
    pub fn successes(mut self, successes: u32) -> Self {
        self.successes = successes;
        self
    }

    /// Sets the longest time for one probe.
    #[must_use]
    pub fn probe_deadline(mut self, deadline: Duration) -> Self {
        self.probe_deadline = deadline;
        self
    }

    /// Sets the shortest and the longest time between two probes.
    #[must_use]
    pub fn intervals(mut self, first: Duration, longest: Duration) -> Self {
        (self.first_interval, self.longest_interval) = (first, longest);
        self
    }

    /// Sets time and randomness.
    #[must_use]
    pub fn environment(mut self, environment: Environment) -> Self {
        self.environment = environment;
        self
    }
}
