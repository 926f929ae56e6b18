//! The points at which a process may die while it publishes; a test kills it at each.

use crate::env::CrashPoint;

/// The temporary file of a store's marker exists.
pub(super) const MARKER_TEMP_CREATED: CrashPoint = CrashPoint("posix.format.temp-created");
/// The marker is visible, and its temporary name still exists; there is no directory beneath the root yet.
pub(super) const MARKER_LINKED: CrashPoint = CrashPoint("posix.format.linked");
/// A whole fan-out exists under a temporary name.
pub(super) const FAN_OUT_MADE: CrashPoint = CrashPoint("posix.fan-out.made");
/// It has its name; the directory above is not flushed.
pub(super) const FAN_OUT_RENAMED: CrashPoint = CrashPoint("posix.fan-out.renamed");
/// An object's temporary file exists.
pub(super) const OBJECT_TEMP_CREATED: CrashPoint = CrashPoint("posix.object.temp-created");
/// Its length is reserved.
pub(super) const OBJECT_RESERVED: CrashPoint = CrashPoint("posix.object.reserved");
/// One of its parts is written.
pub(super) const OBJECT_WRITTEN: CrashPoint = CrashPoint("posix.object.written");
/// It is flushed.
pub(super) const OBJECT_SYNCED: CrashPoint = CrashPoint("posix.object.synced");
/// It is visible; if it was linked, the temporary name still exists.
pub(super) const OBJECT_LINKED: CrashPoint = CrashPoint("posix.object.linked");
/// The temporary name is gone; the directory is not flushed.
pub(super) const OBJECT_TEMP_REMOVED: CrashPoint = CrashPoint("posix.object.temp-removed");
/// A record's temporary file exists.
pub(super) const RECORD_TEMP_CREATED: CrashPoint = CrashPoint("posix.record.temp-created");
/// Its body is written.
pub(super) const RECORD_WRITTEN: CrashPoint = CrashPoint("posix.record.written");
/// It is flushed.
pub(super) const RECORD_SYNCED: CrashPoint = CrashPoint("posix.record.synced");
/// A new record is visible, and the temporary name still exists.
pub(super) const RECORD_LINKED: CrashPoint = CrashPoint("posix.record.linked");
/// A new record's temporary name is gone; the directory is not flushed.
pub(super) const RECORD_TEMP_REMOVED: CrashPoint = CrashPoint("posix.record.temp-removed");
/// A record was replaced; the directory is not flushed.
pub(super) const RECORD_REPLACED: CrashPoint = CrashPoint("posix.record.replaced");

/// Every crash point of this store, in the order in which opening an empty directory and publishing in it pass them.
pub const CRASH_POINTS: &[CrashPoint] = &[
    MARKER_TEMP_CREATED,
    MARKER_LINKED,
    FAN_OUT_MADE,
    FAN_OUT_RENAMED,
    OBJECT_TEMP_CREATED,
    OBJECT_RESERVED,
    OBJECT_WRITTEN,
    OBJECT_SYNCED,
    OBJECT_LINKED,
    OBJECT_TEMP_REMOVED,
    RECORD_TEMP_CREATED,
    RECORD_WRITTEN,
    RECORD_SYNCED,
    RECORD_LINKED,
    RECORD_TEMP_REMOVED,
    RECORD_REPLACED,
];
