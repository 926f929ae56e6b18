//! One io_uring and the thread that drives it. All unsafe code of this crate is here: handing the kernel addresses.
//!
//! The thread owns every request that the kernel knows of, and with it the buffer and the open file, until the kernel has answered.
//! Nothing is ever cancelled: a caller that left finds its buffer back in the pool when the kernel is done. If the ring itself fails,
//! what the kernel may still touch is leaked, never freed.

use std::collections::VecDeque;
use std::io;
use std::ops::Range;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use io_uring::{IoUring, opcode, squeue, types};
use kv_memory::StagingPool;
use rustix::event::{EventfdFlags, eventfd};
use rustix::io::Errno;

use super::super::Direction;
use super::request::{Piece, Request};

/// Entries of the submission queue: more than are under way unless many are stranded, and then they are submitted in turns.
const ENTRIES: u32 = 64;
/// What the completion of the wake-up call is known by; requests are known by their place in `Flying`.
const WAKE: u64 = u64::MAX;
/// Most bytes of one registered buffer (`io_uring_register(2)`: "there is a size limit of 1GiB per buffer").
const LARGEST_FIXED: usize = 1 << 30;

/// A ring's handle. Dropped, the thread ends what is under way, and itself.
#[derive(Debug)]
pub(super) struct Ring {
    shared: Arc<Shared>,
    fixed: Option<io::Result<usize>>,
}

#[derive(Debug)]
struct Shared {
    inbox: Mutex<Inbox>,
    /// Wakes the thread from its wait for completions.
    bell: OwnedFd,
}

#[derive(Default)]
struct Inbox {
    waiting: VecDeque<Request>,
    /// The thread will not look again before the bell rings.
    asleep: bool,
    closed: bool,
    /// The ring has failed: why.
    broken: Option<Errno>,
}

impl std::fmt::Debug for Inbox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inbox").field("waiting", &self.waiting.len()).field("broken", &self.broken).finish()
    }
}

impl Ring {
    /// Sets a ring up, with the memory of `pool` registered if the system permits it, and starts its thread.
    pub(super) fn start(number: usize, pool: Option<&StagingPool>) -> io::Result<Self> {
        let ring = IoUring::builder().dontfork().build(ENTRIES)?;
        let bell = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let shared = Arc::new(Shared { inbox: Mutex::default(), bell });
        let mut driver = Driver {
            ring,
            shared: Arc::clone(&shared),
            flying: Flying::default(),
            fixed: Vec::new(),
            pool: pool.cloned(),
            listening: false,
        };
        let fixed = driver.register();
        std::thread::Builder::new().name(format!("kv-uring-{number}")).spawn(move || driver.serve())?;
        Ok(Self { shared, fixed })
    }

    /// Bytes of memory that are registered, or why they are not; `None` if no pool was given.
    pub(super) fn fixed(&self) -> Option<&io::Result<usize>> {
        self.fixed.as_ref()
    }

    /// Hands a request to the thread.
    pub(super) fn submit(&self, request: Request) {
        let mut inbox = self.shared.inbox();
        if let Some(errno) = inbox.broken {
            drop(inbox);
            return request.answer(Err(errno));
        }
        inbox.waiting.push_back(request);
        let asleep = std::mem::take(&mut inbox.asleep);
        drop(inbox);
        if asleep {
            self.shared.ring_bell();
        }
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        self.shared.inbox().closed = true;
        self.shared.ring_bell();
    }
}

impl Shared {
    fn inbox(&self) -> MutexGuard<'_, Inbox> {
        // What runs inside is a push or a swap.
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ring_bell(&self) {
        // Any number above 0 rings it; eight equal bytes are the same number in either byte order. The sum of hundreds of unheard ones
        // may be refused, and then the bell rings already.
        let _ = rustix::io::write(&self.bell, &[1; 8]);
    }
}

/// The thread's side. The ring is dropped before the memory that is registered with it.
struct Driver {
    ring: IoUring,
    shared: Arc<Shared>,
    flying: Flying,
    /// Addresses of the registered buffers, in the order of their numbers.
    fixed: Vec<Range<usize>>,
    pool: Option<StagingPool>,
    /// A poll of the bell is under way.
    listening: bool,
}

impl Driver {
    /// Registers the pool's memory; how many bytes that are.
    fn register(&mut self) -> Option<io::Result<usize>> {
        let region = self.pool.as_ref()?.region();
        let base = region.base().as_ptr();
        let starts = (0..region.len()).step_by(LARGEST_FIXED);
        let buffers: Vec<libc::iovec> = starts
            .map(|start| libc::iovec {
                iov_base: base.wrapping_add(start).cast(),
                iov_len: (region.len() - start).min(LARGEST_FIXED),
            })
            .collect();
        // SAFETY: every range lies in the pool's region, which lives as long as `self.pool`; that is dropped after `self.ring`, and the
        // only copy of the ring's descriptor closes with it. Registering neither reads nor writes the bytes.
        let registered = unsafe { self.ring.submitter().register_buffers(&buffers) };
        Some(registered.map(|()| {
            self.fixed = buffers.iter().map(|b| b.iov_base.addr()..b.iov_base.addr() + b.iov_len).collect();
            region.len()
        }))
    }

    fn serve(mut self) {
        if let Err(errno) = self.attend() {
            let mut inbox = self.shared.inbox();
            inbox.broken = Some(errno);
            let waiting = std::mem::take(&mut inbox.waiting);
            drop(inbox);
            waiting.into_iter().for_each(|request| request.answer(Err(errno)));
        }
    }

