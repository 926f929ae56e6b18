//! The bare loop: what a program does that knows only its files and NIXL's C interface.

use std::ffi::{c_char, c_int, c_uint, c_void};
use std::fs::{File, OpenOptions};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::ptr::{null, null_mut};
use std::time::{Duration, Instant};

use kv_memory::{HostBuf, StagingPool};
use libloading::Library;
use rustix::fs::{FallocateFlags, fallocate};

use crate::{LANES, Load, staged};

type Handle = *mut c_void;

const NAME: &std::ffi::CStr = c"bare";
const MEMORY: c_uint = 0;
const FILE: c_uint = 4;

/// An agent with one queue, and the staging registered.
pub(crate) struct Bare {
    library: Library,
    agent: Handle,
    arguments: Handle,
    directory: PathBuf,
}

/// An object under way.
struct Going {
    request: Handle,
    file: File,
    len: usize,
    buffers: Vec<HostBuf>,
}

/// Looks a function up and calls it.
macro_rules! call {
    ($bare:expr, $name:ident($($argument:expr => $type:ty),* $(,)?)) => {{
        // SAFETY: the types are those of NIXL's wrapper.h for this function.
        let function = unsafe {
            $bare.library.get::<unsafe extern "C" fn($($type),*) -> c_int>(concat!("nixl_capi_", stringify!($name)).as_bytes())
        };
        let function = function.unwrap();
        // SAFETY: handles come from the functions that make them, on one thread; texts end in NUL; buffers and files are kept in `Going`
        // until the library has said that their request is done.
        unsafe { function($($argument),*) }
    }};
}

/// The library that `KVBRIDGE_NIXL` names.
fn library() -> PathBuf {
    let named =
        PathBuf::from(std::env::var_os("KVBRIDGE_NIXL").unwrap_or_else(|| panic!("set KVBRIDGE_NIXL")));
    let wheel = named.join(".nixl_cu12.mesonpy.libs");
    [named.clone(), named.join("libnixl_capi.so"), wheel.join("libnixl_capi.so")]
        .into_iter()
        .find(|path| path.is_file())
        .unwrap_or_else(|| panic!("{} has no libnixl_capi.so", named.display()))
}

impl Bare {
    pub(crate) fn open(root: &Path, staging: &StagingPool) -> Self {
        let directory = root.join("bare");
        std::fs::create_dir_all(&directory).unwrap();
        // SAFETY: the initialisers of NIXL make no demands on when they run.
        let library = unsafe { Library::new(library()) }.unwrap();
        let mut bare = Self { library, agent: null_mut(), arguments: null_mut(), directory };
        // `nixl_capi_agent_config_t`: no threads, no synchronisation, one worker; 40 bytes.
        let settings: [u64; 5] = [0, 1 << 32, 0, 0, 0];
        let (agent, settings) = (&raw mut bare.agent, settings.as_ptr().cast());
        expect(
            call!(bare, create_configured_agent(NAME.as_ptr() => *const c_char, settings => *const c_void, agent => *mut Handle)),
        );
        let (mut parameters, mut backend) = (null_mut(), null_mut());
        expect(call!(bare, create_params(&raw mut parameters => *mut Handle)));
        let (key, value) = (c"use_uring".as_ptr(), c"true".as_ptr());
        expect(call!(bare, params_add(parameters => Handle, key => *const c_char, value => *const c_char)));
        let plugin = c"POSIX".as_ptr();
        expect(
            call!(bare, create_backend(bare.agent => Handle, plugin => *const c_char, parameters => Handle, &raw mut backend => *mut Handle)),
        );
        expect(call!(bare, create_opt_args(&raw mut bare.arguments => *mut Handle)));
        expect(call!(bare, opt_args_add_backend(bare.arguments => Handle, backend => Handle)));
        let region = staging.region();
        bare.register(MEMORY, region.base().as_ptr().expose_provenance(), region.len(), 0, true);
        bare
    }

