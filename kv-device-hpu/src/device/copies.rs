//! From the strided runs of a transfer to the arrays of a copy call.

use kv_device::DeviceRegion;
use kv_format::Transfer;

use crate::synapse::{Copies, Direction};

/// Copies of one call at most: the arrays have 24 bytes for each, and the runtime holds its queue's lock for as long as it reads them.
/// A layer band of whole blocks needs a few hundred.
const MOST_PER_CALL: usize = 1 << 16;

/// The calls that make a transfer, whose bounds were checked; `staging` is the address of the buffer.
pub(super) fn calls(
    transfer: &Transfer,
    regions: &[DeviceRegion],
    staging: u64,
    direction: Direction,
) -> Vec<Copies> {
    let mut calls = vec![Copies::default()];
    for place in &transfer.sections {
        let Some(region) = regions.get(place.region as usize) else { continue };
        transfer.plan.for_each_run(place.kind, |device, section, bytes| {
            let device = region.address + place.device + device;
            let host = staging + place.staging + section;
            if calls.last().is_none_or(|last| last.len() == MOST_PER_CALL) {
                calls.push(Copies::default());
            }
            if let Some(last) = calls.last_mut() {
                match direction {
                    Direction::ToDevice => last.push(host, bytes, device),
                    Direction::ToHost => last.push(device, bytes, host),
                }
            }
        });
    }
    calls
}
