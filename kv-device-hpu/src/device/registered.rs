//! An engine's memory in the care of a Gaudi.
#![expect(unsafe_code, reason = "carries the promise about the engine's memory to the copies")]

use std::sync::Arc;

use async_trait::async_trait;
use kv_device::parts::InFlight;
use kv_device::{DeviceRegion, Error, ErrorKind, RegisteredMemory, Result, TransferRequest};
use kv_memory::HostBuf;

use super::Lanes;
use crate::synapse::Session;

/// Regions of the device, which stay allocated until `close` has returned.
#[derive(Debug)]
pub(super) struct HpuRegistered {
    session: Arc<Session>,
    lanes: Arc<Lanes>,
    regions: Arc<[DeviceRegion]>,
    in_flight: Arc<InFlight>,
}

impl HpuRegistered {
    /// # Safety
    /// That of [`Device::register`](kv_device::Device::register).
    pub(super) unsafe fn new(session: &Arc<Session>, lanes: &Arc<Lanes>, regions: Vec<DeviceRegion>) -> Self {
        Self {
            session: Arc::clone(session),
            lanes: Arc::clone(lanes),
            regions: regions.into(),
            in_flight: InFlight::new(),
        }
    }

    /// Nothing is in flight as far as the host can tell, which of a lost device it cannot.
    fn settled(&self) -> Result<()> {
        if self.session.is_lost() {
            let message = "the device failed, so nobody knows whether it still writes: keep its memory until the process ends";
            return Err(Error::new(ErrorKind::DeviceLost, &self.session, message));
        }
        Ok(())
    }
}

#[async_trait]
impl RegisteredMemory for HpuRegistered {
    fn regions(&self) -> &[DeviceRegion] {
        &self.regions
    }

    async fn gather(&self, request: TransferRequest) -> (HostBuf, Result<()>) {
        // SAFETY: who registered the regions keeps them allocated until `close` has returned, which waits for `in_flight`.
        unsafe { self.lanes.gather.run(&self.in_flight, &self.regions, request) }.await
    }

    async fn scatter(&self, request: TransferRequest) -> (HostBuf, Result<()>) {
        // SAFETY: as in `gather`.
        unsafe { self.lanes.scatter.run(&self.in_flight, &self.regions, request) }.await
    }

    async fn quiesce(&self) -> Result<()> {
        self.in_flight.quiesce().await;
        self.settled()
    }

    async fn close(&self) -> Result<()> {
        self.in_flight.close().await;
        self.settled()
    }
}
