//! The transfers that one I/O job has under way with an engine.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use kv_memory::HostBuf;

use super::{DataFile, Direction, Engine, Moved, Transfer};

/// One file's transfers in one direction. Dropped, it waits until the engine has given every buffer back: a job that ends early, or
/// panics, must not be counted as ended before the kernel has let go of what it held.
pub(in crate::posix) struct Flight<'a> {
    engine: &'a dyn Engine,
    file: &'a Arc<DataFile>,
    direction: Direction,
    sender: SyncSender<(usize, HostBuf, Moved)>,
    receiver: Receiver<(usize, HostBuf, Moved)>,
    under_way: usize,
}

impl<'a> Flight<'a> {
    pub(in crate::posix) fn new(
        engine: &'a dyn Engine,
        file: &'a Arc<DataFile>,
        direction: Direction,
    ) -> Self {
        // With room for every answer, so that no engine waits to give one.
        let (sender, receiver) = sync_channel(engine.depth());
        Self { engine, file, direction, sender, receiver, under_way: 0 }
    }

    /// Whether another transfer may start.
    pub(in crate::posix) fn has_room(&self) -> bool {
        self.under_way < self.engine.depth()
    }

    /// Whether nothing is under way.
    pub(in crate::posix) fn is_empty(&self) -> bool {
        self.under_way == 0
    }

    /// Starts a transfer, which `next` knows by its index.
    pub(in crate::posix) fn start(&mut self, index: usize, offset: u64, buffer: HostBuf) {
        let (sender, file) = (self.sender.clone(), Arc::clone(self.file));
        let transfer = Transfer { file, direction: self.direction, offset, buffer };
        self.under_way += 1;
        self.engine.start(
            transfer,
            Box::new(move |buffer, moved| {
                // The receiver waits for every answer.
                drop(sender.send((index, buffer, moved)));
            }),
        );
    }

    /// Waits for whichever transfer ends next; `None` if nothing is under way.
    pub(in crate::posix) fn next(&mut self) -> Option<(usize, HostBuf, Moved)> {
        if self.under_way == 0 {
            return None;
        }
        self.under_way -= 1;
        // The channel stays open: `self` holds a sender, too.
        self.receiver.recv().ok()
    }
}

impl Drop for Flight<'_> {
    fn drop(&mut self) {
        while self.next().is_some() {}
    }
}

/// Moves one buffer and waits for it.
#[cfg(any(feature = "io-uring", feature = "nixl"))]
pub(super) fn move_one(engine: &dyn Engine, transfer: Transfer) -> (HostBuf, Moved) {
    let Transfer { file, direction, offset, buffer } = transfer;
    let mut flight = Flight::new(engine, &file, direction);
    flight.start(0, offset, buffer);
    match flight.next() {
        Some((_, buffer, moved)) => (buffer, moved),
        // An engine that cannot answer keeps the buffer and the answer for good.
        None => unreachable!("an engine answers every transfer"),
    }
}
