//! The third level: an Intel Gaudi accelerator as a [`Device`], safe but for the one promise of [`Device::register`].

mod copies;
mod fence;
mod identity;
mod lane;
mod memory;
mod options;
mod regions;
mod registered;

use std::fmt;
use std::sync::Arc;

use kv_device::{
    Device, DeviceCapabilities, DeviceInfo, DeviceRegion, Error, ErrorKind, Granularity, RegisteredMemory,
    Result, TransferCounts,
};
use kv_memory::HostRegion;

pub use fence::SynapseFence;
pub use identity::HpuIdentity;
pub use memory::HpuMemory;
pub use options::HpuOptions;

use crate::synapse::{DeviceType, Direction, MappedPages, Mode, Runtime, Selector, Session};
use lane::Lane;
use regions::Addresses;
use registered::HpuRegistered;

/// Transfers of one direction that callers should keep in flight: two are with the device, one is ready behind them.
const CONCURRENCY: usize = 3;

/// An Intel Gaudi accelerator: one stream and one thread for each direction.
///
/// Dropped, it ends its threads after what was queued; streams, mappings and, if it is its own, the device are returned when all that
/// uses them is gone.
#[derive(Debug)]
pub struct HpuDevice {
    info: DeviceInfo,
    identity: HpuIdentity,
    session: Arc<Session>,
    addresses: Addresses,
    lanes: Arc<Lanes>,
    granularity: Granularity,
}

/// A stream and its thread for each direction.
#[derive(Debug)]
struct Lanes {
    gather: Lane,
    scatter: Lane,
}

impl HpuDevice {
    /// Takes part in the device that the engine in this process has acquired: for use beside PyTorch. Nothing here acquires, releases or
    /// ends anything of the engine's.
    ///
    /// # Errors
    /// [`Unavailable`](ErrorKind::Unavailable) without the library, of an old one, before the engine has acquired a device, or if the
    /// device is not of the expected type; [`OutOfMemory`](ErrorKind::OutOfMemory) and [`Vendor`](ErrorKind::Vendor) as the runtime says.
    pub fn attach(options: &HpuOptions) -> Result<Arc<Self>> {
        let runtime = Runtime::load_from_options(options)?;
        let session = Session::attach(&runtime, options.sabotage)?;
        Self::open(session, options)
    }

    /// Acquires a device for itself, and releases it at the end: for tools, in a process without an engine. A process can have one.
    ///
    /// # Errors
    /// As [`attach`](Self::attach); [`Unavailable`](ErrorKind::Unavailable) if no such device is free.
    pub fn own(selector: Selector, options: &HpuOptions) -> Result<Arc<Self>> {
        let runtime = Runtime::load_from_options(options)?;
        let session = Session::own(&runtime, selector, options.sabotage)?;
        Self::open(session, options)
    }

    fn open(session: Arc<Session>, options: &HpuOptions) -> Result<Arc<Self>> {
        let facts = session.facts()?;
        let identity = HpuIdentity::read(&session, &facts)?;
        options.check_type(&session, &identity)?;
        let start = |direction| Lane::start(&session, direction, options.queue_depth);
        let lanes = Lanes { gather: start(Direction::ToHost)?, scatter: start(Direction::ToDevice)? };
        let ordinal = u32::from(facts.device_index);
        Ok(Arc::new(Self {
            info: DeviceInfo { kind: "hpu".into(), name: identity.name.clone(), ordinal },
            identity,
            addresses: Addresses::new(&facts, session.mode()),
            session,
            lanes: Arc::new(lanes),
            granularity: Granularity::Rows { min_bytes: options.min_row_bytes.max(1) },
        }))
    }

    /// Name, type, memory, PCI address and versions.
    pub fn identity(&self) -> &HpuIdentity {
        &self.identity
    }

    /// The level below, for an engine that uses the runtime through this crate.
    pub fn session(&self) -> &Arc<Session> {
        &self.session
    }

    /// What was moved so far.
    pub fn counts(&self) -> TransferCounts {
        TransferCounts { gathered: self.lanes.gather.moved(), scattered: self.lanes.scatter.moved() }
    }

    /// Allocates device memory, for tools and examples that have no engine.
    ///
    /// # Errors
    /// [`OutOfMemory`](ErrorKind::OutOfMemory) if there is not so much; what the runtime says.
    pub fn allocate(&self, bytes: usize) -> Result<HpuMemory> {
        HpuMemory::allocate(&self.session, bytes)
    }
}

impl fmt::Display for HpuDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.session.fmt(f)
    }
}

impl Device for HpuDevice {
    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    fn capabilities(&self) -> DeviceCapabilities {
        DeviceCapabilities { granularity: self.granularity, concurrency: CONCURRENCY }
    }

    fn allocate_staging(&self, bytes: usize) -> Result<Box<dyn HostRegion>> {
        Ok(Box::new(MappedPages::allocate(&self.session, bytes)?))
    }

    #[expect(unsafe_code, reason = "implements the contract, and passes its promise on")]
    unsafe fn register(&self, regions: Vec<DeviceRegion>) -> Result<Arc<dyn RegisteredMemory>> {
        if !self.session.sabotage().breaks(crate::sabotage::Break::TrustAddresses) {
            self.addresses.check(&self.session, &regions)?;
        }
        // SAFETY: the caller makes the same promise to us.
        let registered = unsafe { HpuRegistered::new(&self.session, &self.lanes, regions) };
        Ok(Arc::new(registered))
    }
}

impl HpuOptions {
    /// Whether the device is of the expected type.
    fn check_type(&self, session: &Arc<Session>, identity: &HpuIdentity) -> Result<()> {
        let Some(expected) = self.expected_type.filter(|expected| *expected != identity.device_type) else {
            return Ok(());
        };
        Err(type_mismatch(session, expected, identity))
    }
}

/// The error of a device of another type: both sides by name.
fn type_mismatch(session: &Arc<Session>, expected: DeviceType, identity: &HpuIdentity) -> Error {
    let HpuIdentity { name, device_type, pci_address, driver_version, .. } = identity;
    let whose = match session.mode() {
        Mode::Attached => "the engine's device",
        Mode::Owned => "the acquired device",
    };
    let message = format!(
        "Device type mismatch: expected {expected}, found {device_type} ({whose} {name} at {pci_address}, driver {driver_version}): change the configuration's device type, or run on a host with {expected}"
    );
    Error::new(ErrorKind::Unavailable, session, message)
}