    /// Saves and loads all objects.
    pub(crate) fn measure(&self, staging: &StagingPool, load: Load) -> [Duration; 2] {
        let took = [true, false].map(|save| {
            let mut idle = staged(staging, load);
            let started = Instant::now();
            let mut going: Vec<Going> = Vec::new();
            let mut next = 0;
            while next < load.objects || !going.is_empty() {
                while next < load.objects && going.len() < LANES {
                    going.push(self.begin(next, load.len, idle.pop().unwrap(), save));
                    next += 1;
                }
                let done = |of: &mut Going| {
                    call!(self, get_xfer_status(self.agent => Handle, of.request => Handle)) != 1
                };
                match going.iter_mut().position(done) {
                    Some(place) => idle.push(self.end(going.swap_remove(place))),
                    None => std::thread::yield_now(),
                }
            }
            started.elapsed()
        });
        std::fs::remove_dir_all(&self.directory).unwrap();
        std::fs::create_dir(&self.directory).unwrap();
        took
    }

    fn begin(&self, object: usize, len: usize, mut buffers: Vec<HostBuf>, save: bool) -> Going {
        let path = self.directory.join(object.to_string());
        let file = OpenOptions::new().read(true).write(save).create_new(save).open(path).unwrap();
        if save {
            fallocate(&file, FallocateFlags::empty(), 0, len as u64).unwrap();
        }
        let number = u64::from(file.as_raw_fd().unsigned_abs());
        self.register(FILE, 0, len, number, true);
        let (mut near, mut far, mut request) = (null_mut(), null_mut(), null_mut());
        expect(call!(self, create_xfer_dlist(MEMORY => c_uint, &raw mut near => *mut Handle)));
        expect(call!(self, create_xfer_dlist(FILE => c_uint, &raw mut far => *mut Handle)));
        let mut offset = 0;
        for buffer in &mut buffers {
            let address = buffer.as_mut_ptr().expose_provenance();
            expect(
                call!(self, xfer_dlist_add_desc(near => Handle, address => usize, buffer.len() => usize, 0 => u64)),
            );
            expect(
                call!(self, xfer_dlist_add_desc(far => Handle, offset => usize, buffer.len() => usize, number => u64)),
            );
            offset += buffer.len();
        }
        let way = c_uint::from(save);
        let name = NAME.as_ptr();
        expect(
            call!(self, create_xfer_req(self.agent => Handle, way => c_uint, near => Handle, far => Handle, name => *const c_char, &raw mut request => *mut Handle, self.arguments => Handle)),
        );
        expect(call!(self, destroy_xfer_dlist(near => Handle)));
        expect(call!(self, destroy_xfer_dlist(far => Handle)));
        let posted =
            call!(self, post_xfer_req(self.agent => Handle, request => Handle, null_mut() => Handle));
        assert!(posted >= 0, "posting answered {posted}");
        Going { request, file, len, buffers }
    }

    fn end(&self, going: Going) -> Vec<HostBuf> {
        let Going { request, file, len, buffers } = going;
        let status = call!(self, get_xfer_status(self.agent => Handle, request => Handle));
        expect(status);
        expect(call!(self, release_xfer_req(self.agent => Handle, request => Handle)));
        expect(call!(self, destroy_xfer_req(request => Handle)));
        self.register(FILE, 0, len, u64::from(file.as_raw_fd().unsigned_abs()), false);
        buffers
    }

    fn register(&self, kind: c_uint, address: usize, len: usize, device: u64, on: bool) {
        let mut list = null_mut();
        expect(call!(self, create_reg_dlist(kind => c_uint, &raw mut list => *mut Handle)));
        expect(
            call!(self, reg_dlist_add_desc(list => Handle, address => usize, len => usize, device => u64, null() => *const c_void, 0 => usize)),
        );
        expect(if on {
            call!(self, register_mem(self.agent => Handle, list => Handle, self.arguments => Handle))
        } else {
            call!(self, deregister_mem(self.agent => Handle, list => Handle, self.arguments => Handle))
        });
        expect(call!(self, destroy_reg_dlist(list => Handle)));
    }
}

impl Drop for Bare {
    fn drop(&mut self) {
        call!(self, destroy_agent(self.agent => Handle));
    }
}

fn expect(status: c_int) {
    assert_eq!(status, 0, "NIXL answered {status}");
}
