//! The contract of [`KvStore`] as a suite that any pair of handles can be put through.
//!
//! `writer` publishes and `reader` looks: two handles to one store, which may be the same handle, two processes' or two hosts'
//! mounts. Implementors run it from their own tests:
//!
//! ```
//! use std::sync::Arc;
//! use kv_storage::{MemoryStore, conformance};
//! # #[tokio::main] async fn main() {
//! let store = MemoryStore::new();
//! if let Err(failure) = conformance::run(Arc::new(store.clone()), Arc::new(store)).await {
//!     panic!("{failure}"); // names the check and the seed
//! }
//! # }
//! ```
//!
//! Every check is a public function too. Objects and records have random names and are removed afterwards.

mod buffers;
mod listing;
mod publication;
mod reading;
mod records;
mod streaming;
mod subject;

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

pub use buffers::{buffers_come_back, dropped_calls_keep_their_buffers};
pub use listing::{delete_frees_the_name, list_in_order_and_in_pages, quarantine_checks_the_version};
pub use publication::{
    abort_and_drop_leave_nothing, create_only_under_a_race, incomplete_commits_are_refused,
    invisible_before_the_commit, sizes_and_write_orders, whole_under_concurrent_reads,
    writes_behind_the_end_are_refused,
};
pub use reading::{missing_is_none, ranges_are_exact, ranges_behind_the_end_are_refused};
pub use records::{record_lifecycle, record_sizes, records_are_create_only, records_are_replaced_whole};
pub use streaming::{streamed_reads_are_exact, streamed_reads_miss_and_refuse, writes_from_a_source};
pub use subject::Subject;

use crate::env::Environment;
use crate::{Error, KvStore};

/// Longest time for one check: a store that hangs fails instead.
const DEADLINE: Duration = Duration::from_secs(120);

/// What a store does otherwise than the contract says.
#[derive(Debug)]
pub struct Failure {
    check: &'static str,
    seed: u64,
    message: String,
}

impl Failure {
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self { check: "", seed: 0, message: message.into() }
    }

    /// Name of the check that failed.
    pub fn check(&self) -> &'static str {
        self.check
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { check, seed, message } = self;
        write!(f, "conformance check `{check}` failed (seed {seed:#x}): {message}")
    }
}

impl std::error::Error for Failure {}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::new(format!("unexpected error of kind {:?}: {error}", error.kind()))
    }
}

impl From<kv_memory::Error> for Failure {
    fn from(error: kv_memory::Error) -> Self {
        Self::new(format!("the suite's own memory: {error}"))
    }
}

/// Fails a check unless the condition holds.
macro_rules! ensure {
    ($condition:expr, $($message:tt)+) => {
        if !$condition {
            return Err($crate::conformance::Failure::new(format!($($message)+)));
        }
    };
}
use ensure;

type Checking<'a> = Pin<Box<dyn Future<Output = Result<(), Failure>> + Send + 'a>>;
type Check = (&'static str, for<'a> fn(&'a Subject) -> Checking<'a>);

/// Pairs the name of a check with its function.
macro_rules! checks {
    ($($name:ident),+ $(,)?) => {
        &[$((stringify!($name), |subject| Box::pin($name(subject)))),+]
    };
}

const CHECKS: &[Check] = checks![
    buffers_come_back,
    missing_is_none,
    invisible_before_the_commit,
    sizes_and_write_orders,
    create_only_under_a_race,
    whole_under_concurrent_reads,
    incomplete_commits_are_refused,
    writes_behind_the_end_are_refused,
    abort_and_drop_leave_nothing,
    ranges_are_exact,
    ranges_behind_the_end_are_refused,
    streamed_reads_are_exact,
    streamed_reads_miss_and_refuse,
    writes_from_a_source,
    dropped_calls_keep_their_buffers,
    list_in_order_and_in_pages,
    delete_frees_the_name,
    quarantine_checks_the_version,
    record_lifecycle,
    record_sizes,
    records_are_create_only,
    records_are_replaced_whole,
];

/// Runs every check with a random seed.
///
/// # Errors
/// The first check that failed, with its seed.
pub async fn run(writer: Arc<dyn KvStore>, reader: Arc<dyn KvStore>) -> Result<(), Failure> {
    let seed = Environment::default().entropy.next_u64();
    run_with_seed(writer, reader, seed).await
}

/// Runs every check with a given seed, to repeat a failure.
///
/// # Errors
/// The first check that failed.
pub async fn run_with_seed(
    writer: Arc<dyn KvStore>,
    reader: Arc<dyn KvStore>,
    seed: u64,
) -> Result<(), Failure> {
    for (name, check) in CHECKS {
        // Names differ between the checks, so that one cannot disturb another.
        let named = |failure: Failure| Failure { check: name, seed, ..failure };
        let salt = name.bytes().fold(seed, |hash, byte| hash.rotate_left(5) ^ u64::from(byte));
        let subject = Subject::new(Arc::clone(&writer), Arc::clone(&reader), salt).map_err(named)?;
        let result = match tokio::time::timeout(DEADLINE, check(&subject)).await {
            Ok(result) => result,
            Err(_) => Err(Failure::new(format!("no end within {DEADLINE:?}: a call hangs"))),
        };
        result.map_err(named)?;
        let settled = match tokio::time::timeout(DEADLINE, subject.settle()).await {
            Ok(result) => result,
            Err(_) => Err(Failure::new(format!(
                "buffers are not back within {DEADLINE:?}: {:?}",
                subject.pool().usage()
            ))),
        };
        settled.map_err(named)?;
    }
    Ok(())
}
