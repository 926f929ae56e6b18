//! Streams and events of the device.
#![expect(unsafe_code, reason = "calls HIP")]

use std::ffi::c_void;
use std::ptr;
use std::sync::Arc;

use kv_device::{Error, ErrorKind, Result};

use super::api::{Hip, Kind};
use super::module::Function;
use crate::Sabotage;
use crate::sys::{self, CopyAttributes, Handle, codes};

/// A stream that waits for no other.
#[derive(Debug)]
pub(crate) struct Stream {
    hip: Arc<Hip>,
    raw: Handle,
}

// SAFETY: HIP's functions may be called with a stream from any thread.
unsafe impl Send for Stream {}

/// A point in a stream.
#[derive(Debug)]
pub(crate) struct Event {
    hip: Arc<Hip>,
    raw: Handle,
}

// SAFETY: HIP's functions may be called with an event from any thread.
unsafe impl Send for Event {}
// SAFETY: as above; querying and waiting are reads.
unsafe impl Sync for Event {}

/// One piece of a copy: addresses as the device sees them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Piece {
    pub(crate) to: u64,
    pub(crate) from: u64,
    pub(crate) len: u64,
}

impl Stream {
    pub(crate) fn create(hip: &Arc<Hip>) -> Result<Self> {
        let _current = hip.current()?;
        let mut raw = ptr::null_mut();
        // SAFETY: "Create an asynchronous stream with given flags" on the thread's device: writes a handle that outlives the call.
        let code = unsafe { (hip.table.stream_create)(&raw mut raw, sys::STREAM_NON_BLOCKING) };
        hip.check("hipStreamCreateWithFlags", code, "cannot make a stream")?;
        Ok(Self { hip: Arc::clone(hip), raw })
    }

    /// Waits for all that was queued.
    pub(crate) fn synchronize(&self) -> Result<()> {
        // SAFETY: "Wait for all commands in stream to complete"; the stream is alive as long as `self`.
        let code = unsafe { (self.hip.table.stream_synchronize)(self.raw) };
        self.hip.check("hipStreamSynchronize", code, "cannot wait for a stream")
    }

    /// For tests: leaves a handle of a stream that is gone.
    pub(crate) fn destroy_early(&self) {
        // SAFETY: this value owns the stream; that it is used afterwards is what the test is about, on an emulated runtime.
        let _ = unsafe { (self.hip.table.stream_destroy)(self.raw) };
    }

    /// Queues a kernel.
    ///
    /// # Safety
    /// The arguments are what the kernel takes; the memory that they name stays until the stream has come past the kernel, and is used
    /// by nothing else that the kernel writes.
    pub(crate) unsafe fn launch(
        &self,
        function: &Function,
        grid: [u32; 3],
        threads: u32,
        arguments: &mut [u64],
    ) -> Result<()> {
        let mut pointers: Vec<*mut c_void> =
            arguments.iter_mut().map(|word| ptr::from_mut(word).cast()).collect();
        let [x, y, z] = grid;
        // SAFETY: "kernelParams: array of pointers to kernel parameters", which HIP copies before it returns; the rest is this
        // function's contract.
        let code = unsafe {
            (self.hip.table.launch)(
                function.raw(),
                x,
                y,
                z,
                threads,
                1,
                1,
                0,
                self.raw,
                pointers.as_mut_ptr(),
                ptr::null_mut(),
            )
        };
        self.hip.check("hipModuleLaunchKernel", code, "cannot launch a kernel")
    }

    /// Queues one copy.
    ///
    /// # Safety
    /// Both sides are memory, and stay until the stream has come past the copy; the host's is pinned.
    pub(crate) unsafe fn copy(&self, piece: Piece, kind: Kind) -> Result<()> {
        let (to, from, len) = (pointer(piece.to), pointer(piece.from), size(piece.len));
        // SAFETY: this function's contract.
        let code = unsafe { (self.hip.table.memcpy_async)(to, from, len, kind.code(), self.raw) };
        self.hip.check("hipMemcpyAsync", code, "cannot copy")
    }

    /// Queues a copy of `rows` pieces like `first`, each so far behind the one before it.
    ///
    /// # Safety
    /// As [`copy`](Self::copy), for each piece.
    pub(crate) unsafe fn copy_rows(
        &self,
        first: Piece,
        rows: u64,
        pitches: (u64, u64),
        kind: Kind,
    ) -> Result<()> {
        let (to, from, len) = (pointer(first.to), pointer(first.from), size(first.len));
        let (to_pitch, from_pitch) = (size(pitches.0), size(pitches.1));
        // SAFETY: this function's contract.
        let code = unsafe {
            (self.hip.table.memcpy_2d_async)(
                to,
                to_pitch,
                from,
                from_pitch,
                len,
                size(rows),
                kind.code(),
                self.raw,
            )
        };
        self.hip.check("hipMemcpy2DAsync", code, "cannot copy rows")
    }

