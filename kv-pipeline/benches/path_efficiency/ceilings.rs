//! The best plain loops over as many bytes: what the pipeline is compared with.
//!
//! *Store alone* moves bytes between a buffer that stays in the cache and fresh files (or stored ones): what a device that reads
//! memory by itself could give. *Copy and store* moves every byte once more, between engine-sized memory and that buffer: what a
//! processor that has to copy can give. Each loop is measured with several piece sizes; the best one is the ceiling.

use std::fs::{File, OpenOptions};
use std::hint::black_box;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Result;
use kv_format::kernels::{self, Destination};
use kv_format::{Checksum, LayerPlan, TensorKind};
use kv_memory::HostBuf;
use kv_pipeline::Delivery;
use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::Errno;

use crate::engine::{CHUNK, HEADER_BYTES, OBJECT_BYTES, OBJECT_PAYLOAD, SECTION_BYTES, SHAPES, geometry};
use crate::same_runs::{SameRuns, Stores};

/// Piece of the hot checksum: it stays in a core's second-level cache.
const HOT: usize = 1 << 20;

/// Pieces of loops along a shape's runs: whole sections, 1 MiB and half a MiB of them.
pub(crate) const RUNS_PIECES: [usize; 2] = [16 * SECTION_BYTES, 8 * SECTION_BYTES];

/// Where plain loops put objects: a folder of files, or memory for the memory store.
pub(crate) enum Place {
    Folder(PathBuf),
    Arena(HostBuf),
}

/// How a loop goes about it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Loop {
    pub(crate) threads: usize,
    /// Bytes of one call.
    pub(crate) piece: usize,
    /// Whether every byte is also copied from or to engine-sized memory.
    pub(crate) copy: bool,
    /// Whether engine-sized memory is written past the cache.
    pub(crate) cold: bool,
    /// Whether a file's length is reserved before it is written: some file systems then write faster.
    pub(crate) reserve: bool,
    /// Whether every file is flushed to the device.
    pub(crate) flush: bool,
}

/// Memory and files of the plain loops.
pub(crate) struct Ceilings {
    place: Place,
    objects: usize,
    source: HostBuf,
    destination: HostBuf,
    /// One for each thread, as large as the largest chunk.
    tiles: Vec<HostBuf>,
    /// A section without gaps.
    contiguous: LayerPlan,
}

impl Ceilings {
    /// Allocates everything in huge pages and writes the objects that loads read.
    pub(crate) fn new(place: Option<&Path>, objects: usize, threads: usize) -> Result<Self> {
        let bytes = objects * OBJECT_BYTES;
        let place = match place {
            Some(folder) => Place::Folder(folder.to_owned()),
            None => Place::Arena(HostBuf::allocate(bytes)?),
        };
        let mut source = HostBuf::allocate(bytes)?;
        for (index, page) in source.chunks_mut(4096).enumerate() {
            page.fill(index.to_le_bytes()[0]);
        }
        let chunk = SHAPES.iter().map(|shape| shape.heads as usize).max().unwrap_or(1).min(objects);
        let tile = |_| HostBuf::allocate(chunk * OBJECT_BYTES);
        let tiles = (0..threads).map(tile).collect::<Result<Vec<_>, _>>()?;
        let destination = HostBuf::allocate(bytes)?;
        let blocks: Vec<u32> = (0..CHUNK / SHAPES[1].block_tokens).collect();
        let contiguous =
            LayerPlan::new(&geometry(SHAPES[1], CHUNK / SHAPES[1].block_tokens)?, &blocks, 0..CHUNK, 0..1)?;
        let mut ceilings = Self { place, objects, source, destination, tiles, contiguous };
        let how =
            Loop { threads: 1, piece: OBJECT_BYTES, copy: true, cold: false, reserve: false, flush: false };
        ceilings.write("stored", how)?;
        Ok(ceilings)
    }

