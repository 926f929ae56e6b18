//! Code objects and the kernels in them.
#![expect(unsafe_code, reason = "calls HIP")]

use std::ffi::CStr;
use std::ptr;
use std::sync::Arc;

use kv_device::Result;

use super::api::Hip;
use crate::sys::Handle;

/// A loaded code object.
#[derive(Debug)]
pub(crate) struct Module {
    hip: Arc<Hip>,
    raw: Handle,
}

// SAFETY: HIP's functions may be called with a module from any thread.
unsafe impl Send for Module {}
// SAFETY: as above; looking a function up is a read.
unsafe impl Sync for Module {}

/// A kernel; it keeps its module loaded.
#[derive(Debug)]
pub(crate) struct Function {
    module: Arc<Module>,
    raw: Handle,
}

// SAFETY: as for the module.
unsafe impl Send for Function {}
// SAFETY: as for the module.
unsafe impl Sync for Function {}

impl Module {
    /// Loads a code object for the device.
    pub(crate) fn load(hip: &Arc<Hip>, image: &[u8]) -> Result<Arc<Self>> {
        let _current = hip.current()?;
        let mut raw = ptr::null_mut();
        // SAFETY: "Builds module from code object which resides in host memory", an ELF file that tells its own length; every image
        // is whole, ours or the compiler's. HIP keeps no reference to it once it has returned.
        let code = unsafe { (hip.table.module_load)(&raw mut raw, image.as_ptr().cast()) };
        hip.check("hipModuleLoadData", code, "cannot load the gather and scatter kernels")?;
        Ok(Arc::new(Self { hip: Arc::clone(hip), raw }))
    }

    /// A kernel of the module.
    pub(crate) fn function(self: &Arc<Self>, name: &CStr) -> Result<Function> {
        let mut raw = ptr::null_mut();
        // SAFETY: "Function with kname will be extracted if present in module": the module is alive and the name a C string.
        let code = unsafe { (self.hip.table.module_function)(&raw mut raw, self.raw, name.as_ptr()) };
        self.hip.check(
            "hipModuleGetFunction",
            code,
            &format!("the kernels lack {}", name.to_string_lossy()),
        )?;
        Ok(Function { module: Arc::clone(self), raw })
    }
}

impl Function {
    pub(super) fn raw(&self) -> Handle {
        debug_assert!(!self.module.raw.is_null(), "a loaded module has a handle");
        self.raw
    }
}

impl Drop for Module {
    fn drop(&mut self) {
        let _current = self.hip.current();
        // SAFETY: this value owns the module; kernels keep it, and whoever launched one waits for it first.
        let _ = unsafe { (self.hip.table.module_unload)(self.raw) };
    }
}
