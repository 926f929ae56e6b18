//! How often, and after what wait, one call is made again; and what all calls together may spend on that.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::Retrying;
use crate::{Error, ErrorKind, Result};

/// What a retry costs, in hundredths.
const RETRY: u64 = 100;

/// Retries that all calls share: each call adds a hundredth for every percent, each retry takes one.
#[derive(Debug)]
pub(super) struct Budget {
    percent: u64,
    most: u64,
    spending: Mutex<Spending>,
}

#[derive(Debug)]
struct Spending {
    left: u64,
    retries: u64,
}

impl Budget {
    pub(super) fn new(percent: u32, burst: u32) -> Self {
        let most = u64::from(burst) * RETRY;
        Self { percent: percent.into(), most, spending: Mutex::new(Spending { left: most, retries: 0 }) }
    }

    pub(super) fn retries(&self) -> u64 {
        self.spending().retries
    }

    fn earn(&self) {
        let mut spending = self.spending();
        spending.left = (spending.left + self.percent).min(self.most);
    }

    fn spend(&self) -> bool {
        let mut spending = self.spending();
        let Some(left) = spending.left.checked_sub(RETRY) else { return false };
        *spending = Spending { left, retries: spending.retries + 1 };
        true
    }

    fn spending(&self) -> MutexGuard<'_, Spending> {
        // Every critical section is one assignment; a panic cannot leave it half done.
        self.spending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One call of the caller's, and what it took so far.
#[derive(Debug)]
pub(super) struct Attempts<'a> {
    store: &'a Retrying,
    began: Duration,
    retries: u32,
}

impl<'a> Attempts<'a> {
    pub(super) fn begin(store: &'a Retrying) -> Self {
        store.budget.earn();
        Self { store, began: store.options.environment.clock.now(), retries: 0 }
    }

    /// Whether an earlier attempt may have taken effect.
    pub(super) fn retried(&self) -> bool {
        self.retries > 0
    }

    /// Waits until the call may be made again.
    ///
    /// # Errors
    /// The error of the attempt, if there is to be no other.
    pub(super) async fn again_after(&mut self, error: Error) -> Result<()> {
        let Retrying { inner, options, budget } = self.store;
        let clock = &options.environment.clock;
        // A full store does not empty itself within seconds, and one that is marked down is not waiting for us.
        let passes = error.kind() == ErrorKind::Unavailable && !inner.health().down;
        if !passes || self.retries + 1 >= options.attempts {
            return Err(error);
        }
        let wait = self.backoff();
        let over = self.began.saturating_add(options.patience);
        if clock.now().saturating_add(wait) > over || !budget.spend() {
            return Err(error);
        }
        self.retries += 1;
        clock.sleep(wait).await;
        Ok(())
    }

    /// A random part of a bound that doubles: callers who failed together do not come back together.
    fn backoff(&self) -> Duration {
        let options = &self.store.options;
        let doubled =
            options.first_backoff.saturating_mul(1_u32.checked_shl(self.retries).unwrap_or(u32::MAX));
        let bound = u64::try_from(doubled.min(options.longest_backoff).as_nanos()).unwrap_or(u64::MAX);
        let random = options.environment.entropy.next_u64();
        Duration::from_nanos(random % bound.saturating_add(1).max(1))
    }
}
