//! The best that a program could do which knows only its files: one thread writes or reads one file after the other, from and into huge
//! pages, with calls of several sizes; the best of them is the measure. No names that must be free, no temporary files. Beside it the same
//! with the two calls without which nobody's object appears whole: a link from a temporary name, whose removal is the second.

use std::fmt;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Barrier;
use std::time::Instant;

use kv_memory::{HostBuf, StagingPool};
use rustix::fs::{AtFlags, FallocateFlags, Mode, OFlags, fallocate, linkat, openat, unlinkat};

use crate::places::Place;
use crate::ring::Ring;
use crate::{Load, PART, Took};

/// One way to write and read files.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plain {
    steps: Steps,
    /// Whether a file has another name until it is whole.
    pub(crate) publishes: bool,
}

/// One way to move bytes.
#[derive(Debug, Clone, Copy)]
enum Steps {
    /// pwrite or pread of `call` bytes.
    Calls { call: usize },
    /// O_DIRECT through a ring: `depth` steps of `call` bytes under way.
    Ring { call: usize, depth: usize },
}

impl fmt::Display for Plain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.steps {
            Steps::Calls { call } => write!(f, "calls of {} KiB", call >> 10),
            Steps::Ring { call, depth } => write!(f, "ring of {depth} x {} KiB", call >> 10),
        }
    }
}

impl Plain {
    /// The ways that are tried in a place.
    pub(crate) fn all(place: Place) -> Vec<Self> {
        let steps = if place.direct() {
            [(1 << 20, 8), (1 << 20, 16), (PART, 8)].map(|(call, depth)| Steps::Ring { call, depth })
        } else {
            [256 << 10, 1 << 20, PART].map(|call| Steps::Calls { call })
        };
        let ways = |publishes| steps.map(|steps| Self { steps, publishes });
        [ways(false), ways(true)].concat()
    }

    /// Saves and loads all objects.
    pub(crate) fn measure(self, root: &Path, staging: &StagingPool, load: Load) -> [Took; 2] {
        let directory = root.join("plain");
        std::fs::create_dir_all(&directory).unwrap();
        let opened = OwnedFd::from(File::open(&directory).unwrap());
        let took = [true, false].map(|save| {
            Took::of(|| {
                // As much staging in turns as the store's callers use, so that the caches hold as much of it.
                let lanes = || (0..load.lanes() / load.threads).map(|_| taken(staging, load.len)).collect();
                let lanes: Vec<Vec<Vec<HostBuf>>> = (0..load.threads).map(|_| lanes()).collect();
                let start = Barrier::new(load.threads);
                // Each thread looks at the clock itself: one that only waits for them may be late.
                let spans: Vec<(Instant, Instant)> = std::thread::scope(|scope| {
                    let spawn = |(thread, mut lanes): (usize, Vec<Vec<HostBuf>>)| {
                        let (start, opened) = (&start, &opened);
                        scope.spawn(move || {
                            let mut ring = Ring::new();
                            start.wait();
                            let started = Instant::now();
                            let objects = (thread..load.objects).step_by(load.threads);
                            for (turn, object) in objects.enumerate() {
                                let lane = turn % lanes.len();
                                self.one(Some(&mut ring), (opened, object), &mut lanes[lane], load.len, save);
                            }
                            (started, Instant::now())
                        })
                    };
                    let threads: Vec<_> = lanes.into_iter().enumerate().map(spawn).collect();
                    threads.into_iter().map(|thread| thread.join().unwrap()).collect()
                });
                let started = spans.iter().map(|(started, _)| *started).min().unwrap();
                spans.iter().map(|(_, ended)| *ended).max().unwrap() - started
            })
        });
        std::fs::remove_dir_all(directory).unwrap();
        took
    }

    /// Saves or loads one object; what goes through a ring needs one.
    pub(crate) fn one(
        self,
        ring: Option<&mut Ring>,
        (directory, object): (&OwnedFd, usize),
        buffers: &mut [HostBuf],
        len: usize,
        save: bool,
    ) {
        let name = object.to_string();
        let temporary = (save && self.publishes).then(|| format!("temporary-{object}"));
        let direct = if matches!(self.steps, Steps::Ring { .. }) { OFlags::DIRECT } else { OFlags::empty() };
        let way = if save { OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL } else { OFlags::RDONLY };
        let first_name = temporary.as_ref().unwrap_or(&name);
        let file =
            openat(directory, first_name, way | direct | OFlags::CLOEXEC, Mode::RUSR | Mode::WUSR).unwrap();
        let file = File::from(file);
        if save {
            // As the store does, which reports a full disk before it takes a byte.
            fallocate(&file, FallocateFlags::empty(), 0, len as u64).unwrap();
        }
        match self.steps {
            Steps::Ring { call, depth } => ring.unwrap().run(&file, buffers, len, (call, depth), save),
            Steps::Calls { call } => {
                for (part, buffer) in buffers.iter_mut().enumerate() {
                    for (step, bytes) in buffer.chunks_mut(call).enumerate() {
                        let offset = (part * PART + step * call) as u64;
                        if save {
                            file.write_all_at(bytes, offset).unwrap();
                        } else {
                            file.read_exact_at(bytes, offset).unwrap();
                        }
                    }
                }
            }
        }
        if let Some(temporary) = temporary {
            linkat(directory, &temporary, directory, &name, AtFlags::empty()).unwrap();
            unlinkat(directory, &temporary, AtFlags::empty()).unwrap();
        }
    }
}

/// Staging for one object.
pub(crate) fn taken(staging: &StagingPool, len: usize) -> Vec<HostBuf> {
    (0..len.div_ceil(PART)).map(|_| staging.try_acquire().unwrap()).collect()
}
