//! One agent of NIXL and what it moves. All calls of the library are here, from one thread.
//!
//! The library keeps the addresses that it is given and has no way to say when it has forgotten them, other than to answer that a transfer
//! is done or has failed. Until then what a transfer names belongs to its [`Request`], which nothing but that answer opens: a request that
//! is dropped before leaks its buffer and its file.
#![expect(unsafe_code, reason = "calls NIXL, and tells it addresses of buffers that requests own")]

use std::ffi::{CString, c_uint, c_void};
use std::mem::ManuallyDrop;
use std::os::fd::{AsRawFd, OwnedFd};
use std::ptr::null_mut;
use std::sync::Arc;

use kv_memory::{HostBuf, StagingPool};

use super::exit;
#[cfg(feature = "s3")]
use super::library::OBJECT;
use super::library::{AgentSettings, DONE, FILE, Functions, GOES_ON, Handle, MEMORY, READ, Status, WRITE};
use super::missing::Missing;

/// What is on the other side of a transfer.
#[derive(Debug, Clone)]
pub(crate) enum Target {
    /// An open file.
    File(Arc<OwnedFd>),
    /// An object by its whole key, and a number that no other transfer under way has.
    #[cfg(feature = "s3")]
    Object { key: Arc<str>, number: u64 },
}

/// Which way the bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// Into the buffer.
    In,
    /// Out of the buffer.
    Out,
}

/// One step: `len` bytes between `start` of the buffer and `offset` of the target.
#[derive(Debug)]
pub(super) struct Step {
    pub(super) target: Target,
    pub(super) way: Way,
    pub(super) offset: u64,
    pub(super) start: usize,
    pub(super) len: usize,
    pub(super) buffer: HostBuf,
}

/// A step that the library knows of.
pub(super) struct Request {
    handle: Handle,
    registered: Registered,
    step: ManuallyDrop<Step>,
}

/// What was registered for one step.
struct Registered {
    /// The target's side, and the buffer's if it is not in the staging that the agent knows.
    target: bool,
    buffer: bool,
}

/// What has come of a step.
pub(super) enum Polled {
    /// It goes on.
    GoesOn(Request),
    /// The library has let go of the buffer; `Err` has its status.
    Ended(Step, Result<(), Status>),
}

/// An agent with one plugin. Used and dropped on the thread that made it.
pub(super) struct Agent {
    functions: &'static Functions,
    name: CString,
    agent: Handle,
    backend: Handle,
    arguments: Handle,
    /// Staging that is registered, for as long as the agent lives.
    staging: Option<StagingPool>,
    under_way: usize,
}

/// Calls a function and answers its status.
macro_rules! call {
    ($functions:expr, $name:ident($($argument:expr),* $(,)?)) => {
        // SAFETY: `functions!` has the function's type from NIXL's header. Every handle comes from the function that makes its kind and goes
        // to the one that destroys it once; all calls of one agent are on its thread, as its setting `synchronisation: 0` asks. Texts are
        // NUL-terminated and, like structures and places for answers, outlive the call, which keeps copies of them (std::string, by value). What
        // it keeps beyond is the addresses of descriptors: those of staging, which the agent holds while it lives, and those of one step,
        // which its `Request` owns until the library has answered for it.
        unsafe { ($functions.$name)($($argument),*) }
    };
}

