//! An engine's memory in the care of a host device.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use kv_format::Transfer;
use kv_format::kernels::{self, Destination};
use kv_memory::HostBuf;

use super::Queues;
use super::directory::View;
use crate::parts::{InFlight, TransferQueue, check_bounds, check_granularity};
use crate::{DeviceRegion, Granularity, RegisteredMemory, Result, TransferRequest};

/// Regions with the mappings behind them. The mappings live as long as a transfer runs, whatever the engine does.
#[derive(Debug)]
pub(super) struct HostRegistered {
    device: Arc<str>,
    queues: Arc<Queues>,
    regions: Arc<[DeviceRegion]>,
    /// Empty once closed.
    views: Mutex<Arc<[View]>>,
    in_flight: Arc<InFlight>,
}

impl HostRegistered {
    pub(super) fn new(
        device: &str,
        queues: Arc<Queues>,
        regions: Vec<DeviceRegion>,
        views: Vec<View>,
    ) -> Self {
        Self {
            device: device.into(),
            queues,
            regions: regions.into(),
            views: Mutex::new(views.into()),
            in_flight: InFlight::new(),
        }
    }

    /// Queues a transfer that `copy` makes after everything about it was checked.
    async fn run(
        &self,
        queue: &TransferQueue,
        request: TransferRequest,
        copy: fn(&Transfer, &[View], &mut HostBuf),
    ) -> (HostBuf, Result<()>) {
        let checked = self.checked();
        let work = move |transfer: &Transfer, staging: &mut HostBuf| {
            copy(transfer, checked.views(transfer, staging.len())?, staging);
            Ok(())
        };
        queue.run(&self.in_flight, request, work).await
    }

    /// What a transfer is checked against. Closing empties the list of views after it refuses transfers: one that is let in has them.
    fn checked(&self) -> Checked {
        Checked {
            device: Arc::clone(&self.device),
            regions: Arc::clone(&self.regions),
            views: Arc::clone(&self.views()),
            granularity: self.queues.granularity,
        }
    }

    fn views(&self) -> MutexGuard<'_, Arc<[View]>> {
        // The list is replaced whole.
        self.views.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl RegisteredMemory for HostRegistered {
    fn regions(&self) -> &[DeviceRegion] {
        &self.regions
    }

    async fn gather(&self, request: TransferRequest) -> (HostBuf, Result<()>) {
        self.run(&self.queues.gather, request, |transfer, views, staging| gather(transfer, views, staging))
            .await
    }

    async fn scatter(&self, request: TransferRequest) -> (HostBuf, Result<()>) {
        self.run(&self.queues.scatter, request, |transfer, views, staging| scatter(transfer, views, staging))
            .await
    }

    fn copies_now(&self) -> bool {
        true
    }

    fn gather_now(&self, transfer: &Transfer, staging: &mut [u8]) -> Result<()> {
        self.queues.gather.run_now(&self.in_flight, transfer, |transfer| {
            gather(transfer, self.checked().views(transfer, staging.len())?, staging);
            Ok(())
        })
    }

    fn scatter_now(&self, transfer: &Transfer, staging: &[u8]) -> Result<()> {
        self.queues.scatter.run_now(&self.in_flight, transfer, |transfer| {
            scatter(transfer, self.checked().views(transfer, staging.len())?, staging);
            Ok(())
        })
    }

    async fn quiesce(&self) -> Result<()> {
        self.in_flight.quiesce().await;
        Ok(())
    }

    async fn close(&self) -> Result<()> {
        self.in_flight.close().await;
        *self.views() = Arc::new([]);
        Ok(())
    }
}

/// The mappings of a registration, for transfers that fit them.
struct Checked {
    device: Arc<str>,
    regions: Arc<[DeviceRegion]>,
    views: Arc<[View]>,
    granularity: Granularity,
}

impl Checked {
    fn views(&self, transfer: &Transfer, staging: usize) -> Result<&[View]> {
        check_granularity(&self.device, transfer, self.granularity)?;
        check_bounds(&self.device, transfer, &self.regions, staging)?;
        Ok(&self.views)
    }
}

/// Locks the allocation for each section only, beside other readers.
fn gather(transfer: &Transfer, views: &[View], staging: &mut [u8]) {
    for place in &transfer.sections {
        let view = &views[place.region as usize];
        let memory = view.memory.read();
        let memory = &memory[view.offset..view.offset + view.len][index(place.device)..];
        let section = &mut staging[index(place.staging)..];
        kernels::gather(&transfer.plan, place.kind, memory, section, Destination::Hot);
    }
}

/// Locks the allocation for each section only, alone.
fn scatter(transfer: &Transfer, views: &[View], staging: &[u8]) {
    for place in &transfer.sections {
        let view = &views[place.region as usize];
        let mut memory = view.memory.write();
        let memory = &mut memory[view.offset..view.offset + view.len][index(place.device)..];
        let section = &staging[index(place.staging)..];
        kernels::scatter(&transfer.plan, place.kind, section, memory, Destination::Cold);
    }
}

/// An offset inside a slice; one that no slice could have becomes the largest, which no slice has either.
fn index(offset: u64) -> usize {
    usize::try_from(offset).unwrap_or(usize::MAX)
}
