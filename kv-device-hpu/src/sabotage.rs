//! What this crate does about the vendor's rules, as a list of ways to leave it out. The tests leave each out in turn and look whether
//! the conformance suite notices: a rule that can be dropped unnoticed is not tested.
//!
//! Without the feature `sabotage`, which no program should ask for, nothing can be left out.

/// One thing to leave out or do wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Break {
    /// Acquires a device where the engine has one.
    AcquireInAttach,
    /// Releases the engine's device.
    ReleaseInAttach,
    /// Does not release its own.
    KeepDevice,
    /// Calls `synDestroy` where no device was found.
    DestroyAfterFailedProbe,
    /// Takes staging without mapping it.
    SkipHostMap,
    /// Maps staging twice, the second time with more bytes.
    MapLarger,
    /// Ends a mapping by an address inside it.
    UnmapInside,
    /// Copies beyond the end of the staging.
    CopyOutsideMapping,
    /// Passes sizes and destinations in the other order.
    SwapSizeAndDestination,
    /// Passes no sizes.
    NullList,
    /// Does not wait for the engine's fence.
    DropFence,
    /// Makes fences of events that were not recorded.
    SkipRecord,
    /// Takes "busy" for "reached".
    BusyIsReached,
    /// Does not wait for the end of copies.
    SkipCompletion,
    /// Takes every code for success.
    IgnoreStatus,
    /// Believes addresses that cannot be the device's.
    TrustAddresses,
}

/// What is left out: nothing, unless a test says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Sabotage(Option<Break>);

impl Sabotage {
    /// Leaves one thing out.
    #[cfg(feature = "sabotage")]
    pub fn of(what: Break) -> Self {
        Self(Some(what))
    }

    /// Whether this is left out.
    pub(crate) fn breaks(self, what: Break) -> bool {
        cfg!(feature = "sabotage") && self.0 == Some(what)
    }
}