impl Agent {
    /// Makes an agent with the plugin, and registers the staging with it.
    pub(super) fn new(
        functions: &'static Functions,
        name: CString,
        plugin: &CString,
        parameters: &[(CString, CString)],
        staging: Option<StagingPool>,
    ) -> Result<Self, Missing> {
        let failed = |call: &'static str| {
            let plugin = plugin.to_string_lossy().into_owned();
            move |status: Status| Missing::Plugin {
                library: functions.library.clone(),
                plugin: plugin.clone(),
                call,
                status,
            }
        };
        let settings = AgentSettings {
            progress_thread: false,
            listener_thread: false,
            listener_port: 0,
            synchronisation: 0,
            workers: 1,
            progress_delay_us: 0,
            listener_delay_us: 0,
            telemetry: false,
        };
        let mut new = Self {
            functions,
            name,
            agent: null_mut(),
            backend: null_mut(),
            arguments: null_mut(),
            staging: None,
            under_way: 0,
        };
        let made = call!(
            functions,
            create_configured_agent(new.name.as_ptr(), &raw const settings, &raw mut new.agent)
        );
        done(made).map_err(failed("nixl_capi_create_configured_agent"))?;
        let mut given = null_mut();
        done(call!(functions, create_params(&raw mut given))).map_err(failed("nixl_capi_create_params"))?;
        let mut made = DONE;
        for (key, value) in parameters {
            made = made.min(call!(functions, params_add(given, key.as_ptr(), value.as_ptr())));
        }
        if made == DONE {
            made = call!(functions, create_backend(new.agent, plugin.as_ptr(), given, &raw mut new.backend));
        }
        call!(functions, destroy_params(given));
        done(made).map_err(failed("nixl_capi_create_backend"))?;
        exit::watch(plugin);
        done(call!(functions, create_opt_args(&raw mut new.arguments)))
            .map_err(failed("nixl_capi_create_opt_args"))?;
        done(call!(functions, opt_args_add_backend(new.arguments, new.backend)))
            .map_err(failed("nixl_capi_opt_args_add_backend"))?;
        if let Some(staging) = staging {
            let region = staging.region();
            let (base, len) = (region.base().as_ptr().addr(), region.len());
            new.register(MEMORY, (base, len, 0), &[], true).map_err(failed("nixl_capi_register_mem"))?;
            new.staging = Some(staging);
        }
        Ok(new)
    }

    /// Transfers that the library knows of.
    pub(super) fn under_way(&self) -> usize {
        self.under_way
    }

    /// Tells the library of a step, whose bytes lie in its buffer.
    pub(super) fn start(&mut self, mut step: Step) -> Polled {
        let address =
            step.buffer.get_mut(step.start..).map_or(null_mut(), <[u8]>::as_mut_ptr).expose_provenance();
        let near = (address, step.len, 0);
        let far = far(&step);
        let mut registered = Registered { target: false, buffer: false };
        let handle = self.request(&step, near, far, &mut registered);
        let request =
            |registered, step, handle| Request { handle, registered, step: ManuallyDrop::new(step) };
        match handle {
            Err(status) => {
                // The library has been told of memory and of files, and of no transfer.
                self.forget(&step, &registered);
                Polled::Ended(step, Err(status))
            }
            Ok(handle) => {
                self.under_way += 1;
                let posted = call!(self.functions, post_xfer_req(self.agent, handle, null_mut()));
                self.settle(request(registered, step, handle), posted)
            }
        }
    }

    /// Asks what has come of a request.
    pub(super) fn poll(&mut self, request: Request) -> Polled {
        let status = call!(self.functions, get_xfer_status(self.agent, request.handle));
        self.settle(request, status)
    }

    /// Opens a request whose step the library has answered.
    fn settle(&mut self, request: Request, status: Status) -> Polled {
        if status == GOES_ON {
            return Polled::GoesOn(request);
        }
        let Request { handle, registered, step } = request;
        call!(self.functions, release_xfer_req(self.agent, handle));
        call!(self.functions, destroy_xfer_req(handle));
        self.under_way -= 1;
        let step = ManuallyDrop::into_inner(step);
        self.forget(&step, &registered);
        Polled::Ended(step, done(status))
    }

    /// Registers what the step names, unless the agent knows it, and makes the request.
    fn request(
        &mut self,
        step: &Step,
        near: (usize, usize, u64),
        far: (usize, usize, u64),
        registered: &mut Registered,
    ) -> Result<Handle, Status> {
        if !self.in_staging(near.0, near.1) {
            self.register(MEMORY, near, &[], true)?;
            registered.buffer = true;
        }
        let (kind, text) = kind(&step.target);
        self.register(kind, far, text, true)?;
        registered.target = true;
        let near = self.list(MEMORY, near)?;
        let listed = self.list(kind, far).and_then(|far| {
            let mut handle = null_mut();
            let way = if step.way == Way::In { READ } else { WRITE };
            let name = self.name.as_ptr();
            let made = call!(
                self.functions,
                create_xfer_req(self.agent, way, near, far, name, &raw mut handle, self.arguments)
            );
            call!(self.functions, destroy_xfer_dlist(far));
            done(made).map(|()| handle)
        });
        call!(self.functions, destroy_xfer_dlist(near));
        listed
    }

    fn in_staging(&self, address: usize, len: usize) -> bool {
        self.staging.as_ref().is_some_and(|staging| {
            let base = staging.region().base().as_ptr().addr();
            base <= address && address + len <= base + staging.region().len()
        })
    }

    /// Registers, or takes back, one descriptor.
    fn register(
        &self,
        kind: c_uint,
        (address, len, device): (usize, usize, u64),
        text: &[u8],
        on: bool,
    ) -> Result<(), Status> {
        let mut list = null_mut();
        done(call!(self.functions, create_reg_dlist(kind, &raw mut list)))?;
        let about: *const c_void = text.as_ptr().cast();
        let mut status =
            call!(self.functions, reg_dlist_add_desc(list, address, len, device, about, text.len()));
        if status == DONE && on {
            status = call!(self.functions, register_mem(self.agent, list, self.arguments));
        } else if status == DONE {
            status = call!(self.functions, deregister_mem(self.agent, list, self.arguments));
        }
        call!(self.functions, destroy_reg_dlist(list));
        done(status)
    }

    /// Takes back what was registered for a step. What the library does not take back it keeps in its books, and nothing else.
    fn forget(&self, step: &Step, registered: &Registered) {
        let (kind, text) = kind(&step.target);
        if registered.target {
            let _ = self.register(kind, far(step), text, false);
        }
        if registered.buffer {
            let address = step.buffer.get(step.start..).map_or(0, |bytes| bytes.as_ptr().addr());
            let _ = self.register(MEMORY, (address, step.len, 0), &[], false);
        }
    }

    /// A list of one descriptor.
    fn list(&self, kind: c_uint, (address, len, device): (usize, usize, u64)) -> Result<Handle, Status> {
        let mut list = null_mut();
        done(call!(self.functions, create_xfer_dlist(kind, &raw mut list)))?;
        let added = done(call!(self.functions, xfer_dlist_add_desc(list, address, len, device)));
        if added.is_err() {
            call!(self.functions, destroy_xfer_dlist(list));
        }
        added.map(|()| list)
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        if self.under_way > 0 {
            // The library still moves bytes: it keeps what it needs for that, and the staging its memory.
            let _leaked = ManuallyDrop::new(self.staging.take());
            return;
        }
        let Some(_destroying) = exit::destroying() else {
            let _leaked = ManuallyDrop::new(self.staging.take());
            return;
        };
        for (handle, destroy) in [
            (self.arguments, self.functions.destroy_opt_args),
            (self.backend, self.functions.destroy_backend),
            (self.agent, self.functions.destroy_agent),
        ] {
            if !handle.is_null() {
                // SAFETY: as in `call!`: each handle goes to the function that destroys its kind, once, and no transfer is under way.
                unsafe { destroy(handle) };
            }
        }
    }
}

fn done(status: Status) -> Result<(), Status> {
    if status == DONE { Ok(()) } else { Err(status) }
}

/// The target's kind, and the text that goes with it.
fn kind(target: &Target) -> (c_uint, &[u8]) {
    match target {
        Target::File(_) => (FILE, &[]),
        #[cfg(feature = "s3")]
        Target::Object { key, .. } => (OBJECT, key.as_bytes()),
    }
}

/// The target's side of a step: an offset stands where addresses do, and a file's number or an object's where devices do.
fn far(step: &Step) -> (usize, usize, u64) {
    let device = match &step.target {
        Target::File(file) => u64::from(file.as_raw_fd().unsigned_abs()),
        #[cfg(feature = "s3")]
        Target::Object { number, .. } => *number,
    };
    // Addresses have 64 bits wherever NIXL runs.
    (usize::try_from(step.offset).unwrap_or(usize::MAX), step.len, device)
}
