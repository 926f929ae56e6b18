//! The engine's side of a device, which whoever implements a device also writes for the suite.

use std::fmt::Debug;
use std::sync::Arc;

use crate::{Device, DeviceRegion, Fence, Result};

/// What an engine does with a device: it owns memory there, works in it, and makes fences.
///
/// The suite calls these from its own tasks and, inside [`Fence::wait`], from the threads of the device: they must not wait for a
/// transfer.
pub trait Engine: Send + Sync {
    /// The device under test.
    fn device(&self) -> Arc<dyn Device>;

    /// Allocates memory on the device.
    ///
    /// # Errors
    /// `OutOfMemory`; the suite needs a few MiB.
    fn allocate(&self, bytes: usize) -> Result<Arc<dyn EngineMemory>>;

    /// Makes a fence of the device's own type that is reached when [`EngineFence::signal`] is called.
    ///
    /// # Errors
    /// What the runtime says.
    fn fence(&self) -> Result<Box<dyn EngineFence>>;

    /// A region that is not memory of the device, to be refused; `None` if the device cannot tell, and checks nothing.
    fn foreign_region(&self) -> Option<DeviceRegion> {
        Some(DeviceRegion { address: 0x1000, len: 0x1000 })
    }

    /// Whether the device itself reaches this byte of host memory (pinned, registered, mapped), as its vendor's runtime says; `None` if
    /// there is nobody to ask. Copies of other memory pass through the processor, or fail.
    fn reaches(&self, address: u64) -> Option<bool> {
        let _ = address;
        None
    }
}

/// Memory of the device that the engine owns; the last reference frees it.
pub trait EngineMemory: Debug + Send + Sync + 'static {
    /// Where the device sees it.
    fn region(&self) -> DeviceRegion;

    /// The engine reads; the bytes are all inside.
    ///
    /// # Errors
    /// What the runtime says.
    fn read(&self, offset: usize, to: &mut [u8]) -> Result<()>;

    /// The engine writes; the bytes are all inside. They are visible to the device when it returns.
    ///
    /// # Errors
    /// What the runtime says.
    fn write(&self, offset: usize, from: &[u8]) -> Result<()>;
}

/// A fence that the suite reaches when it wants. Dropped without, it should be reached or fail, so that nothing waits forever.
pub trait EngineFence: Send + Sync {
    /// The fence for a transfer.
    fn fence(&self) -> Arc<dyn Fence>;

    /// The engine reaches the point.
    fn signal(&self);
}
