//! Streams and events: work in order, and points in it.

use std::ptr;
use std::sync::Arc;

use kv_device::Result;

use super::Session;
use crate::sabotage::Break;
use crate::sys::{DRAM_TO_HOST, HOST_TO_DRAM, Handle, Status};

/// Which way bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Direction {
    /// From mapped host memory.
    ToDevice,
    /// To mapped host memory.
    ToHost,
}

/// The copies of one call: the three arrays of `synMemCopyAsyncMultiple`.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Copies {
    sources: Vec<u64>,
    sizes: Vec<u64>,
    destinations: Vec<u64>,
}

impl Copies {
    /// Adds a copy; one that goes on where the last one ended, on both sides, makes that one longer.
    pub fn push(&mut self, source: u64, bytes: u64, destination: u64) {
        if let (Some(last_source), Some(size), Some(last)) =
            (self.sources.last(), self.sizes.last_mut(), self.destinations.last())
            && last_source.wrapping_add(*size) == source
            && last.wrapping_add(*size) == destination
        {
            *size += bytes;
            return;
        }
        self.sources.push(source);
        self.sizes.push(bytes);
        self.destinations.push(destination);
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.sizes.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.sizes.is_empty()
    }
}

/// A stream of our own: work that is given to it runs in order, and in no order with that of others.
#[derive(Debug)]
pub struct Stream {
    session: Arc<Session>,
    handle: Handle,
}

// SAFETY: the runtime's functions take stream handles on any thread; a generic stream locks itself ("Stream::addJob").
unsafe impl Send for Stream {}
// SAFETY: as above.
unsafe impl Sync for Stream {}

impl Stream {
    /// Creates a stream.
    ///
    /// # Errors
    /// What the runtime says.
    pub fn new(session: &Arc<Session>) -> Result<Self> {
        let mut handle = ptr::null_mut();
        // SAFETY: the pointer is to one handle, for the answer; "flags: not used, must be 0".
        let status = unsafe { (session.symbols().stream_create)(&raw mut handle, session.id(), 0) };
        session.check("synStreamCreateGeneric", status)?;
        Ok(Self { session: Arc::clone(session), handle })
    }

    /// The handle, for an engine of this process that wants to order its own work.
    pub fn handle(&self) -> Handle {
        self.handle
    }

    /// Starts copies in one call. They are done when an event that is recorded behind them is reached.
    ///
    /// # Errors
    /// [`Invalid`](kv_device::ErrorKind::Invalid) for host memory outside a mapping; what the runtime says. Some of the copies may have
    /// been started then.
    ///
    /// # Safety
    /// Until they are done, both sides of every copy stay allocated, the host's sides mapped to this device; nothing else writes
    /// either side, and nothing reads the destinations.
    pub unsafe fn copy(&self, copies: &Copies, direction: Direction) -> Result<()> {
        let Copies { sources, sizes, destinations } = copies;
        if copies.is_empty() {
            return Ok(());
        }
        let direction = match direction {
            Direction::ToDevice => HOST_TO_DRAM,
            Direction::ToHost => DRAM_TO_HOST,
        };
        let (mut second, mut third) = (sizes.as_ptr(), destinations.as_ptr());
        if self.session.sabotage().breaks(Break::SwapSizeAndDestination) {
            (second, third) = (third, second);
        }
        if self.session.sabotage().breaks(Break::NullList) {
            second = ptr::null();
        }
        let call = self.session.symbols().memcpy_async_multiple;
        // SAFETY: the arrays have one length, which is passed, and the call reads them before it returns; the rest is the caller's
        // promise.
        let status =
            unsafe { call(self.handle, sources.as_ptr(), second, third, direction, sizes.len() as u64) };
        self.session.check("synMemCopyAsyncMultiple", status)
    }

    /// Lets later work of this stream wait for an event.
    ///
    /// # Errors
    /// What the runtime says.
    pub fn wait_for(&self, event: &Event) -> Result<()> {
        // SAFETY: both handles are of live objects of this session's device; "flags: must be 0".
        let status = unsafe { (self.session.symbols().stream_wait_event)(self.handle, event.handle, 0) };
        self.session.check("synStreamWaitEvent", status)
    }

