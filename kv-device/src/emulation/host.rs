//! The host's side of reckoned time: threads that take checksums, and transfers that may not begin before a buffer is free again.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::control::Control;
use crate::{Error, ErrorKind, Fence, Result};

/// Host threads that take checksums: when each is free, in reckoned time.
#[derive(Debug)]
pub struct Checksums {
    threads: Mutex<Vec<u64>>,
    /// Bytes per nanosecond (GB/s) of one thread.
    rate: u64,
}

impl Checksums {
    /// So many threads, each of `rate` GB/s, which is not 0.
    pub fn new(threads: usize, rate: u64) -> Self {
        Self { threads: Mutex::new(vec![0; threads]), rate }
    }

    /// When the checksum of `bytes` that are there at `ready` was taken.
    pub fn take(&self, ready: u64, bytes: u64) -> u64 {
        // Every change is one assignment.
        let mut threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(thread) = threads.iter_mut().min() else { return ready };
        *thread = ready.max(*thread) + bytes / self.rate;
        *thread
    }
}

/// A fence that is reached at a reckoned time: the device's thread, which waits for it, has that time then.
///
/// A copy takes reckoned time only, so the thread could ask for the next transfer before the caller, which has the whole time of a copy for
/// it, was scheduled. So the thread lets the caller queue what comes behind this transfer first.
#[derive(Debug)]
pub struct NotBefore {
    /// The runtime whose time it is.
    pub control: Control,
    /// Nanoseconds.
    pub time: u64,
    /// How many transfers the callers must have asked for, this one among them, before it is let go.
    pub asked_at_least: usize,
    /// How many they have asked for.
    pub asked: Arc<AtomicUsize>,
}

impl Fence for NotBefore {
    fn wait(&self, _: Duration) -> Result<bool> {
        let deadline = Instant::now() + Duration::from_secs(30);
        while self.asked.load(Ordering::Acquire) < self.asked_at_least {
            if Instant::now() >= deadline {
                let message = format!("{} transfers were not asked for in 30 s", self.asked_at_least);
                return Err(Error::new(ErrorKind::Timeout, "emulation", message));
            }
            std::thread::yield_now();
        }
        self.control.command(&format!("advance-to {}", self.time))?;
        Ok(true)
    }
}