    /// A plain copy from one engine-sized buffer to another, `piece` bytes a call.
    pub(crate) fn copy(&mut self, threads: usize, piece: usize) -> Result<Duration> {
        let piece = piece.min(self.source.len() / threads);
        let pieces = self.destination.chunks_mut(piece).zip(self.source.chunks(piece));
        shared_out(&mut self.tiles[..threads], pieces, |_, (to, from): (&mut [u8], &[u8])| {
            to.copy_from_slice(from);
            Ok(())
        })
    }

    /// The checksum of as many bytes from the cache.
    pub(crate) fn checksum_hot(&mut self, threads: usize) -> Result<Duration> {
        let times = 0..self.source.len() / HOT;
        shared_out(&mut self.tiles[..threads], times, |tile, _| {
            black_box(Checksum::of(black_box(&tile[..HOT])));
            Ok(())
        })
    }

    /// The checksum of engine-sized memory.
    pub(crate) fn checksum_cold(&mut self, threads: usize) -> Result<Duration> {
        shared_out(&mut self.tiles[..threads], self.source.chunks(HOT), |_, piece| {
            black_box(Checksum::of(piece));
            Ok(())
        })
    }

    /// Writes every object fresh. Creating and closing files is part of it; removing them is not.
    ///
    /// Every save, a plain loop's as well as the pipeline's, is made twice and the second one is timed. A virtual machine gives pages that
    /// were free for two seconds back to its host and takes them again at a tenth of the speed of a write: whoever saved first after
    /// a pause would pay for that.
    pub(crate) fn save(&mut self, how: Loop) -> Result<Duration> {
        self.write("fresh", how)?;
        self.remove("fresh")?;
        let took = self.write("fresh", how)?;
        self.remove("fresh")?;
        Ok(took)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let Place::Folder(folder) = &self.place else { return Ok(()) };
        (0..self.objects).try_for_each(|index| std::fs::remove_file(path(folder, name, index)))
    }

    fn write(&mut self, name: &str, how: Loop) -> Result<Duration> {
        let places = self.place.sinks(name, self.objects);
        let objects = places.into_iter().zip(self.source.chunks_exact(OBJECT_BYTES));
        shared_out(&mut self.tiles[..how.threads], objects, |tile, (sink, engine)| {
            let mut sink = sink.open()?;
            if how.reserve {
                sink.reserve()?;
            }
            for start in (0..OBJECT_BYTES).step_by(how.piece) {
                let end = (start + how.piece).min(OBJECT_BYTES);
                let piece = &mut tile[..end - start];
                if how.copy {
                    piece.copy_from_slice(&engine[start..end]);
                }
                sink.write(start, piece)?;
            }
            if how.flush { sink.flush() } else { Ok(()) }
        })
    }

    /// Writes every object fresh, its payload gathered along the runs of a shape with its checksums taken.
    pub(crate) fn save_runs(&mut self, threads: usize, runs: &SameRuns, piece: usize) -> Result<Duration> {
        self.write_runs(threads, runs, piece)?;
        self.write_runs(threads, runs, piece)
    }

    fn write_runs(&mut self, threads: usize, runs: &SameRuns, piece: usize) -> Result<Duration> {
        let places = self.place.sinks("fresh", self.objects);
        let objects = places.into_iter().enumerate();
        let took = shared_out(&mut self.tiles[..threads], objects, |tile, (object, sink)| {
            let mut sink = sink.open()?;
            sink.reserve()?;
            let tile = &mut tile[..piece];
            for start in (0..OBJECT_PAYLOAD).step_by(piece) {
                let piece = &mut tile[..piece.min(OBJECT_PAYLOAD - start)];
                runs.gather(object, start / SECTION_BYTES, piece);
                take_checksums(piece);
                sink.write(HEADER_BYTES + start, piece)?;
            }
            // What an object has, where it has it: the payload is not aligned to a page of its file system, and on huge pages it
            // takes a part of one more.
            sink.write(0, &tile[..HEADER_BYTES])
        })?;
        self.remove("fresh")?;
        Ok(took)
    }

