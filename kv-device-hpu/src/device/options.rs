//! How to open a device.

use std::path::PathBuf;

use kv_device::Result;

use crate::sabotage::Sabotage;
use crate::synapse::{DeviceType, Runtime};

/// How to open an [`HpuDevice`](crate::HpuDevice).
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct HpuOptions {
    /// The library to load instead of the one that [`LIBRARY_VARIABLE`](crate::synapse::LIBRARY_VARIABLE) names or that is installed.
    pub library: Option<PathBuf>,
    /// The type that the device must be of; any if none.
    pub expected_type: Option<DeviceType>,
    /// Transfers that may wait in the queue of one direction; callers wait beyond it.
    pub queue_depth: usize,
    /// Smallest row worth a descriptor of its own, in bytes: what is shorter is interleaved on the host where longer rows can be had.
    /// Shorter rows are moved all the same. Not measured on hardware: the unit in which the engines' DMA descriptors stop to dominate is
    /// taken to be a page.
    pub min_row_bytes: u64,
    /// For this crate's tests.
    #[doc(hidden)]
    pub sabotage: Sabotage,
}

impl Default for HpuOptions {
    fn default() -> Self {
        Self {
            library: None,
            expected_type: None,
            queue_depth: 32,
            min_row_bytes: 4096,
            sabotage: Sabotage::default(),
        }
    }
}

impl Runtime {
    /// Loads the library that the options name.
    pub(super) fn load_from_options(options: &HpuOptions) -> Result<Self> {
        match &options.library {
            Some(library) => Self::load_from(Some(library)),
            None => Self::load(),
        }
    }
}
