//! What a store can really do, tried in a few seconds: before a cluster is pointed at it, and when something is odd.
//!
//! The conformance suite shows that a store's *code* keeps the contract; this shows it of one *place*: this mount, this bucket, with its
//! server and its options. It writes a few objects and records under random names, races itself, reads back, measures, and removes
//! everything. `cargo run --release -p kv-storage --example probe -- URL` prints the report.

mod objects;
#[cfg(feature = "posix")]
mod posix;
mod records;
mod report;
mod speed;
mod trial;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

#[cfg(feature = "posix")]
pub use posix::probe_directory;
pub use report::{Figure, Finding, ProbeReport, Verdict};
use trial::Trial;

use crate::KvStore;
use crate::env::Environment;

/// Longest time for one check: a store that hangs fails it.
const DEADLINE: Duration = Duration::from_secs(30);

/// Tries what the contract demands of `store`, and measures small calls and a short stretch of bandwidth.
///
/// Needs the right to write. Objects are in [`PROBE_NAMESPACE`](crate::health::PROBE_NAMESPACE); a probe that is killed leaves at most
/// a few there and under `records`.
///
/// ```
/// use std::sync::Arc;
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// let report = kv_storage::probe(Arc::new(kv_storage::MemoryStore::new())).await;
/// assert!(report.musts_hold(), "{report}");
/// # }
/// ```
///
/// # Cancel safety
/// A dropped call leaves what it wrote so far.
pub async fn probe(store: Arc<dyn KvStore>) -> ProbeReport {
    let environment = Environment::default();
    let trial = Trial::new(Arc::clone(&store), environment);
    let mut report = ProbeReport::new(&*store);
    let checks: [(&'static str, Check<'_>); 7] = [
        ("invisible until published, then whole and at once", Box::pin(objects::published_whole(&trial))),
        ("one of two racing commits wins", Box::pin(objects::create_only(&trial))),
        ("ranges are exact", Box::pin(objects::exact_ranges(&trial))),
        ("a deleted object is gone, and its name free", Box::pin(objects::deleted(&trial))),
        ("a listing shows what was published", Box::pin(objects::listed(&trial))),
        ("a record is created once", Box::pin(records::created_once(&trial))),
        ("a record is replaced if it is the expected one", Box::pin(records::replaced_if_expected(&trial))),
    ];
    for (what, check) in checks {
        let outcome = trial.in_time(DEADLINE, check).await;
        report.findings.push(Finding::must(what, outcome));
    }
    if report.musts_hold() {
        let measured = trial.in_time(DEADLINE, speed::measure(&trial)).await;
        match measured {
            Ok(figures) => report.figures = figures,
            Err(error) => report.findings.push(Finding::must("figures can be measured", Err(error))),
        }
    }
    let removed = trial.in_time(DEADLINE, trial.remove_all()).await;
    report.findings.push(Finding::must("what the probe wrote can be removed", removed));
    report
}

/// A check: what to say of it, or what is wrong.
type Check<'a> = std::pin::Pin<Box<dyn Future<Output = Result<String, String>> + Send + 'a>>;