    /// Reads every stored object, a header first, and scatters its payload along the runs of a shape: each piece as soon as it is read
    /// and its checksums are taken, or nothing before those of the whole chunk are.
    pub(crate) fn load_runs(
        &mut self,
        threads: usize,
        runs: &SameRuns,
        delivery: Delivery,
        (stores, piece): (Stores, usize),
    ) -> Result<Duration> {
        let mut places = self.place.sources(self.objects).into_iter().enumerate();
        let together = if delivery == Delivery::WholeChunk { runs.heads() } else { 1 };
        let chunks = std::iter::from_fn(|| {
            let chunk: Vec<_> = places.by_ref().take(together).collect();
            (!chunk.is_empty()).then_some(chunk)
        });
        shared_out(&mut self.tiles[..threads], chunks, |tile, chunk| {
            let pieces =
                || (0..OBJECT_PAYLOAD).step_by(piece).map(|start| start..OBJECT_PAYLOAD.min(start + piece));
            let objects: Vec<usize> = chunk.iter().map(|(object, _)| *object).collect();
            for ((object, source), tile) in chunk.into_iter().zip(tile.chunks_mut(OBJECT_BYTES)) {
                let source = source.open()?;
                source.read(0, &mut tile[..HEADER_BYTES])?;
                for bytes in pieces() {
                    let start = bytes.start;
                    let piece = match delivery {
                        Delivery::WholeChunk => &mut tile[bytes],
                        _ => &mut tile[..bytes.len()],
                    };
                    source.read(HEADER_BYTES + start, piece)?;
                    take_checksums(piece);
                    if delivery != Delivery::WholeChunk {
                        runs.scatter(object, start / SECTION_BYTES, piece, stores);
                    }
                }
            }
            if delivery == Delivery::WholeChunk {
                for (object, tile) in objects.into_iter().zip(tile.chunks(OBJECT_BYTES)) {
                    for bytes in pieces() {
                        let first = bytes.start / SECTION_BYTES;
                        runs.scatter(object, first, &tile[bytes], stores);
                    }
                }
            }
            Ok(())
        })
    }

    /// Reads every stored object.
    pub(crate) fn load(&mut self, how: Loop) -> Result<Duration> {
        let (places, contiguous) = (self.place.sources(self.objects), &self.contiguous);
        let objects = places.into_iter().zip(self.destination.chunks_exact_mut(OBJECT_BYTES));
        shared_out(&mut self.tiles[..how.threads], objects, |tile, (source, engine)| {
            let source = source.open()?;
            for start in (0..OBJECT_BYTES).step_by(how.piece) {
                let end = (start + how.piece).min(OBJECT_BYTES);
                let piece = &mut tile[..end - start];
                source.read(start, piece)?;
                if how.cold {
                    let kind = TensorKind::Key;
                    for (to, from) in
                        engine[start..end].chunks_mut(SECTION_BYTES).zip(piece.chunks(SECTION_BYTES))
                    {
                        match from.len() {
                            SECTION_BYTES => kernels::scatter(contiguous, kind, from, to, Destination::Cold),
                            _ => to.copy_from_slice(from),
                        }
                    }
                } else if how.copy {
                    engine[start..end].copy_from_slice(piece);
                }
            }
            Ok(())
        })
    }
}

impl Place {
    /// Where so many objects go.
    fn sinks(&mut self, name: &str, objects: usize) -> Vec<Sink<'_>> {
        match self {
            Self::Folder(folder) => (0..objects).map(|index| Sink::File(path(folder, name, index))).collect(),
            Self::Arena(arena) => arena.chunks_exact_mut(OBJECT_BYTES).map(Sink::Memory).collect(),
        }
    }

    /// The stored objects.
    fn sources(&self, objects: usize) -> Vec<Source<'_>> {
        match self {
            Self::Folder(folder) => {
                (0..objects).map(|index| Source::Path(path(folder, "stored", index))).collect()
            }
            Self::Arena(arena) => arena.chunks_exact(OBJECT_BYTES).map(Source::Memory).collect(),
        }
    }
}

