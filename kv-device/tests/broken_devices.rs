//! The suite finds devices that break the contract: each breaks one sentence of it, and the check of that sentence fails.
#![expect(clippy::unwrap_used, reason = "devices of a test")]

mod support;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use kv_device::conformance::{self, Engine, EngineFence, EngineMemory, Report};
use kv_device::{
    Device, DeviceCapabilities, DeviceInfo, DeviceRegion, Error, ErrorKind, HostDevice, HostDeviceOptions,
    RegisteredMemory, Result, TransferRequest,
};
use kv_format::Transfer;
use kv_memory::{HostBuf, HostRegion};
use support::HostEngine;

/// What a device does wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    None,
    DropsTheBufferEarly,
    IgnoresFences,
    GathersTooMuch,
    ScattersTooMuch,
    LosesTheTail,
    ChecksWhileItMoves,
    AcceptsUnknownRegions,
    StaysOpen,
    CloseDoesNotWait,
    QuiesceDoesNotWait,
    TimeoutIsSuccess,
    SaysNothing,
    CopiesNowTooMuch,
    CopiesNowWhenClosed,
}

#[derive(Debug)]
struct Broken {
    host: Arc<HostDevice>,
    info: DeviceInfo,
    fault: Fault,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "broken {}", self.host)
    }
}

impl Device for Broken {
    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    fn capabilities(&self) -> DeviceCapabilities {
        self.host.capabilities()
    }

    fn allocate_staging(&self, bytes: usize) -> Result<Box<dyn HostRegion>> {
        self.host.allocate_staging(bytes)
    }

    unsafe fn register(&self, regions: Vec<DeviceRegion>) -> Result<Arc<dyn RegisteredMemory>> {
        // SAFETY: the caller's promise is the same.
        let registered = unsafe { self.host.register(regions.clone()) };
        let inner = match registered {
            Err(_) if self.fault == Fault::AcceptsUnknownRegions => {
                // SAFETY: no region is registered.
                unsafe { self.host.register(Vec::new()) }?
            }
            other => other?,
        };
        Ok(Arc::new(BrokenMemory { inner, fault: self.fault, closed: AtomicBool::new(false) }))
    }
}

#[derive(Debug)]
struct BrokenMemory {
    inner: Arc<dyn RegisteredMemory>,
    fault: Fault,
    closed: AtomicBool,
}

impl BrokenMemory {
    /// Spoils a request, moves, and spoils the result.
    async fn run(&self, mut request: TransferRequest, gathers: bool) -> (HostBuf, Result<()>) {
        if self.fault == Fault::CloseDoesNotWait && self.closed.load(Ordering::Acquire) {
            let error = Error::new(ErrorKind::Closed, "broken", "closed");
            return (request.staging, Err(error));
        }
        match self.fault {
            Fault::IgnoresFences => request.after = None,
            Fault::ChecksWhileItMoves => return self.one_by_one(request, gathers).await,
            Fault::DropsTheBufferEarly => return self.with_a_borrowed_buffer(request, gathers).await,
            Fault::ScattersTooMuch if !gathers => {
                // One section more than was asked for, in the neighbouring block.
                if let Some(mut extra) = request.transfer.sections.first().copied() {
                    extra.device += 128;
                    request.transfer.sections.push(extra);
                }
            }
            _ => {}
        }
        let transfer = request.transfer.clone();
        let before = request.staging.to_vec();
        let (mut staging, outcome) = self.move_all(request, gathers).await;
        if let (true, Ok(()), Some(place)) = (gathers, &outcome, transfer.sections.last()) {
            let from = usize::try_from(place.staging).unwrap();
            let end = from + usize::try_from(transfer.plan.section_bytes(place.kind)).unwrap();
            match self.fault {
                Fault::GathersTooMuch => staging[end] ^= 1,
                Fault::LosesTheTail => staging[end - 2..end].copy_from_slice(&before[end - 2..end]),
                _ => {}
            }
        }
        match outcome {
            Err(error) if self.fault == Fault::TimeoutIsSuccess && error.kind() == ErrorKind::Timeout => {
                (staging, Ok(()))
            }
            outcome => (staging, outcome),
        }
    }

    async fn move_all(&self, request: TransferRequest, gathers: bool) -> (HostBuf, Result<()>) {
        match gathers {
            true => self.inner.gather(request).await,
            false => self.inner.scatter(request).await,
        }
    }

