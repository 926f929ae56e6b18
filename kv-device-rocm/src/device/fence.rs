//! Points in an engine's own streams.
#![expect(unsafe_code, reason = "an engine's stream is a promise of the caller")]

use std::ffi::c_void;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kv_device::{Fence, Result};

use super::RocmDevice;
use crate::hip::Event;

/// Looks at an event before the thread sleeps between two.
const LOOKS: u32 = 64;
/// Longest sleep between two looks at an event.
const NAP: Duration = Duration::from_micros(50);

/// A `hipStream_t` of an engine: in PyTorch, `torch.cuda.current_stream().cuda_stream`. Null is the device's null stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EngineStream(pub *mut c_void);

/// A point in an engine's stream, for [`TransferRequest::after`](kv_device::TransferRequest::after).
///
/// The thread of the transfer's direction looks at it until it is reached or the time is over. HIP cannot take a wait back that a
/// stream was told, and a transfer whose fence is late must move nothing, so the stream is not told.
#[derive(Debug)]
pub struct RocmFence {
    event: Event,
}

impl RocmDevice {
    /// A fence behind all that the engine has queued on `stream` so far.
    ///
    /// # Errors
    /// `Vendor` if the stream is another device's; `DeviceLost`.
    ///
    /// # Safety
    /// `stream` is a live stream of this device.
    pub unsafe fn fence_after(&self, stream: EngineStream) -> Result<Arc<RocmFence>> {
        let event = Event::create(&self.shared.hip)?;
        // SAFETY: the caller's promise.
        unsafe { event.record_on(stream.0) }?;
        Ok(Arc::new(RocmFence { event }))
    }
}

impl Fence for RocmFence {
    fn wait(&self, timeout: Duration) -> Result<bool> {
        let started = Instant::now();
        let mut looks = 0;
        while !self.event.reached()? {
            if started.elapsed() >= timeout {
                return Ok(false);
            }
            looks += 1;
            if looks > LOOKS {
                // Nobody wakes this thread: an event tells nobody that it was reached.
                std::thread::park_timeout(NAP.min(timeout));
            } else {
                std::hint::spin_loop();
            }
        }
        Ok(true)
    }
}
