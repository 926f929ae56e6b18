//! What things cost: bandwidths, and the time of a call.

use std::collections::HashMap;
use std::thread::ThreadId;

/// Which link a copy uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Direction {
    /// Device memory to host memory.
    DeviceToHost,
    /// Host memory to device memory.
    HostToDevice,
    /// Within a device, kernels too.
    OnDevice,
    /// Between host memories.
    OnHost,
}

/// The costs; zero means free.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Model {
    /// Bytes per nanosecond (GB/s) from device to host.
    pub device_to_host: f64,
    /// Bytes per nanosecond (GB/s) from host to device.
    pub host_to_device: f64,
    /// Bytes per nanosecond (GB/s) within a device.
    pub on_device: f64,
    /// Nanoseconds that the calling thread spends in any call.
    pub call: u64,
    /// Whether time passes: work ends no earlier, and calls return no earlier, than the model says. Otherwise it is only reckoned.
    pub real: bool,
}

impl Model {
    /// Nanoseconds that a link is busy with so many bytes.
    pub fn nanoseconds(&self, direction: Direction, bytes: u64) -> u64 {
        let rate = match direction {
            Direction::DeviceToHost => self.device_to_host,
            Direction::HostToDevice => self.host_to_device,
            Direction::OnDevice => self.on_device,
            Direction::OnHost => 0.0,
        };
        if rate <= 0.0 {
            return 0;
        }
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "saturates, and is positive"
        )]
        #[expect(clippy::cast_precision_loss, reason = "a duration to a few parts in 2^53")]
        let nanoseconds = (bytes as f64 / rate).ceil() as u64;
        nanoseconds
    }
}

/// Reckoned time. Each host thread has its own, which its calls advance; each stream and each link has the time at which it is free.
/// So what is reckoned depends on the order of each thread's own calls only, and not on how threads interleave.
#[derive(Debug, Default)]
pub(super) struct Clock {
    threads: HashMap<ThreadId, u64>,
    links: HashMap<(u32, Direction), u64>,
}

impl Clock {
    pub(super) fn now(&self) -> u64 {
        self.threads.get(&std::thread::current().id()).copied().unwrap_or(0)
    }

    pub(super) fn advance_to(&mut self, time: u64) {
        let now = self.threads.entry(std::thread::current().id()).or_insert(0);
        *now = time.max(*now);
    }

    /// Books a link of a device: not before `earliest`. When the work begins and ends.
    pub(super) fn book(&mut self, device: u32, direction: Direction, earliest: u64, cost: u64) -> (u64, u64) {
        // A device runs kernels of several streams side by side; a link moves one copy after the other.
        if direction == Direction::OnDevice {
            return (earliest, earliest + cost);
        }
        let free = self.links.entry((device, direction)).or_insert(0);
        let start = earliest.max(*free);
        *free = start + cost;
        (start, start + cost)
    }
}
