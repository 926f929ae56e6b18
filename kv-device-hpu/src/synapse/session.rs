//! The one device that a process can have: acquired by us (tools), or by the engine around us.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use kv_device::{Error, ErrorKind, Result};

use super::runtime::{Runtime, text};
use super::{DeviceType, VendorError};
use crate::sabotage::{Break, Sabotage};
use crate::sys::{DEVICE_INFO_BYTES, DeviceFacts, DeviceId, ModuleId, Status, Symbols};

/// Whose device it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Mode {
    /// The engine's in this process: nothing here acquires, releases or ends anything.
    Attached,
    /// Ours: acquired when opened, released when everything that uses it is dropped.
    Owned,
}

/// Which device to acquire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Selector {
    /// This module.
    Module(ModuleId),
    /// Any free device of this type.
    Type(DeviceType),
    /// Any free device.
    Any,
}

/// The process's device. What it gives holds a reference to it; the last one dropped releases an owned device.
#[derive(Debug)]
pub struct Session {
    runtime: Runtime,
    device: DeviceId,
    mode: Mode,
    label: String,
    lost: AtomicBool,
    sabotage: Sabotage,
}

impl Session {
    /// The device that the engine in this process has acquired.
    ///
    /// # Errors
    /// [`Unavailable`](ErrorKind::Unavailable) if there is none.
    pub fn attach(runtime: &Runtime, sabotage: Sabotage) -> Result<Arc<Self>> {
        // A process has one device, and its id is 0.
        let session = Self::of(runtime, 0, Mode::Attached, sabotage);
        if sabotage.breaks(Break::AcquireInAttach) {
            session.acquire(Selector::Any)?;
        }
        match session.facts() {
            Ok(_) => Ok(Arc::new(session)),
            Err(error) if status_of(&error) == Some(Status::FAIL) => {
                let message = "no device is acquired in this process: attach after the engine has acquired its device (in PyTorch, after the first use of `hpu`), or open one of your own";
                Err(Error::new(ErrorKind::Unavailable, &session.label, message).with_source(error))
            }
            Err(error) => Err(error),
        }
    }

    /// Acquires a device, for a process without an engine.
    ///
    /// # Errors
    /// [`Unavailable`](ErrorKind::Unavailable) if the host has no such device, another process holds it, or this process has one.
    pub fn own(runtime: &Runtime, selector: Selector, sabotage: Sabotage) -> Result<Arc<Self>> {
        let modules = runtime.modules()?;
        // Not ours before it was acquired.
        let session = Self::of(runtime, 0, Mode::Attached, sabotage);
        if modules.is_empty() {
            if sabotage.breaks(Break::DestroyAfterFailedProbe) {
                // SAFETY: no arguments.
                let _ = unsafe { (session.symbols().destroy)() };
            }
            let message = format!(
                "{} (driver {}) finds no device on this host: load the kernel's driver (lsmod | grep habanalabs), and give the container its devices",
                runtime.library(),
                runtime.version()
            );
            return Err(Error::new(ErrorKind::Unavailable, &session.label, message));
        }
        let device = session.acquire(selector)?;
        Ok(Arc::new(Self::of(runtime, device, Mode::Owned, sabotage)))
    }

    fn of(runtime: &Runtime, device: DeviceId, mode: Mode, sabotage: Sabotage) -> Self {
        let label = format!("hpu:{device}");
        Self { runtime: runtime.clone(), device, mode, label, lost: AtomicBool::new(false), sabotage }
    }

    fn acquire(&self, selector: Selector) -> Result<DeviceId> {
        let mut device = DeviceId::MAX;
        let acquire = |kind: DeviceType, device: *mut DeviceId| {
            // SAFETY: the pointer is to one id, for the answer.
            unsafe { (self.symbols().device_acquire_by_type)(device, kind.code()) }
        };
        match selector {
            Selector::Module(module) => {
                // SAFETY: the pointer is to one id, for the answer.
                let status = unsafe { (self.symbols().device_acquire_by_module_id)(&raw mut device, module) };
                self.check("synDeviceAcquireByModuleId", status)?;
            }
            Selector::Type(kind) => {
                self.check("synDeviceAcquireByDeviceType", acquire(kind, &raw mut device))?;
            }
            Selector::Any => {
                let mut status = acquire(DeviceType::Gaudi3, &raw mut device);
                if status == Status::NO_DEVICE_FOUND {
                    status = acquire(DeviceType::Gaudi2, &raw mut device);
                }
                self.check("synDeviceAcquireByDeviceType", status)?;
            }
        }
        Ok(device)
    }

