//! What a pipeline has done, as plain counters.

use std::sync::atomic::{AtomicU64, Ordering};

/// Defines the counters once: an atomic each, and the snapshot that callers see.
macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// A snapshot of what a pipeline has done since it was built.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
        #[non_exhaustive]
        pub struct Stats {
            $($(#[$doc])* pub $name: u64,)*
        }

        /// The counters themselves.
        #[derive(Debug, Default)]
        pub(crate) struct Counters {
            $(pub(crate) $name: AtomicU64,)*
        }

        impl Counters {
            pub(crate) fn snapshot(&self) -> Stats {
                Stats { $($name: self.$name.load(Ordering::Relaxed),)* }
            }
        }
    };
}

counters! {
    /// Objects that this pipeline published.
    objects_published,
    /// Objects that were stored already and were not written again.
    objects_deduplicated,
    /// Objects of the same identity but another payload that were there first: another parallelism or batch rounds differently.
    objects_first_wins,
    /// Objects of another identity under a name of ours.
    objects_conflicting,
    /// Objects that failed verification and were taken out of the way.
    objects_quarantined,
    /// Objects that failed verification as one way to the store gave them, and were read again by another.
    objects_read_again,
    /// Objects whose upload failed, and was begun again by another way to the store.
    objects_saved_again,
    /// Payload bytes written.
    bytes_saved,
    /// Payload bytes verified and given to an engine.
    bytes_loaded,
    /// Sections whose checksum was right.
    sections_verified,
    /// Objects whose header or section failed verification.
    verify_failures,
    /// Tokens given to engines.
    tokens_loaded,
    /// Loads that stopped early and left the rest to be recomputed.
    loads_recomputed,
    /// Loads that stopped early and failed, by policy.
    loads_failed,
    /// Times that a load waited for an object that was not there yet.
    load_waits,
}

/// Adds to a counter.
pub(crate) fn count(counter: &AtomicU64, by: u64) {
    counter.fetch_add(by, Ordering::Relaxed);
}
