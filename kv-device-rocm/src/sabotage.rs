//! Ways in which this backend could be wrong, for tests that show that they would be found. Without the feature `sabotage` there is no
//! value of the type, and the compiler removes every place that asks for one.

/// What a sabotaged backend does wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[doc(hidden)]
#[non_exhaustive]
pub enum Sabotage {
    /// Does not make its device current on a thread.
    SkipSetDevice,
    /// Does not wait for the engine's fence.
    DropFence,
    /// Says that a transfer has ended before it has.
    SkipWait,
    /// Copies more than it has allocated.
    CopyOutside,
    /// Puts the kernels' tables into memory that the device does not reach.
    PageableTables,
    /// Hands out staging that is not pinned, so that its copies are not what the device's links were measured with.
    PageableStaging,
    /// Reads the numbers of memory kinds as 6.0 has them, in 5.x.
    NewMemoryKinds,
    /// Reads the old structure of properties as if it were the new one.
    OldProperties,
    /// Passes attributes to a batch, which versions before 7.13 refuse.
    BatchAttributes,
    /// Passes all pieces in one batch, however many.
    OneBatch,
    /// Destroys its stream before the last transfer.
    UseAfterDestroy,
    /// Asks the run-time compiler for a processor without asking whether it knows it.
    AskBlindly,
    /// Registers whatever it is given.
    SkipOwnerCheck,
}