    /// Blocks the thread until the stream's work is done.
    ///
    /// # Errors
    /// What the runtime says; [`DeviceLost`](kv_device::ErrorKind::DeviceLost) if it never will be.
    pub fn synchronize(&self) -> Result<()> {
        // SAFETY: the handle is of a live stream.
        let status = unsafe { (self.session.symbols().stream_synchronize)(self.handle) };
        self.session.check("synStreamSynchronize", status)
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        // SAFETY: the handle is of a live stream, and nobody can use it any more; a call that failed has not destroyed it.
        self.session.give_back(|| unsafe { (self.session.symbols().stream_destroy)(self.handle) });
    }
}

/// A point in a stream's work. One that was never recorded counts as reached, as the runtime has it.
#[derive(Debug)]
pub struct Event {
    session: Arc<Session>,
    handle: Handle,
}

// SAFETY: the runtime's functions take event handles on any thread and look them up under a lock of their own.
unsafe impl Send for Event {}
// SAFETY: as above.
unsafe impl Sync for Event {}

impl Event {
    /// Creates an event.
    ///
    /// # Errors
    /// What the runtime says.
    pub fn new(session: &Arc<Session>) -> Result<Self> {
        let mut handle = ptr::null_mut();
        // SAFETY: the pointer is to one handle, for the answer; flags 0 asks for no time stamps.
        let status = unsafe { (session.symbols().event_create)(&raw mut handle, session.id(), 0) };
        session.check("synEventCreate", status)?;
        Ok(Self { session: Arc::clone(session), handle })
    }

    /// The device it is of.
    pub fn session(&self) -> &Arc<Session> {
        &self.session
    }

    /// Records it behind the stream's work so far.
    ///
    /// # Errors
    /// What the runtime says.
    pub fn record(&self, stream: &Stream) -> Result<()> {
        // SAFETY: `stream` is alive, so its handle is.
        unsafe { self.record_on(stream.handle) }
    }

    /// Records it behind the work so far of a stream that somebody else owns.
    ///
    /// # Errors
    /// [`Invalid`](kv_device::ErrorKind::Invalid) for what is no stream of the device; what the runtime says.
    ///
    /// # Safety
    /// `stream` is the handle of a stream of this process's device that is not being destroyed.
    pub unsafe fn record_on(&self, stream: Handle) -> Result<()> {
        // SAFETY: the event is alive; the stream is the caller's promise.
        let status = unsafe { (self.session.symbols().event_record)(self.handle, stream) };
        self.session.check("synEventRecord", status)
    }

    /// Whether it was reached.
    ///
    /// # Errors
    /// What the runtime says; [`DeviceLost`](kv_device::ErrorKind::DeviceLost) if it never will be.
    pub fn is_reached(&self) -> Result<bool> {
        // SAFETY: the event is alive.
        let status = unsafe { (self.session.symbols().event_query)(self.handle) };
        if status == Status::BUSY {
            return Ok(self.session.sabotage().breaks(Break::BusyIsReached));
        }
        self.session.check("synEventQuery", status).map(|()| true)
    }

    /// Blocks the thread until it was reached.
    ///
    /// # Errors
    /// As [`is_reached`](Self::is_reached).
    pub fn synchronize(&self) -> Result<()> {
        // SAFETY: the event is alive.
        let status = unsafe { (self.session.symbols().event_synchronize)(self.handle) };
        self.session.check("synEventSynchronize", status)
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        // SAFETY: the handle is of a live event, and nobody can use it any more; a call that failed has not destroyed it.
        self.session.give_back(|| unsafe { (self.session.symbols().event_destroy)(self.handle) });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_on_both_sides_become_one_copy() {
        let mut copies = Copies::default();
        for (source, bytes, destination) in
            [(100, 10, 500), (110, 5, 510), (115, 5, 600), (120, 5, 605), (200, 5, 610)]
        {
            copies.push(source, bytes, destination);
        }
        assert_eq!(copies.sources, [100, 115, 200]);
        assert_eq!(copies.sizes, [15, 10, 5]);
        assert_eq!(copies.destinations, [500, 600, 610]);
    }
}
