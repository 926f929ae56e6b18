//! An engine's memory in the care of a ROCm device.

use std::sync::Arc;

use async_trait::async_trait;
use kv_device::parts::{InFlight, TransferQueue, check_bounds};
use kv_device::{DeviceRegion, Error, ErrorKind, RegisteredMemory, Result, TransferRequest};
use kv_memory::HostBuf;

use super::Shared;
use super::direction::Direction;
use crate::Sabotage;

#[derive(Debug)]
pub(super) struct RocmRegistered {
    shared: Arc<Shared>,
    regions: Arc<[DeviceRegion]>,
    in_flight: Arc<InFlight>,
}

impl RocmRegistered {
    pub(super) fn new(shared: Arc<Shared>, regions: Vec<DeviceRegion>) -> Self {
        Self { shared, regions: regions.into(), in_flight: InFlight::new() }
    }

    async fn run(
        &self,
        queue: &TransferQueue,
        direction: &Arc<Direction>,
        mut request: TransferRequest,
    ) -> (HostBuf, Result<()>) {
        if self.shared.hip.sabotage == Some(Sabotage::DropFence) {
            request.after = None;
        }
        let (direction, regions) = (Arc::clone(direction), Arc::clone(&self.regions));
        let begin = move |transfer: &kv_format::Transfer, staging: &mut HostBuf| {
            check_bounds(&direction.label(), transfer, &regions, staging.len())?;
            direction.begin(transfer, &regions, staging)
        };
        queue.run_ahead(&self.in_flight, request, begin).await
    }

    /// An error if what is under way can no longer be told.
    fn told(&self) -> Result<()> {
        match self.shared.lost.get() {
            None => Ok(()),
            Some(why) => {
                let message = format!(
                    "the device was lost ({why}): memory that was registered must outlive the process"
                );
                Err(Error::new(ErrorKind::DeviceLost, &self.shared.hip.label, message))
            }
        }
    }
}

#[async_trait]
impl RegisteredMemory for RocmRegistered {
    fn regions(&self) -> &[DeviceRegion] {
        &self.regions
    }

    async fn gather(&self, request: TransferRequest) -> (HostBuf, Result<()>) {
        self.run(&self.shared.gather_queue, &self.shared.gather, request).await
    }

    async fn scatter(&self, request: TransferRequest) -> (HostBuf, Result<()>) {
        self.run(&self.shared.scatter_queue, &self.shared.scatter, request).await
    }

    async fn quiesce(&self) -> Result<()> {
        self.in_flight.quiesce().await;
        self.told()
    }

    async fn close(&self) -> Result<()> {
        self.in_flight.close().await;
        self.told()
    }
}
