//! The address space of an emulated machine: device memory mapped twice, pinned and registered host memory. All raw copies are here.
#![expect(unsafe_code, reason = "copies between mapped areas, as the engines of a device do")]

use std::collections::BTreeMap;
use std::fmt;
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kv_memory::{HostRegion, HugePages};

use super::work::{Failure, Side};
use crate::twice::Twice;

/// What an address belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Place {
    /// Memory of the device with this number.
    Device(u32),
    /// Host memory that the runtime allocated.
    Pinned,
    /// Host memory of the program, registered or mapped for the device.
    Registered,
}

/// A live area that an address was found in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Area {
    /// What it is.
    pub place: Place,
    /// First address.
    pub base: u64,
    /// Length in bytes, as it was asked for.
    pub len: u64,
}

/// Why memory was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Refused {
    /// The limit of the machine, or of the system.
    OutOfMemory,
    /// No live area of that kind begins there.
    NotAnArea,
    /// The range overlaps an area.
    Overlaps,
}

/// The areas of one machine.
pub struct Memory {
    state: Mutex<State>,
}

struct State {
    areas: BTreeMap<u64, Arc<Mapped>>,
    /// Freed device memory, whose addresses are never used again.
    freed: BTreeMap<u64, u64>,
    /// Most bytes of device memory and of pinned memory.
    device_limit: u64,
    pinned_limit: u64,
}

struct Mapped {
    area: Area,
    backing: Backing,
}

enum Backing {
    Device(Twice),
    Pinned(HugePages),
    /// The program's own; it promised to keep it until it is unregistered.
    Program(Pageable),
}

/// Host memory that the runtime does not know: a promise of the caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pageable(NonNull<u8>);

// SAFETY: an address; who made it promised that the memory may be used from whichever thread runs the work.
unsafe impl Send for Pageable {}
// SAFETY: as above.
unsafe impl Sync for Pageable {}

impl Pageable {
    /// Memory of the program from `pointer` on; `None` for null.
    ///
    /// # Safety
    /// The bytes that the work with this address names stay allocated, readable, and writable if they are written, until the work
    /// has run; nothing else accesses them until then, unless the program under test is wrong.
    pub unsafe fn new(pointer: *mut u8) -> Option<Self> {
        NonNull::new(pointer).map(Self)
    }

    /// The address as a number.
    pub fn address(self) -> u64 {
        self.0.as_ptr().addr() as u64
    }
}

impl Memory {
    pub(super) fn new() -> Self {
        let state = State {
            areas: BTreeMap::new(),
            freed: BTreeMap::new(),
            device_limit: u64::MAX,
            pinned_limit: u64::MAX,
        };
        Self { state: Mutex::new(state) }
    }

    /// Allocates device memory, zeroed; its first address, a multiple of 2 MiB.
    ///
    /// # Errors
    /// `OutOfMemory`.
    pub fn allocate(&self, device: u32, bytes: u64) -> Result<u64, Refused> {
        self.admit(bytes, |place| matches!(place, Place::Device(_)), |state| state.device_limit)?;
        let wanted = usize::try_from(bytes).map_err(|_| Refused::OutOfMemory)?;
        let twice = Twice::allocate(wanted).map_err(|_| Refused::OutOfMemory)?;
        let base = twice.address.base().as_ptr().addr() as u64;
        Ok(self.enter(Place::Device(device), base, bytes, Backing::Device(twice)))
    }

    /// Allocates host memory that the device reaches.
    ///
    /// # Errors
    /// `OutOfMemory`.
    pub fn allocate_pinned(&self, bytes: u64) -> Result<u64, Refused> {
        self.admit(bytes, |place| place == Place::Pinned, |state| state.pinned_limit)?;
        let wanted = usize::try_from(bytes).map_err(|_| Refused::OutOfMemory)?;
        let pages = HugePages::allocate(wanted).map_err(|_| Refused::OutOfMemory)?;
        let base = pages.base().as_ptr().addr() as u64;
        Ok(self.enter(Place::Pinned, base, bytes, Backing::Pinned(pages)))
    }

    /// Makes memory of the program known, until it is freed here. `program`'s promise lasts as long.
    ///
    /// # Errors
    /// `Overlaps` if some of it is known.
    pub fn register(&self, program: Pageable, bytes: u64) -> Result<(), Refused> {
        let base = program.address();
        let overlaps = {
            let state = self.state();
            let last = base.saturating_add(bytes.max(1));
            let before = state.areas.range(..last).next_back();
            before.is_some_and(|(_, mapped)| mapped.area.base.saturating_add(mapped.area.len) > base)
        };
        if overlaps {
            return Err(Refused::Overlaps);
        }
        self.enter(Place::Registered, base, bytes, Backing::Program(program));
        Ok(())
    }

    /// Frees the area that begins at `base` if it is what `expected` says.
    ///
    /// # Errors
    /// `NotAnArea`.
    pub fn free(&self, base: u64, expected: impl FnOnce(Place) -> bool) -> Result<Area, Refused> {
        let mut state = self.state();
        let area = state.areas.get(&base).map(|mapped| mapped.area).ok_or(Refused::NotAnArea)?;
        if !expected(area.place) {
            return Err(Refused::NotAnArea);
        }
        let mapped = state.areas.remove(&base);
        if matches!(area.place, Place::Device(_)) {
            state.freed.insert(base, area.len.max(1));
        }
        drop(state);
        // Work that still holds the area keeps it mapped; the last one to hold it drops it.
        drop(mapped);
        Ok(area)
    }