    /// Carries requests to the kernel and answers back, until the handle is dropped and nothing is left.
    fn attend(&mut self) -> Result<(), Errno> {
        let mut completions = Vec::new();
        loop {
            let (waiting, closed) = {
                let mut inbox = self.shared.inbox();
                inbox.asleep = true; // whoever comes from now on rings
                (std::mem::take(&mut inbox.waiting), inbox.closed)
            };
            for request in waiting {
                if request.is_empty() {
                    request.answer(Ok(true));
                } else {
                    let place = self.flying.take_off(request);
                    self.ask(place)?;
                }
            }
            if closed && self.flying.is_empty() {
                return Ok(());
            }
            if !self.listening {
                let bell = types::Fd(self.shared.bell.as_raw_fd());
                let readable = u32::from(libc::POLLIN.unsigned_abs());
                self.listening = true;
                self.push(&opcode::PollAdd::new(bell, readable).build().user_data(WAKE))?;
            }
            self.enter(1)?;
            completions.extend(self.ring.completion().map(|entry| (entry.user_data(), entry.result())));
            for (place, result) in completions.drain(..) {
                self.completed(place, result)?;
            }
        }
    }

    fn completed(&mut self, place: u64, result: i32) -> Result<(), Errno> {
        if place == WAKE {
            self.listening = false;
            let mut count = [0; 8];
            let _ = rustix::io::read(&self.shared.bell, &mut count); // now it may ring again
            return Ok(());
        }
        match self.flying.request(place).and_then(|request| request.completed(result)) {
            None => self.ask(place),
            Some(moved) => {
                if let Some(request) = self.flying.land(place) {
                    request.answer(moved);
                }
                Ok(())
            }
        }
    }

    /// Asks the kernel for the next piece of a request.
    fn ask(&mut self, place: u64) -> Result<(), Errno> {
        let Some(request) = self.flying.request(place) else { return Ok(()) };
        let Piece { file, direction, offset, start, len } = request.piece();
        let pointer = request.bytes(start).as_mut_ptr();
        let addresses = pointer.addr()..pointer.addr() + len as usize;
        let within = |fixed: &Range<usize>| fixed.start <= addresses.start && addresses.end <= fixed.end;
        let number = self.fixed.iter().position(within).and_then(|number| u16::try_from(number).ok());
        let file = types::Fd(file);
        let entry = match (direction, number) {
            (Direction::Read, None) => opcode::Read::new(file, pointer, len).offset(offset).build(),
            (Direction::Read, Some(number)) => {
                opcode::ReadFixed::new(file, pointer, len, number).offset(offset).build()
            }
            (Direction::Write, None) => opcode::Write::new(file, pointer, len).offset(offset).build(),
            (Direction::Write, Some(number)) => {
                opcode::WriteFixed::new(file, pointer, len, number).offset(offset).build()
            }
        };
        self.push(&entry.user_data(place))
    }

    fn push(&mut self, entry: &squeue::Entry) -> Result<(), Errno> {
        loop {
            // SAFETY: the entry is the poll of the bell, which names no memory, or a piece of a request in `flying`: its bytes are
            // `bytes(start)[..len]` of a buffer whose address never changes, and its file is open. `flying` alone owns both until
            // `completed` took the kernel's answer, and leaks them if it is dropped before.
            let pushed = unsafe { self.ring.submission().push(entry) };
            if pushed.is_ok() {
                return Ok(());
            }
            self.enter(0)?; // the queue is full: let the kernel take what is in it
        }
    }

    /// Submits what is pushed, and waits for `wanted` completions.
    fn enter(&self, wanted: usize) -> Result<(), Errno> {
        loop {
            match self.ring.submit_and_wait(wanted) {
                Ok(_) => return Ok(()),
                Err(error) => match Errno::from_io_error(&error) {
                    Some(Errno::INTR) => {}
                    // Short of memory, or completions wait to be taken: take them first.
                    Some(Errno::AGAIN | Errno::BUSY) if wanted > 0 => return Ok(()),
                    Some(Errno::AGAIN | Errno::BUSY) => std::thread::yield_now(),
                    errno => return Err(errno.unwrap_or(Errno::IO)),
                },
            }
        }
    }
}

/// The requests that the kernel knows of.
#[derive(Default)]
struct Flying {
    places: Vec<Option<Request>>,
    free: Vec<usize>,
}

impl Flying {
    fn take_off(&mut self, request: Request) -> u64 {
        let place = self.free.pop().unwrap_or_else(|| {
            self.places.push(None);
            self.places.len() - 1
        });
        if let Some(free) = self.places.get_mut(place) {
            *free = Some(request);
        }
        place as u64
    }

    fn request(&mut self, place: u64) -> Option<&mut Request> {
        self.places.get_mut(usize::try_from(place).ok()?)?.as_mut()
    }

    fn land(&mut self, place: u64) -> Option<Request> {
        let place = usize::try_from(place).ok()?;
        let request = self.places.get_mut(place)?.take()?;
        self.free.push(place);
        Some(request)
    }

    fn is_empty(&self) -> bool {
        self.free.len() == self.places.len()
    }
}

impl Drop for Flying {
    fn drop(&mut self) {
        if !self.is_empty() {
            // The ring failed, or its thread panicked: the kernel may still use these buffers, so nobody else may ever.
            Box::leak(Box::new(std::mem::take(&mut self.places)));
        }
    }
}
