//! The crash points of this crate: between two steps of a publication or a hand-off. Tests kill the process at each.

use kv_storage::env::CrashPoint;

use crate::pipeline::Core;

pub(crate) const OBJECT_BEGUN: CrashPoint = CrashPoint("pipeline.object.begun");
pub(crate) const OBJECT_PART_WRITTEN: CrashPoint = CrashPoint("pipeline.object.part-written");
pub(crate) const OBJECT_HEADER_WRITTEN: CrashPoint = CrashPoint("pipeline.object.header-written");
pub(crate) const OBJECT_COMMITTED: CrashPoint = CrashPoint("pipeline.object.committed");
pub(crate) const REQUEST_OPENED: CrashPoint = CrashPoint("pipeline.request.opened");
pub(crate) const REQUEST_COMPLETED: CrashPoint = CrashPoint("pipeline.request.completed");

/// Every crash point that a save or a hand-off passes, besides those of its store.
pub const CRASH_POINTS: &[CrashPoint] = &[
    OBJECT_BEGUN,
    OBJECT_PART_WRITTEN,
    OBJECT_HEADER_WRITTEN,
    OBJECT_COMMITTED,
    REQUEST_OPENED,
    REQUEST_COMPLETED,
];

/// Tells the environment that the code is here.
pub(crate) fn reach(core: &Core, point: CrashPoint) {
    core.environment.crash_points.reach(point);
}
