//! An engine's memory in the care of a host device.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use kv_format::kernels::{self, Destination};
use kv_format::{SectionPlace, Transfer};
use kv_memory::HostBuf;

use super::Queues;
use super::directory::View;
use crate::parts::{InFlight, TransferQueue, check_bounds, check_granularity};
use crate::{DeviceRegion, RegisteredMemory, Result, TransferRequest};

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

    /// Queues a transfer that moves its sections one by one with `copy`, after everything about it was checked.
    async fn run(
        &self,
        queue: &TransferQueue,
        request: TransferRequest,
        copy: fn(&Transfer, SectionPlace, &View, &mut [u8]),
    ) -> (HostBuf, Result<()>) {
        // Closing empties the list after it refuses transfers: one that is let in has the views.
        let views = Arc::clone(&self.views());
        let (device, regions) = (Arc::clone(&self.device), Arc::clone(&self.regions));
        let granularity = self.queues.granularity;
        let work = move |transfer: &Transfer, staging: &mut HostBuf| {
            check_granularity(&device, transfer, granularity)?;
            check_bounds(&device, transfer, &regions, staging.len())?;
            for place in &transfer.sections {
                copy(transfer, *place, &views[place.region as usize], staging);
            }
            Ok(())
        };
        queue.run(&self.in_flight, request, work).await
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
        self.run(&self.queues.gather, request, gather_section).await
    }

    async fn scatter(&self, request: TransferRequest) -> (HostBuf, Result<()>) {
        self.run(&self.queues.scatter, request, scatter_section).await
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

/// Locks the allocation for this section only, beside other readers.
fn gather_section(transfer: &Transfer, place: SectionPlace, view: &View, staging: &mut [u8]) {
    let memory = view.memory.read();
    let memory = &memory[view.offset..view.offset + view.len][index(place.device)..];
    let section = &mut staging[index(place.staging)..];
    kernels::gather(&transfer.plan, place.kind, memory, section, Destination::Hot);
}

/// Locks the allocation for this section only, alone.
fn scatter_section(transfer: &Transfer, place: SectionPlace, view: &View, staging: &mut [u8]) {
    let mut memory = view.memory.write();
    let memory = &mut memory[view.offset..view.offset + view.len][index(place.device)..];
    let section = &staging[index(place.staging)..];
    kernels::scatter(&transfer.plan, place.kind, section, memory, Destination::Cold);
}

/// An offset inside a slice; one that no slice could have becomes the largest, which no slice has either.
fn index(offset: u64) -> usize {
    usize::try_from(offset).unwrap_or(usize::MAX)
}
