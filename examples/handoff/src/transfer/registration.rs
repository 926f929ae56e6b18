//! The engine's memory in the care of the pipeline: the one promise of this example.

use std::mem::ManuallyDrop;
use std::sync::Arc;

use anyhow::{Result, anyhow};
use kv_format::Geometry;
use kv_pipeline::{Pipeline, Registered};

use super::memory::DeviceMemory;

/// Registered memory, kept allocated until [`close`](Self::close) has returned; for ever, if that is never called.
#[derive(Debug)]
pub(super) struct Registration {
    registered: Registered,
    memory: ManuallyDrop<Arc<DeviceMemory>>,
}

impl Registration {
    /// Registers `memory`.
    pub(super) fn new(pipeline: &Pipeline, geometry: Geometry, memory: &Arc<DeviceMemory>) -> Result<Self> {
        let memory = ManuallyDrop::new(Arc::clone(memory));
        // SAFETY: the allocations neither move nor shrink, and the field `memory` keeps them until `close` has returned. The bytes
        // are reached only through `HostAllocation`, whose lock orders the engine's access and the device's; besides, the engine
        // computes on the thread that waits in `Transport` for the end of the transfer, so it does not compute meanwhile.
        let registered = unsafe { pipeline.register(geometry, memory.device_regions()) };
        Ok(Self { registered: registered.map_err(|error| anyhow!("{error}"))?, memory })
    }

    /// What saves and loads take.
    pub(super) fn registered(&self) -> &Registered {
        &self.registered
    }

    /// Waits for the last transfer, then lets go of the memory.
    pub(super) async fn close(self) -> Result<()> {
        let closed = self.registered.close().await;
        closed.map_err(|error| anyhow!("the engine's memory stays allocated: {error}"))?;
        drop(ManuallyDrop::into_inner(self.memory));
        Ok(())
    }
}