    /// The loaded library.
    pub fn runtime(&self) -> &Runtime {
        &self.runtime
    }

    /// Whose device it is.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// Whether the device has failed: a new process is needed, and calls may hang.
    pub fn is_lost(&self) -> bool {
        self.lost.load(Ordering::Acquire)
    }

    /// Declares the device lost: nobody can tell any more what it does.
    pub(crate) fn give_up(&self) {
        self.lost.store(true, Ordering::Release);
    }

    /// Addresses, size and type of the device.
    ///
    /// # Errors
    /// What the runtime says; [`VendorError`] with `synFail` if no device is acquired.
    pub fn facts(&self) -> Result<DeviceFacts> {
        let mut bytes = [0; DEVICE_INFO_BYTES];
        // SAFETY: the room is larger than the struct of any release.
        let status = unsafe { (self.symbols().device_get_info)(self.device, bytes.as_mut_ptr().cast()) };
        self.check("synDeviceGetInfoV2", status)?;
        Ok(DeviceFacts::from_bytes(&bytes))
    }

    /// Free and total bytes of device memory.
    ///
    /// # Errors
    /// What the runtime says.
    pub fn memory(&self) -> Result<(u64, u64)> {
        let (mut free, mut total) = (0, 0);
        // SAFETY: each pointer is to one u64.
        let status =
            unsafe { (self.symbols().device_get_memory_info)(self.device, &raw mut free, &raw mut total) };
        self.check("synDeviceGetMemoryInfo", status)?;
        Ok((free, total))
    }

    /// The device's name.
    ///
    /// # Errors
    /// What the runtime says.
    pub fn name(&self) -> Result<String> {
        let name = text(|room, bytes| {
            // SAFETY: `room` has the number of bytes that is passed.
            unsafe { (self.symbols().device_get_name)(room, i32::from(bytes), self.device) }
        });
        name.or_else(|status| self.check("synDeviceGetName", status).map(|()| String::new()))
    }

    /// The device's PCI address, such as `0000:19:00.0`.
    ///
    /// # Errors
    /// What the runtime says.
    pub fn pci_address(&self) -> Result<String> {
        let address = text(|room, bytes| {
            // SAFETY: `room` has the number of bytes that is passed.
            unsafe { (self.symbols().device_get_pci_bus_id)(room, i32::from(bytes), self.device) }
        });
        address.or_else(|status| self.check("synDeviceGetPCIBusId", status).map(|()| String::new()))
    }

    pub(super) fn symbols(&self) -> &Symbols {
        self.runtime.symbols()
    }

    pub(super) fn id(&self) -> DeviceId {
        self.device
    }

    pub(crate) fn sabotage(&self) -> Sabotage {
        self.sabotage
    }

    /// Gives something back, from a drop, where nobody hears of a failure: asked twice, since what is not given back stays with the
    /// process. After a failure of the device calls may hang, and the process's end gives all back.
    pub(super) fn give_back(&self, call: impl Fn() -> Status) {
        if !self.is_lost() && call() != Status::SUCCESS && !self.is_lost() {
            let _ = call();
        }
    }

    /// Success, or the error of `call`; remembers that the device is lost.
    pub(super) fn check(&self, call: &'static str, status: Status) -> Result<()> {
        if self.sabotage.breaks(Break::IgnoreStatus) {
            return Ok(());
        }
        let checked = self.runtime.check(&self.label, call, status);
        if checked.as_ref().is_err_and(|error| error.kind() == ErrorKind::DeviceLost) {
            self.lost.store(true, Ordering::Release);
        }
        checked
    }
}

impl fmt::Display for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.label)
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let breaks = self.sabotage.breaks(Break::ReleaseInAttach);
        let keeps = self.sabotage.breaks(Break::KeepDevice);
        if self.mode == Mode::Owned && !keeps || breaks {
            // SAFETY: this session acquired the device, and all that uses it holds a reference to the session, so nothing does.
            self.give_back(|| unsafe { (self.symbols().device_release)(self.device) });
        }
    }
}

/// The runtime's code under an error.
pub(crate) fn status_of(error: &Error) -> Option<Status> {
    let source = std::error::Error::source(error)?;
    Some(source.downcast_ref::<VendorError>()?.status)
}