    /// Moves section after section, and finds the wrong one late.
    async fn one_by_one(&self, request: TransferRequest, gathers: bool) -> (HostBuf, Result<()>) {
        let mut staging = request.staging;
        for place in request.transfer.sections {
            let part = TransferRequest {
                transfer: Transfer { plan: Arc::clone(&request.transfer.plan), sections: vec![place] },
                staging,
                after: request.after.clone(),
                fence_timeout: request.fence_timeout,
            };
            let (back, outcome) = self.move_all(part, gathers).await;
            staging = back;
            if outcome.is_err() {
                return (staging, outcome);
            }
        }
        (staging, Ok(()))
    }

    /// Keeps the caller's buffer in the future, where dropping the future frees it.
    async fn with_a_borrowed_buffer(&self, request: TransferRequest, gathers: bool) -> (HostBuf, Result<()>) {
        let mut request = request;
        let own = HostBuf::copy_of(&request.staging).unwrap();
        let mut lent = std::mem::replace(&mut request.staging, own);
        let (own, outcome) = self.move_all(request, gathers).await;
        lent.copy_from_slice(&own);
        (lent, outcome)
    }
}

#[async_trait]
impl RegisteredMemory for BrokenMemory {
    fn regions(&self) -> &[DeviceRegion] {
        self.inner.regions()
    }

    async fn gather(&self, request: TransferRequest) -> (HostBuf, Result<()>) {
        self.run(request, true).await
    }

    async fn scatter(&self, request: TransferRequest) -> (HostBuf, Result<()>) {
        self.run(request, false).await
    }

    fn copies_now(&self) -> bool {
        matches!(self.fault, Fault::CopiesNowTooMuch | Fault::CopiesNowWhenClosed)
    }

    fn gather_now(&self, transfer: &Transfer, staging: &mut [u8]) -> Result<()> {
        if !self.copies_now() {
            return Err(Error::new(ErrorKind::Unsupported, "broken", "not now"));
        }
        let outcome = self.inner.gather_now(transfer, staging);
        match (self.fault, outcome) {
            (Fault::CopiesNowTooMuch, Ok(())) => {
                staging.iter_mut().for_each(|byte| *byte ^= 1);
                Ok(())
            }
            (Fault::CopiesNowWhenClosed, Err(error)) if error.kind() == ErrorKind::Closed => Ok(()),
            (_, outcome) => outcome,
        }
    }

    fn scatter_now(&self, transfer: &Transfer, staging: &[u8]) -> Result<()> {
        match self.copies_now() {
            true => self.inner.scatter_now(transfer, staging),
            false => Err(Error::new(ErrorKind::Unsupported, "broken", "not now")),
        }
    }

    async fn quiesce(&self) -> Result<()> {
        match self.fault {
            Fault::QuiesceDoesNotWait => Ok(()),
            _ => self.inner.quiesce().await,
        }
    }

    async fn close(&self) -> Result<()> {
        self.closed.store(true, Ordering::Release);
        match self.fault {
            Fault::StaysOpen => self.inner.quiesce().await,
            Fault::CloseDoesNotWait => Ok(()),
            _ => self.inner.close().await,
        }
    }
}

async fn report(fault: Fault) -> Report {
    let engine = HostEngine::wrapped(HostDeviceOptions::default(), |host| {
        let mut info = host.info().clone();
        if fault == Fault::SaysNothing {
            info.kind.clear();
        }
        Arc::new(Broken { host, info, fault })
    });
    conformance::run(&engine).await
}

/// The checks in `must` fail, and no other does but those in `may`, which a race decides.
async fn finds(fault: Fault, must: &[&str], may: &[&str]) {
    let report = report(fault).await;
    let failed: Vec<_> = report.failures().map(|outcome| outcome.check).collect();
    for check in must {
        assert!(failed.contains(check), "{fault:?} should fail {check}:\n{report}");
    }
    for check in &failed {
        let known = must.contains(check) || may.contains(check);
        assert!(known, "{fault:?} should not fail {check}:\n{report}");
    }
}

#[tokio::test]
async fn a_wrapper_that_breaks_nothing_passes() {
    report(Fault::None).await.assert();
}

#[tokio::test]
async fn a_buffer_dropped_early() {
    let must =
        ["dropped_future_keeps_buffers_alive_in_gather", "dropped_future_keeps_buffers_alive_in_scatter"];
    finds(Fault::DropsTheBufferEarly, &must, &[]).await;
}

