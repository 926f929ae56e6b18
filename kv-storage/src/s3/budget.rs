//! One budget of retries for the whole store, and the pauses between attempts.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::options::Retries;
use crate::env::Entropy;

/// What a success earns, in the unit in which a retry costs [`COST`].
const EARNED: u32 = 1;
const COST: u32 = 10;

/// Retries in hand.
#[derive(Debug)]
pub(super) struct RetryBudget {
    retries: Retries,
    tokens: Mutex<u32>,
}

impl RetryBudget {
    pub(super) fn new(retries: Retries) -> Self {
        Self { retries, tokens: Mutex::new(retries.budget.saturating_mul(COST)) }
    }

    /// Most attempts of one request.
    pub(super) fn attempts(&self) -> u32 {
        self.retries.attempts.max(1)
    }

    /// A request succeeded.
    pub(super) fn earn(&self) {
        let most = self.retries.budget.saturating_mul(COST);
        let mut tokens = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
        *tokens = tokens.saturating_add(EARNED).min(most);
    }

    /// The pause before the attempt behind attempt `number` (from 1): a random part of a bound that doubles, so that callers that failed
    /// together do not come back together. `None`: no more attempts.
    pub(super) fn pause(&self, number: u32, entropy: &dyn Entropy) -> Option<Duration> {
        if number >= self.attempts() {
            return None;
        }
        let mut tokens = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
        *tokens = tokens.checked_sub(COST)?;
        drop(tokens);
        let doubled = self.retries.base.saturating_mul(1 << (number - 1).min(20));
        let bound = u64::try_from(doubled.min(self.retries.cap).as_micros()).unwrap_or(u64::MAX);
        Some(Duration::from_micros(entropy.next_u64() % bound.saturating_add(1).max(1)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct Largest;

    impl Entropy for Largest {
        fn next_u64(&self) -> u64 {
            50_000 // the whole first bound, in microseconds
        }
    }

    #[test]
    fn pauses_are_bounded_and_end_with_the_attempts_or_the_budget() {
        let retries = Retries { budget: 3, ..Retries::default() };
        let budget = RetryBudget::new(retries);
        assert_eq!(budget.pause(1, &Largest), Some(Duration::from_millis(50)));
        assert_eq!(budget.pause(5, &Largest), None, "five attempts are all");
        assert!(budget.pause(2, &Largest).is_some());
        assert!(budget.pause(4, &Largest).is_some());
        assert_eq!(budget.pause(1, &Largest), None, "the budget of three is spent");
        for _ in 0..10 {
            budget.earn();
        }
        assert!(budget.pause(1, &Largest).is_some(), "ten successes earn one retry");
        assert_eq!(budget.pause(1, &Largest), None);
    }
}