    /// The live area that holds `address`.
    pub fn find(&self, address: u64) -> Option<Area> {
        self.mapped(address).map(|mapped| mapped.area)
    }

    /// Whether `address` was device memory that has been freed.
    pub fn was_freed(&self, address: u64) -> bool {
        let state = self.state();
        let before = state.freed.range(..=address).next_back();
        before.is_some_and(|(base, len)| address - base < *len) && !state.areas.contains_key(&address)
    }

    /// Where the host reaches the `len` bytes that the device has at `address`: for kernels that run on the host. Valid while the area
    /// is not freed.
    pub fn resolve(&self, address: u64, len: u64) -> Option<NonNull<u8>> {
        let mapped = self.mapped(address)?;
        mapped.pointer(address, len)
    }

    /// Copies `len` bytes, as an engine of the device would. Ranges may overlap.
    ///
    /// # Errors
    /// [`Failure::IllegalAddress`] if a side is not memory.
    pub fn copy(&self, to: Side, from: Side, len: u64) -> Result<(), Failure> {
        let (to_area, to) = self.side(to, len)?;
        let (from_area, from) = self.side(from, len)?;
        let bytes = usize::try_from(len).map_err(|_| Failure::IllegalAddress(len))?;
        // SAFETY: both ranges are `len` bytes of memory: of areas that the two guards keep mapped, or of the program by the promise
        // that made the address. A program that accesses them meanwhile is wrong on hardware too; `copy` allows them to overlap.
        unsafe { std::ptr::copy(from.as_ptr(), to.as_ptr(), bytes) };
        drop((to_area, from_area));
        Ok(())
    }

    /// Fills `len` bytes.
    ///
    /// # Errors
    /// As [`copy`](Self::copy).
    pub fn fill(&self, to: Side, value: u8, len: u64) -> Result<(), Failure> {
        let (area, to) = self.side(to, len)?;
        let bytes = usize::try_from(len).map_err(|_| Failure::IllegalAddress(len))?;
        // SAFETY: as in `copy`.
        unsafe { std::ptr::write_bytes(to.as_ptr(), value, bytes) };
        drop(area);
        Ok(())
    }

    /// Sets the most bytes of device memory and of pinned memory; what is allocated stays.
    pub fn limit(&self, device: Option<u64>, pinned: Option<u64>) {
        let mut state = self.state();
        state.device_limit = device.unwrap_or(state.device_limit);
        state.pinned_limit = pinned.unwrap_or(state.pinned_limit);
    }

    /// Live areas and bytes of a place.
    pub fn live(&self, of: impl Fn(Place) -> bool) -> (u64, u64) {
        let state = self.state();
        let areas = state.areas.values().filter(|mapped| of(mapped.area.place));
        areas.fold((0, 0), |(count, bytes), mapped| (count + 1, bytes + mapped.area.len))
    }

    fn admit(
        &self,
        bytes: u64,
        of: impl Fn(Place) -> bool,
        limit: impl Fn(&State) -> u64,
    ) -> Result<(), Refused> {
        let (_, used) = self.live(of);
        let limit = limit(&self.state());
        if used.checked_add(bytes).is_none_or(|sum| sum > limit) { Err(Refused::OutOfMemory) } else { Ok(()) }
    }

    fn enter(&self, place: Place, base: u64, len: u64, backing: Backing) -> u64 {
        let mapped = Arc::new(Mapped { area: Area { place, base, len }, backing });
        self.state().areas.insert(base, mapped);
        base
    }

    fn mapped(&self, address: u64) -> Option<Arc<Mapped>> {
        let state = self.state();
        let (base, mapped) = state.areas.range(..=address).next_back()?;
        (address - base < mapped.area.len).then(|| Arc::clone(mapped))
    }

    fn side(&self, side: Side, len: u64) -> Result<(Option<Arc<Mapped>>, NonNull<u8>), Failure> {
        match side {
            Side::Pageable(program) => Ok((None, program.0)),
            Side::Known(address) => {
                let mapped = self.mapped(address).ok_or(Failure::IllegalAddress(address))?;
                let pointer = mapped.pointer(address, len).ok_or(Failure::IllegalAddress(address))?;
                Ok((Some(mapped), pointer))
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every critical section is one look-up, one insert or one remove.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Mapped {
    /// Where the host reaches `len` bytes at `address`; `None` if they are not all inside.
    fn pointer(&self, address: u64, len: u64) -> Option<NonNull<u8>> {
        let offset = address.checked_sub(self.area.base)?;
        offset.checked_add(len).filter(|end| *end <= self.area.len)?;
        let base = match &self.backing {
            Backing::Device(twice) => twice.alias.base(),
            Backing::Pinned(pages) => pages.base(),
            Backing::Program(program) => program.0,
        };
        NonNull::new(base.as_ptr().wrapping_add(usize::try_from(offset).ok()?))
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        // A device address is never used again, so that a use after free is found however late it comes.
        let program = Backing::Program(Pageable(NonNull::dangling()));
        if let Backing::Device(twice) = std::mem::replace(&mut self.backing, program) {
            twice.address.abandon();
        }
    }
}

impl fmt::Debug for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Memory").field("areas", &self.state().areas.len()).finish_non_exhaustive()
    }
}