#[tokio::test]
async fn fences_ignored() {
    let must = [
        "gather_waits_for_its_fence",
        "scatter_waits_for_its_fence",
        "fence_timeout_moves_nothing",
        "failed_fence_moves_nothing",
        "one_direction_keeps_its_order",
    ];
    let may = [
        "native_fences_are_awaited",
        "dropped_future_keeps_buffers_alive_in_gather",
        "dropped_future_keeps_buffers_alive_in_scatter",
        "close_waits_and_then_refuses",
        "a_full_queue_makes_progress",
    ];
    finds(Fault::IgnoresFences, &must, &may).await;
}

#[tokio::test]
async fn bytes_written_outside() {
    let must = [
        "gather_moves_every_layout",
        "gather_waits_for_its_fence",
        "native_fences_are_awaited",
        "round_trip_between_layouts",
        "close_waits_and_then_refuses",
        "registrations_are_independent",
    ];
    finds(Fault::GathersTooMuch, &must, &[]).await;
    let must = [
        "scatter_moves_every_layout",
        "round_trip_between_layouts",
        "scatter_waits_for_its_fence",
        "dropped_future_keeps_buffers_alive_in_scatter",
        "one_direction_keeps_its_order",
        "a_full_queue_makes_progress",
    ];
    finds(Fault::ScattersTooMuch, &must, &[]).await;
}

#[tokio::test]
async fn the_tail_of_a_section_lost() {
    let must = [
        "gather_moves_every_layout",
        "gather_waits_for_its_fence",
        "native_fences_are_awaited",
        "round_trip_between_layouts",
        "close_waits_and_then_refuses",
        "registrations_are_independent",
    ];
    finds(Fault::LosesTheTail, &must, &[]).await;
}

#[tokio::test]
async fn bounds_checked_too_late() {
    let may = [
        "dropped_future_keeps_buffers_alive_in_gather",
        "dropped_future_keeps_buffers_alive_in_scatter",
        "close_waits_and_then_refuses",
        "one_direction_keeps_its_order",
        "a_full_queue_makes_progress",
    ];
    finds(Fault::ChecksWhileItMoves, &["out_of_bounds_is_invalid"], &may).await;
}

#[tokio::test]
async fn unknown_regions_accepted() {
    finds(Fault::AcceptsUnknownRegions, &["unknown_regions_are_refused"], &[]).await;
}

#[tokio::test]
async fn close_without_effect_or_without_waiting() {
    finds(Fault::StaysOpen, &["close_waits_and_then_refuses"], &[]).await;
    finds(Fault::CloseDoesNotWait, &["close_waits_and_then_refuses"], &[]).await;
    let must =
        ["dropped_future_keeps_buffers_alive_in_gather", "dropped_future_keeps_buffers_alive_in_scatter"];
    finds(Fault::QuiesceDoesNotWait, &must, &["a_full_queue_makes_progress"]).await;
}

/// An engine whose runtime says that the device does not reach its staging.
struct Unpinned(HostEngine);

impl Engine for Unpinned {
    fn device(&self) -> Arc<dyn Device> {
        self.0.device()
    }

    fn allocate(&self, bytes: usize) -> Result<Arc<dyn EngineMemory>> {
        self.0.allocate(bytes)
    }

    fn fence(&self) -> Result<Box<dyn EngineFence>> {
        self.0.fence()
    }

    fn reaches(&self, _: u64) -> Option<bool> {
        Some(false)
    }
}

#[tokio::test]
async fn staging_that_the_device_does_not_reach() {
    let engine = Unpinned(HostEngine::wrapped(HostDeviceOptions::default(), |host| host));
    let report = conformance::run(&engine).await;
    let failed: Vec<_> = report.failures().map(|outcome| outcome.check).collect();
    assert_eq!(failed, ["staging_is_memory"], "{report}");
}

#[tokio::test]
async fn copies_now_that_differ() {
    finds(Fault::CopiesNowTooMuch, &["copies_now_are_the_same_copies"], &[]).await;
    finds(Fault::CopiesNowWhenClosed, &["copies_now_are_refused_when_closed"], &[]).await;
}

#[tokio::test]
async fn errors_hidden_and_names_missing() {
    finds(Fault::TimeoutIsSuccess, &["fence_timeout_moves_nothing"], &[]).await;
    finds(Fault::SaysNothing, &["device_says_what_it_is"], &[]).await;
}
