//! Memory of the host device as slices behind a lock. All unsafe code of the host device is here.
#![expect(unsafe_code, reason = "lends mapped memory out as a slice")]

use std::io;
use std::ops::{Deref, DerefMut};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use kv_memory::PageKind;

use crate::twice::{Twice, Window};

/// One allocation of the host device.
#[derive(Debug)]
pub(super) struct DeviceMemory {
    address: Window,
    alias: RwLock<Alias>,
    len: usize,
    pages: PageKind,
}

impl DeviceMemory {
    /// Allocates `bytes` zeroed bytes, in huge pages if they fill one and the system has them.
    pub(super) fn allocate(bytes: usize) -> io::Result<Self> {
        let Twice { address, alias, pages } = Twice::allocate(bytes)?;
        Ok(Self { address, alias: RwLock::new(Alias { window: alias, len: bytes }), len: bytes, pages })
    }

    /// The address that the host must not touch.
    pub(super) fn address(&self) -> u64 {
        self.address.base().as_ptr().addr() as u64
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn pages(&self) -> PageKind {
        self.pages
    }

    /// The bytes, shared with other readers.
    pub(super) fn read(&self) -> RwLockReadGuard<'_, Alias> {
        // Bytes have no state that a panic could leave half-changed.
        self.alias.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// The bytes, alone.
    pub(super) fn write(&self) -> RwLockWriteGuard<'_, Alias> {
        self.alias.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The readable and writable mapping, as a slice.
#[derive(Debug)]
pub(super) struct Alias {
    window: Window,
    len: usize,
}

impl Deref for Alias {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: the window maps at least `len` bytes for reading, zero-filled by the kernel, as long as `self` lives. The file
        // behind it is never truncated and its descriptor is closed; the second mapping of it permits no access; so the bytes
        // change only through `deref_mut`, which needs `&mut self`.
        unsafe { std::slice::from_raw_parts(self.window.base().as_ptr(), self.len) }
    }
}

impl DerefMut for Alias {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`; the mapping is writable, and `&mut self` makes the access exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.window.base().as_ptr(), self.len) }
    }
}
