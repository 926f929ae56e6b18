//! The device keeps the contract: the suite sees it through an engine, as an engine's author would.
#![expect(clippy::unwrap_used, reason = "the engine of a test is test code too")]

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use custom_device::RamDevice;
use kv_device::conformance::{self, Engine, EngineFence, EngineMemory};
use kv_device::{Device, DeviceRegion, Fence, Result};

/// An engine on CPUs, with one device.
struct CpuEngine(Arc<RamDevice>);

/// Its memory: atomics, so that the engine's side needs no unsafe code.
#[derive(Debug)]
struct Memory(Vec<AtomicU8>);

/// Its fences: a thread of the engine reaches one.
#[derive(Debug, Default)]
struct Reached(Mutex<bool>, Condvar);

struct Signal(Arc<Reached>);

impl Engine for CpuEngine {
    fn device(&self) -> Arc<dyn Device> {
        Arc::<RamDevice>::clone(&self.0)
    }

    fn allocate(&self, bytes: usize) -> Result<Arc<dyn EngineMemory>> {
        Ok(Arc::new(Memory((0..bytes).map(|_| AtomicU8::new(0)).collect())))
    }

    fn fence(&self) -> Result<Box<dyn EngineFence>> {
        Ok(Box::new(Signal(Arc::default())))
    }

    /// Any address of the process may be the engine's: this device cannot tell.
    fn foreign_region(&self) -> Option<DeviceRegion> {
        None
    }
}

impl EngineMemory for Memory {
    fn region(&self) -> DeviceRegion {
        DeviceRegion { address: self.0.as_ptr().expose_provenance() as u64, len: self.0.len() as u64 }
    }

    fn read(&self, offset: usize, to: &mut [u8]) -> Result<()> {
        for (to, from) in to.iter_mut().zip(&self.0[offset..]) {
            *to = from.load(Ordering::Relaxed);
        }
        Ok(())
    }

    fn write(&self, offset: usize, from: &[u8]) -> Result<()> {
        for (to, from) in self.0[offset..].iter().zip(from) {
            to.store(*from, Ordering::Relaxed);
        }
        Ok(())
    }
}

impl Fence for Reached {
    fn wait(&self, timeout: Duration) -> Result<bool> {
        let pending = |reached: &mut bool| !*reached;
        Ok(*self.1.wait_timeout_while(self.0.lock().unwrap(), timeout, pending).unwrap().0)
    }
}

impl EngineFence for Signal {
    fn fence(&self) -> Arc<dyn Fence> {
        Arc::<Reached>::clone(&self.0)
    }

    fn signal(&self) {
        *self.0.0.lock().unwrap() = true;
        self.0.1.notify_all();
    }
}

impl Drop for Signal {
    fn drop(&mut self) {
        self.signal();
    }
}

#[tokio::test(flavor = "current_thread")]
async fn on_a_current_thread_runtime() {
    conformance::run(&CpuEngine(RamDevice::open().unwrap())).await.assert();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_a_multi_thread_runtime() {
    conformance::run(&CpuEngine(RamDevice::open().unwrap())).await.assert();
}

#[tokio::test]
async fn addresses_that_cannot_exist_are_refused() {
    let device = RamDevice::open().unwrap();
    for wrong in [
        DeviceRegion { address: 0, len: 1 },
        DeviceRegion { address: 1 << 20, len: u64::MAX },
        DeviceRegion { address: u64::MAX, len: 1 },
    ] {
        let regions = vec![DeviceRegion { address: 1 << 20, len: 1 }, wrong];
        let error = conformance_register(&*device, regions).expect_err("no such memory");
        assert_eq!(error.kind(), kv_device::ErrorKind::Invalid);
        assert!(error.to_string().contains("region 1"), "{error}");
    }
}

/// Registers regions that are expected to be refused, and are never used.
#[expect(unsafe_code, reason = "an engine makes the promise of registration")]
fn conformance_register(device: &dyn Device, regions: Vec<DeviceRegion>) -> Result<()> {
    // SAFETY: no transfer is made, so nothing reaches the regions.
    unsafe { device.register(regions) }.map(drop)
}
