//! An owned piece of a region: moves into an operation, comes back with its result, returns its memory when dropped.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::sync::Arc;

use crate::pool::Shared;
use crate::{Error, HostRegion, HugePages, Result};

/// Who gets the memory back.
enum Owner {
    /// The buffer is a whole region of its own.
    Region(#[expect(dead_code, reason = "kept alive for its mapping")] Arc<dyn HostRegion>),
    /// The buffer has no bytes.
    Nobody,
    /// The buffer is one part of a pool.
    Pool { shared: Arc<Shared>, slot: usize },
}

/// An owned, aligned, initialised buffer with a length that may be set up to its capacity.
///
/// It derefs to `[u8]` of its length. Its address does not change while it exists.
pub struct HostBuf {
    base: NonNull<u8>,
    capacity: usize,
    len: usize,
    owner: Owner,
}

// SAFETY: the buffer is the only owner of its bytes (a pool lends a slot to one buffer at a time), and both owners are Send + Sync.
unsafe impl Send for HostBuf {}
// SAFETY: through a shared reference the bytes can only be read.
unsafe impl Sync for HostBuf {}

impl HostBuf {
    /// A buffer with memory of its own, outside any pool: for control paths, tests and tools; the data path uses a pool.
    ///
    /// # Errors
    /// As [`HugePages::allocate`].
    pub fn allocate(len: usize) -> Result<Self> {
        let region: Arc<dyn HostRegion> = Arc::new(HugePages::allocate(len)?);
        Ok(Self { base: region.base(), capacity: region.len(), len, owner: Owner::Region(region) })
    }

    /// A buffer without bytes, which stands for one that its operation keeps. Its capacity is 0.
    pub const fn empty() -> Self {
        Self { base: NonNull::dangling(), capacity: 0, len: 0, owner: Owner::Nobody }
    }

    /// A buffer of its own that holds a copy of `bytes`.
    ///
    /// # Errors
    /// As [`HostBuf::allocate`].
    pub fn copy_of(bytes: &[u8]) -> Result<Self> {
        let mut buffer = Self::allocate(bytes.len().max(1))?;
        buffer.set_len(bytes.len())?;
        buffer.copy_from_slice(bytes);
        Ok(buffer)
    }

    /// Lends `slot` of a pool. The caller has taken the slot off the free list.
    pub(crate) fn lend(shared: Arc<Shared>, slot: usize) -> Self {
        let (base, capacity) = shared.part(slot);
        Self { base, capacity, len: capacity, owner: Owner::Pool { shared, slot } }
    }

    /// Most bytes that [`set_len`](Self::set_len) may set.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Sets the length; bytes that come into view hold whatever they held before.
    ///
    /// # Errors
    /// [`Invalid`](crate::ErrorKind::Invalid) if `len` exceeds the capacity.
    pub fn set_len(&mut self, len: usize) -> Result<()> {
        if len > self.capacity {
            return Err(Error::invalid(format!(
                "a buffer of {} bytes cannot hold {len} bytes",
                self.capacity
            )));
        }
        self.len = len;
        Ok(())
    }
}

impl Deref for HostBuf {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: base..base + len is initialised memory of the region that the owner keeps alive, and this buffer alone owns it; a
        // buffer that nobody owns has no bytes, for which any pointer will do.
        unsafe { std::slice::from_raw_parts(self.base.as_ptr(), self.len) }
    }
}

impl DerefMut for HostBuf {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`; `&mut self` makes the access exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.base.as_ptr(), self.len) }
    }
}

impl Drop for HostBuf {
    fn drop(&mut self) {
        if let Owner::Pool { shared, slot } = &self.owner {
            shared.give_back(*slot);
        }
    }
}

impl fmt::Debug for HostBuf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let owner = match &self.owner {
            Owner::Region(_) => "own",
            Owner::Nobody => "nobody",
            Owner::Pool { .. } => "pool",
        };
        f.debug_struct("HostBuf")
            .field("len", &self.len)
            .field("capacity", &self.capacity)
            .field("owner", &owner)
            .finish()
    }
}
