//! How NIXL is loaded and used.

use std::path::PathBuf;

/// Options of NIXL, wherever it moves the bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct NixlOptions {
    /// The library `libnixl_capi.so`, the folder that it is in, or a site-packages folder with a wheel of NIXL. Default `None`: the variable
    /// `KVBRIDGE_NIXL`, which names the same; else a library that is loaded already, the loader's folders, the wheels of the Python
    /// environments that `VIRTUAL_ENV`, `CONDA_PREFIX`, `PYTHONPATH` and the home directory name, and those of the system.
    pub library: Option<PathBuf>,
    /// Most bytes of one descriptor: a longer buffer is moved in so many steps. Default 8 MiB.
    pub descriptor_bytes: usize,
    /// Parameters of the plugin, before which the store's own stand back. NIXL's plugins document theirs.
    pub parameters: Vec<(String, String)>,
}

impl Default for NixlOptions {
    fn default() -> Self {
        Self { library: None, descriptor_bytes: 8 << 20, parameters: Vec::new() }
    }
}

impl NixlOptions {
    /// Sets where the library is.
    #[must_use]
    pub fn library(mut self, path: impl Into<PathBuf>) -> Self {
        self.library = Some(path.into());
        self
    }

    /// Sets the most bytes of one descriptor.
    #[must_use]
    pub fn descriptor_bytes(mut self, bytes: usize) -> Self {
        self.descriptor_bytes = bytes;
        self
    }

    /// Sets a parameter of the plugin.
    #[must_use]
    pub fn parameter(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.parameters.push((key.into(), value.into()));
        self
    }
}
