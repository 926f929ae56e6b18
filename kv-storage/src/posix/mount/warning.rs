//! What is wrong with a mount's options for this store, and the option that mends it.

use std::fmt;

use super::Mount;

/// Below this a 10 MiB object takes more requests than it needs; it is also the most that Linux asks for.
const WANTED_TRANSFER: u64 = 1 << 20;

/// An option of an NFS mount that costs or endangers something here. Its `Display` says what, and which option to add or to remove.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum MountWarning {
    /// Without `lookupcache=positive` this host may go on believing for so many seconds that a file does not exist. The store asks the
    /// server again after each miss, which costs a second round trip and still cannot see two changes of a directory within one tick
    /// of the server's clock.
    MissesAreCached {
        /// Longest time that a miss may be believed.
        seconds: u64,
    },
    /// `nocto`: an open does not ask the server, so a record that was replaced is read in its old form.
    OpensAreNotChecked,
    /// `noac` or `actimeo=0`: every step of every path asks the server.
    AttributesAreNotCached {
        /// The option that says so.
        option: &'static str,
    },
    /// `soft` or `softerr`: the kernel gives calls up and forgets what they wrote.
    GivesUp {
        /// The option that says so.
        option: &'static str,
    },
    /// No `nconnect`: all goes through one TCP connection.
    OneConnection,
    /// `rsize` or `wsize` below 1 MiB.
    SmallTransfers {
        /// `rsize` or `wsize`.
        option: &'static str,
        /// What it is.
        bytes: u64,
    },
}

impl fmt::Display for MountWarning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::MissesAreCached { seconds } => write!(
                f,
                "mounted without `lookupcache=positive`: this host may believe for up to {seconds} s that a new file does not exist, and the store pays a second round trip for each miss to learn better; add `lookupcache=positive`"
            ),
            Self::OpensAreNotChecked => f.write_str(
                "mounted with `nocto`: what another host replaced is read in its old form, and hand-offs stall; remove `nocto`",
            ),
            Self::AttributesAreNotCached { option } => write!(
                f,
                "mounted with `{option}`: every lookup asks the server for every directory on the way; remove `{option}` and add `lookupcache=positive`, which is enough"
            ),
            Self::GivesUp { option } => write!(
                f,
                "mounted with `{option}`: the kernel gives calls up when the server is slow, and writes are lost; use `hard`, with which they wait: this store's callers still return at their deadlines, and what waits is bounded"
            ),
            Self::OneConnection => f.write_str(
                "mounted without `nconnect`: one TCP connection carries about 2 GB/s; add `nconnect=16` (a driver of VAST takes more)",
            ),
            Self::SmallTransfers { option, bytes } => write!(
                f,
                "mounted with `{option}={bytes}`: large objects take {} times the requests; add `{option}={WANTED_TRANSFER}`, and allow it on the server",
                WANTED_TRANSFER.div_ceil((*bytes).max(1))
            ),
        }
    }
}

/// The warnings of a mount, what may go wrong before what is slow.
pub(super) fn of(mount: &Mount) -> Vec<MountWarning> {
    let mut warnings = Vec::new();
    if !mount.is_nfs() {
        return warnings;
    }
    let has = |option: &&'static str| mount.option(option).is_some();
    if has(&"nocto") {
        warnings.push(MountWarning::OpensAreNotChecked);
    }
    match mount.misses_cached_seconds() {
        0 => {}
        seconds => warnings.push(MountWarning::MissesAreCached { seconds }),
    }
    let uncached = mount.option("acdirmax") == Some("0") || mount.option("actimeo") == Some("0");
    let uncached = if has(&"noac") { Some("noac") } else { uncached.then_some("actimeo=0") };
    warnings.extend(uncached.map(|option| MountWarning::AttributesAreNotCached { option }));
    warnings.extend(["soft", "softerr"].into_iter().find(has).map(|option| MountWarning::GivesUp { option }));
    let connections = mount.option("nconnect").and_then(|value| value.parse::<u32>().ok());
    if connections.unwrap_or(1) < 2 {
        warnings.push(MountWarning::OneConnection);
    }
    for option in ["rsize", "wsize"] {
        let bytes = mount.option(option).and_then(|value| value.parse().ok());
        if let Some(bytes) = bytes.filter(|bytes| *bytes < WANTED_TRANSFER) {
            warnings.push(MountWarning::SmallTransfers { option, bytes });
        }
    }
    warnings
}
