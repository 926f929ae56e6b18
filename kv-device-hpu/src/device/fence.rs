//! A point in the work of an engine's stream.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use kv_device::{Fence, Result};

use super::HpuDevice;
use crate::sabotage::Break;
use crate::synapse::{Event, Stream};
use crate::sys::Handle;

/// Pauses between two looks at an event: the runtime has no wait with a deadline.
const FIRST_PAUSE: Duration = Duration::from_micros(5);
const LONGEST_PAUSE: Duration = Duration::from_micros(200);

/// What an engine had given to a stream when the fence was made: `synEventRecord` on its compute stream.
///
/// The device's threads look at the event until the deadline, so that nothing is given to a stream that could not be taken back, and
/// then order their own stream behind it (`synStreamWaitEvent`).
#[derive(Debug)]
pub struct SynapseFence {
    event: Event,
}

impl SynapseFence {
    /// A fence behind the work so far of an engine's stream. In lazy mode PyTorch must have submitted it: `htorch.core.mark_step()`.
    ///
    /// # Errors
    /// [`Invalid`](kv_device::ErrorKind::Invalid) for what is no stream of the device; what the runtime says.
    ///
    /// # Safety
    /// `stream` is the handle of a stream of this process's device (`_experimental_C.compute_stream()` in PyTorch) that is not being
    /// destroyed.
    #[expect(unsafe_code, reason = "passes the promise about the engine's stream on")]
    pub unsafe fn record(device: &HpuDevice, stream: Handle) -> Result<Arc<Self>> {
        let event = Event::new(&device.session)?;
        if !device.session.sabotage().breaks(Break::SkipRecord) {
            // SAFETY: the caller makes the same promise.
            unsafe { event.record_on(stream) }?;
        }
        Ok(Arc::new(Self { event }))
    }

    /// As [`record`](Self::record), on a stream of this crate's.
    ///
    /// # Errors
    /// What the runtime says.
    pub fn record_own(device: &HpuDevice, stream: &Stream) -> Result<Arc<Self>> {
        // SAFETY: the stream is alive while it is borrowed.
        #[expect(unsafe_code, reason = "the borrowed stream keeps the handle alive")]
        unsafe {
            Self::record(device, stream.handle())
        }
    }

    /// Whether the engine has reached it.
    ///
    /// # Errors
    /// `DeviceLost` or `Vendor` if the device failed.
    pub fn is_reached(&self) -> Result<bool> {
        self.event.is_reached()
    }

    /// The event, for a stream to wait for.
    pub fn event(&self) -> &Event {
        &self.event
    }
}

impl Fence for SynapseFence {
    fn wait(&self, timeout: Duration) -> Result<bool> {
        let (started, mut pause) = (Instant::now(), FIRST_PAUSE);
        loop {
            if self.event.is_reached()? {
                return Ok(true);
            }
            let left = timeout.saturating_sub(started.elapsed());
            if left.is_zero() {
                return Ok(false);
            }
            thread::park_timeout(pause.min(left));
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }
}
