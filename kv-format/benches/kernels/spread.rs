//! Time on the processor, medians and quartiles.

use std::fmt;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// How long this thread has run. Time in which somebody else had the processor does not count, so that a busy machine changes
/// figures only through the memory that it shares.
pub(crate) fn on_processor() -> Duration {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(u64::try_from(now.tv_sec).unwrap(), u32::try_from(now.tv_nsec).unwrap())
}

/// Runs `work` on both items, on this thread or on one thread each, and returns the time on the processor: of both one after the
/// other, or of the slower thread.
pub(crate) fn both<T: Send>(threads: usize, items: [T; 2], work: impl Fn(T) + Sync) -> Duration {
    let timed = |item| {
        let start = on_processor();
        work(item);
        on_processor() - start
    };
    let [first, second] = items;
    if threads == 1 {
        return timed(first) + timed(second);
    }
    std::thread::scope(|scope| {
        let second = scope.spawn(|| timed(second));
        timed(first).max(second.join().unwrap())
    })
}

/// A quantity over all rounds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Spread {
    pub(crate) lower: f64,
    pub(crate) median: f64,
    pub(crate) upper: f64,
}

impl Spread {
    pub(crate) fn of(values: impl IntoIterator<Item = f64>) -> Self {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        let at = |quarter: usize| values[(values.len() - 1) * quarter / 4];
        Self { lower: at(1), median: at(2), upper: at(3) }
    }
}

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let decimals = f.precision().unwrap_or(2);
        write!(f, "{:.decimals$} ({:.decimals$}-{:.decimals$})", self.median, self.lower, self.upper)
    }
}
