//! HIP with results: every call checked, every object freed by its owner. What it does not check is who else uses the memory.

mod api;
mod error;
mod identity;
mod memory;
mod module;
mod queue;
mod rtc;
mod runtime;

pub use error::VendorError;
pub use identity::Identity;
pub use runtime::{CUDA_VARIABLE, HIP_VARIABLE, Runtime, Vendor, Versions};

pub(crate) use api::{Hip, Kind};
pub(crate) use memory::{DeviceBuffer, PinnedRegion};
pub(crate) use module::{Function, Module};
pub(crate) use queue::{Event, Piece, Stream, lost};
pub(crate) use rtc::compile;
