//! Device memory of a program without an engine: allocated, read and written through this crate.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kv_device::{DeviceRegion, Error, ErrorKind, Result};
use kv_memory::{HostBuf, StagingPool};

use crate::synapse::{Copies, DeviceMemory, Direction, MappedPages, Session, Stream};

/// Bytes that a read or write moves at a time.
const STEP: usize = 1 << 20;

/// An allocation with a stream and a buffer of its own. Reads and writes block the thread: for tools, tests and examples.
pub struct HpuMemory {
    /// Dropped first: its work uses the two others.
    stream: Stream,
    memory: DeviceMemory,
    buffer: Mutex<HostBuf>,
}

impl HpuMemory {
    pub(super) fn allocate(session: &Arc<Session>, bytes: usize) -> Result<Self> {
        let stream = Stream::new(session)?;
        let memory = DeviceMemory::allocate(session, bytes as u64)?;
        let step = bytes.clamp(1, STEP).next_multiple_of(kv_memory::BUFFER_ALIGNMENT);
        let pages = MappedPages::allocate(session, step)?;
        let pool = StagingPool::from_boxed(Box::new(pages), step).map_err(|error| out_of(session, error))?;
        let buffer = pool.try_acquire().ok_or_else(|| out_of(session, "an empty pool"))?;
        Ok(Self { stream, memory, buffer: Mutex::new(buffer) })
    }

    /// Where it is, as the device sees it.
    pub fn region(&self) -> DeviceRegion {
        self.memory.region()
    }

    /// The stream on which it is read and written: what an engine's compute stream is.
    pub fn stream(&self) -> &Stream {
        &self.stream
    }

    /// Copies bytes from `offset` on to the host.
    ///
    /// # Errors
    /// [`Invalid`](ErrorKind::Invalid) beyond the end; what the runtime says.
    pub fn read(&self, offset: usize, to: &mut [u8]) -> Result<()> {
        self.check(offset, to.len())?;
        let mut buffer = self.buffer();
        for (index, part) in to.chunks_mut(buffer.len()).enumerate() {
            let start = offset + index * buffer.len();
            self.copy(&mut buffer, start, part.len(), Direction::ToHost)?;
            part.copy_from_slice(&buffer[..part.len()]);
        }
        Ok(())
    }

    /// Copies bytes from the host, to `offset` and on.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn write(&self, offset: usize, from: &[u8]) -> Result<()> {
        self.check(offset, from.len())?;
        let mut buffer = self.buffer();
        for (index, part) in from.chunks(buffer.len()).enumerate() {
            let start = offset + index * buffer.len();
            buffer[..part.len()].copy_from_slice(part);
            self.copy(&mut buffer, start, part.len(), Direction::ToDevice)?;
        }
        Ok(())
    }

    #[expect(unsafe_code, reason = "copies between memory that it owns")]
    fn copy(&self, buffer: &mut HostBuf, offset: usize, bytes: usize, direction: Direction) -> Result<()> {
        let device = self.region().address + offset as u64;
        let host = buffer.as_mut_ptr().expose_provenance() as u64;
        let mut copies = Copies::default();
        match direction {
            Direction::ToDevice => copies.push(host, bytes as u64, device),
            Direction::ToHost => copies.push(device, bytes as u64, host),
        }
        // SAFETY: the range is inside the allocation, which `check` made sure of, and inside the mapped buffer, which is borrowed
        // mutably until the stream has no work left. Nobody else is told the addresses of either but by a registration, whose promise
        // covers this.
        let copied = unsafe { self.stream.copy(&copies, direction) };
        let done = self.stream.synchronize();
        copied.and(done)
    }

    fn check(&self, offset: usize, bytes: usize) -> Result<()> {
        let len = self.region().len;
        match offset.checked_add(bytes) {
            Some(end) if end as u64 <= len => Ok(()),
            _ => {
                let message = format!("{bytes} bytes from offset {offset} of an allocation of {len} bytes");
                Err(Error::new(ErrorKind::Invalid, self.memory.session(), message))
            }
        }
    }

    fn buffer(&self) -> MutexGuard<'_, HostBuf> {
        // Bytes have no state that a panic could leave half-changed.
        self.buffer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn out_of(session: &Arc<Session>, why: impl fmt::Display) -> Error {
    Error::new(ErrorKind::OutOfMemory, session, format!("no buffer to read and write device memory: {why}"))
}

impl fmt::Debug for HpuMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HpuMemory").field("region", &self.region()).finish_non_exhaustive()
    }
}
