//! What the suite found, and the means by which checks fail.

use std::fmt;
use std::future::Future;
use std::time::Duration;

/// Longest time for one check: a device that hangs fails instead of hanging the suite.
const DEADLINE: Duration = Duration::from_secs(60);

/// Outcome of every check, in the order in which they ran.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[must_use = "a report holds failures; call `assert` or look at them"]
pub struct Report {
    outcomes: Vec<Outcome>,
}

/// Outcome of one check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// Name of the check.
    pub check: &'static str,
    /// Why it failed; `None` if it passed.
    pub failure: Option<String>,
}

impl Report {
    /// All outcomes.
    pub fn outcomes(&self) -> &[Outcome] {
        &self.outcomes
    }

    /// The checks that failed.
    pub fn failures(&self) -> impl Iterator<Item = &Outcome> {
        self.outcomes.iter().filter(|outcome| outcome.failure.is_some())
    }

    /// Whether the device keeps the contract.
    pub fn passed(&self) -> bool {
        self.failures().next().is_none()
    }

    /// For tests: ends the test if a check failed.
    ///
    /// # Panics
    /// If a check failed, with all failures.
    pub fn assert(&self) {
        assert!(self.passed(), "{self}");
    }

    /// Runs one check.
    pub(super) async fn check(
        &mut self,
        check: &'static str,
        run: impl Future<Output = Result<(), Failure>> + Send,
    ) {
        let failure = match tokio::time::timeout(DEADLINE, run).await {
            Ok(Ok(())) => None,
            Ok(Err(Failure(message))) => Some(message),
            Err(_) => Some(format!("did not end within {DEADLINE:?}")),
        };
        self.outcomes.push(Outcome { check, failure });
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Outcome { check, failure } in &self.outcomes {
            match failure {
                None => writeln!(f, "ok      {check}")?,
                Some(message) => writeln!(f, "FAILED  {check}: {message}")?,
            }
        }
        Ok(())
    }
}

/// Why a check failed. Every error becomes one.
#[derive(Debug)]
pub(super) struct Failure(pub(super) String);

impl<E: std::error::Error> From<E> for Failure {
    fn from(error: E) -> Self {
        Self(error.to_string())
    }
}

/// Fails a check unless `condition` holds.
macro_rules! ensure {
    ($condition:expr, $($message:tt)+) => {
        if !$condition {
            return Err($crate::conformance::report::Failure(format!($($message)+)));
        }
    };
}
pub(super) use ensure;
