//! The one unsafe step: an engine's memory is given into the care of a pipeline.

use anyhow::Result;
use kv_device::HostAllocation;
use kv_format::Geometry;
use kv_pipeline::{Pipeline, Registered};

/// Registers `memory`. The benchmark's engine keeps it beside the registration for as long as it runs, and touches it only between
/// operations.
pub(crate) fn register(kv: &Pipeline, geometry: Geometry, memory: &[HostAllocation]) -> Result<Registered> {
    let regions = memory.iter().map(HostAllocation::region).collect();
    // SAFETY: the caller is `Engine`, which owns the allocations beside the registration and waits for the end of every operation
    // before it touches them or drops them.
    Ok(unsafe { kv.register(geometry, regions) }?)
}