    /// Queues a copy of any pieces, in as few calls as the runtime allows.
    ///
    /// # Safety
    /// As [`copy`](Self::copy), for each piece.
    pub(crate) unsafe fn copy_pieces(&self, pieces: &[Piece], kind: Kind) -> Result<()> {
        let Some(batch) = self.hip.table.memcpy_batch else {
            for piece in pieces {
                // SAFETY: this function's contract.
                unsafe { self.copy(*piece, kind) }?;
            }
            return Ok(());
        };
        let sabotage = self.hip.sabotage;
        let limit = if sabotage == Some(Sabotage::OneBatch) { usize::MAX } else { sys::BATCH_LIMIT };
        // Attributes are refused before 7.13, and none means the same.
        let attributes = self.hip.runtime.versions().runtime >= sys::BATCH_ATTRIBUTES
            || sabotage == Some(Sabotage::BatchAttributes);
        for pieces in pieces.chunks(limit) {
            let mut to: Vec<*mut c_void> = pieces.iter().map(|piece| pointer(piece.to)).collect();
            let mut from: Vec<*mut c_void> = pieces.iter().map(|piece| pointer(piece.from)).collect();
            let mut sizes: Vec<usize> = pieces.iter().map(|piece| size(piece.len)).collect();
            let mut in_order = CopyAttributes { source_order: 1, hints: [0; 4], flags: 0 };
            let (mut first, mut failed) = (0_usize, usize::MAX);
            let count = usize::from(attributes);
            let (attribute, index) = if attributes {
                (&raw mut in_order, &raw mut first)
            } else {
                (ptr::null_mut(), ptr::null_mut())
            };
            // SAFETY: three arrays of `pieces.len()` entries, `count` attributes with as many indices, and an index to write; HIP
            // reads them before it returns. The rest is this function's contract.
            let code = unsafe {
                batch(
                    to.as_mut_ptr(),
                    from.as_mut_ptr(),
                    sizes.as_mut_ptr(),
                    pieces.len(),
                    attribute,
                    index,
                    count,
                    &raw mut failed,
                    self.raw,
                )
            };
            self.hip.check("hipMemcpyBatchAsync", code, &format!("cannot copy {} pieces", pieces.len()))?;
        }
        Ok(())
    }

    /// Marks the point behind what was queued.
    pub(crate) fn record(&self, event: &Event) -> Result<()> {
        // SAFETY: "Record an event in the specified stream"; both are alive, and of one device.
        let code = unsafe { (self.hip.table.event_record)(event.raw, self.raw) };
        self.hip.check("hipEventRecord", code, "cannot mark a point in a stream")
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        // SAFETY: this value owns the stream.
        let _ = unsafe { (self.hip.table.stream_destroy)(self.raw) };
    }
}

impl Event {
    pub(crate) fn create(hip: &Arc<Hip>) -> Result<Self> {
        let _current = hip.current()?;
        let flags = sys::EVENT_BLOCKING_SYNC | sys::EVENT_DISABLE_TIMING;
        let mut raw = ptr::null_mut();
        // SAFETY: "Create an event with the specified flags" on the thread's device: writes a handle that outlives the call.
        let code = unsafe { (hip.table.event_create)(&raw mut raw, flags) };
        hip.check("hipEventCreateWithFlags", code, "cannot make an event")?;
        Ok(Self { hip: Arc::clone(hip), raw })
    }

    /// Marks the point behind what an engine has queued on its own stream.
    ///
    /// # Safety
    /// `stream` is a live stream of this device (or null, the device's null stream).
    pub(crate) unsafe fn record_on(&self, stream: Handle) -> Result<()> {
        let _current = self.hip.current()?;
        // SAFETY: this function's contract.
        let code = unsafe { (self.hip.table.event_record)(self.raw, stream) };
        self.hip.check("hipEventRecord", code, "cannot mark a point in the engine's stream")
    }

    /// Whether the point was reached.
    pub(crate) fn reached(&self) -> Result<bool> {
        // SAFETY: "Query the status of the specified event", which is alive as long as `self`.
        match unsafe { (self.hip.table.event_query)(self.raw) } {
            codes::NOT_READY => Ok(false),
            code => self.hip.check("hipEventQuery", code, "cannot ask about an event").map(|()| true),
        }
    }

    /// Waits for the point.
    pub(crate) fn synchronize(&self) -> Result<()> {
        // SAFETY: "Wait for an event to complete"; the event is alive as long as `self`.
        let code = unsafe { (self.hip.table.event_synchronize)(self.raw) };
        self.hip.check("hipEventSynchronize", code, "cannot wait for an event")
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        // SAFETY: this value owns the event; HIP lets a recorded event be destroyed.
        let _ = unsafe { (self.hip.table.event_destroy)(self.raw) };
    }
}

/// An address of the device as C has it. The host follows none of them.
fn pointer(address: u64) -> *mut c_void {
    ptr::with_exposed_provenance_mut(usize::try_from(address).unwrap_or(0))
}

fn size(bytes: u64) -> usize {
    // What does not fit is a length that no memory has, which HIP refuses.
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

/// The error of a stream that can no longer be waited for.
pub(crate) fn lost(hip: &Hip, cause: &Error) -> Error {
    let message =
        format!("a transfer cannot be waited for, so the device counts as lost; end the process: {cause}");
    Error::new(ErrorKind::DeviceLost, &hip.label, message)
}
