//! Which addresses are whose: the live allocations of every host device of this process, as a vendor's runtime would know them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use super::memory::DeviceMemory;
use crate::DeviceRegion;

/// Live allocations by address. Addresses belong to the process, so the directory does too.
static LIVE: Mutex<BTreeMap<u64, Entry>> = Mutex::new(BTreeMap::new());

struct Entry {
    memory: Weak<DeviceMemory>,
    device: DeviceId,
}

/// One opened host device: two may have the same ordinal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct DeviceId {
    pub(super) serial: u64,
    pub(super) label: String,
}

/// A part of an allocation. It keeps the bytes mapped.
#[derive(Debug, Clone)]
pub(super) struct View {
    pub(super) memory: Arc<DeviceMemory>,
    pub(super) offset: usize,
    pub(super) len: usize,
}

/// Lists a new allocation.
pub(super) fn enter(memory: &Arc<DeviceMemory>, device: &DeviceId) {
    let entry = Entry { memory: Arc::downgrade(memory), device: device.clone() };
    live().insert(memory.address(), entry);
}

/// Takes a freed allocation off the list.
pub(super) fn leave(memory: &DeviceMemory) {
    live().remove(&memory.address());
}

/// The bytes behind a region; the error says whose memory it is instead.
pub(super) fn find(region: DeviceRegion, device: &DeviceId) -> Result<View, String> {
    let live = live();
    let below = live.range(..=region.address).next_back();
    let found = below.and_then(|(address, entry)| {
        let offset = region.address - address;
        let memory = entry.memory.upgrade()?;
        (offset < memory.len() as u64).then_some((memory, offset, entry))
    });
    let Some((memory, offset, entry)) = found else {
        return Err(
            "is no live allocation of any host device of this process: was it freed, or is it host memory?"
                .into(),
        );
    };
    if entry.device != *device {
        return Err(format!(
            "belongs to {}: register it with that device",
            if entry.device.label == device.label {
                format!("another device opened as {}", device.label)
            } else {
                entry.device.label.clone()
            }
        ));
    }
    let (whole, from) = (memory.len(), offset);
    let fits = offset.checked_add(region.len).is_some_and(|end| end <= whole as u64);
    match (usize::try_from(offset), usize::try_from(region.len)) {
        (Ok(offset), Ok(len)) if fits => Ok(View { memory, offset, len }),
        _ => Err(format!(
            "starts {from} bytes into an allocation of {} that has {whole} bytes: it does not fit",
            device.label
        )),
    }
}

fn live() -> MutexGuard<'static, BTreeMap<u64, Entry>> {
    // Every critical section is one insert, one remove or one look-up.
    LIVE.lock().unwrap_or_else(PoisonError::into_inner)
}