/// As a save computes and a load compares them.
fn take_checksums(piece: &[u8]) {
    for section in piece.chunks(SECTION_BYTES) {
        black_box(Checksum::of(section));
    }
}

fn path(folder: &Path, name: &str, index: usize) -> PathBuf {
    folder.join(format!("{name}-{index}"))
}

/// Where an object goes.
enum Sink<'a> {
    File(PathBuf),
    Memory(&'a mut [u8]),
}

/// Where an object goes, open.
enum Opened<'a> {
    File(File),
    Memory(&'a mut [u8]),
}

impl<'a> Sink<'a> {
    fn open(self) -> io::Result<Opened<'a>> {
        Ok(match self {
            Self::File(path) => Opened::File(OpenOptions::new().write(true).create_new(true).open(path)?),
            Self::Memory(bytes) => Opened::Memory(bytes),
        })
    }
}

impl Opened<'_> {
    fn write(&mut self, start: usize, piece: &[u8]) -> io::Result<()> {
        match self {
            Self::File(file) => file.write_all_at(piece, start as u64),
            Self::Memory(bytes) => {
                bytes[start..start + piece.len()].copy_from_slice(piece);
                Ok(())
            }
        }
    }

    fn reserve(&self) -> io::Result<()> {
        let Self::File(file) = self else { return Ok(()) };
        match fallocate(file, FallocateFlags::empty(), 0, OBJECT_BYTES as u64) {
            // The loop is then the one without.
            Ok(()) | Err(Errno::OPNOTSUPP) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }

    fn flush(&self) -> io::Result<()> {
        match self {
            Self::File(file) => file.sync_all(),
            Self::Memory(_) => Ok(()),
        }
    }
}

/// Where an object comes from.
enum Source<'a> {
    Path(PathBuf),
    File(File),
    Memory(&'a [u8]),
}

impl Source<'_> {
    fn open(self) -> io::Result<Self> {
        Ok(match self {
            Self::Path(path) => Self::File(File::open(path)?),
            opened => opened,
        })
    }

    fn read(&self, start: usize, piece: &mut [u8]) -> io::Result<()> {
        match self {
            Self::Path(_) => Err(io::ErrorKind::Unsupported.into()),
            Self::File(file) => file.read_exact_at(piece, start as u64),
            Self::Memory(bytes) => {
                piece.copy_from_slice(&bytes[start..start + piece.len()]);
                Ok(())
            }
        }
    }
}

/// Runs `work` on every item, with as many threads as there are tiles, each taking the next item when it is free: a thread that is
/// disturbed does not hold the others up. Returns how long that took. One thread is this one.
fn shared_out<T: Send>(
    tiles: &mut [HostBuf],
    items: impl Iterator<Item = T> + Send,
    work: impl Fn(&mut HostBuf, T) -> io::Result<()> + Sync,
) -> Result<Duration> {
    let items = Mutex::new(items);
    let run = |tile: &mut HostBuf| {
        loop {
            let next = items.lock().unwrap_or_else(PoisonError::into_inner).next();
            match next {
                Some(item) => work(tile, item)?,
                None => return Ok(()),
            }
        }
    };
    let started = Instant::now();
    std::thread::scope(|scope| {
        let mut tiles = tiles.iter_mut();
        let own = tiles.next();
        let run = &run;
        let others: Vec<_> = tiles.map(|tile| scope.spawn(move || run(tile))).collect();
        let mut outcome = own.map_or(Ok(()), run);
        for other in others {
            let ended = other.join().unwrap_or_else(|_| Err(io::Error::other("a thread panicked")));
            outcome = outcome.and(ended);
        }
        outcome
    })?;
    Ok(started.elapsed())
}
