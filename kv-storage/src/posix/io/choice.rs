//! Which engine a store gets, and why: tried once, at open, on the file system that it is for.

use std::fmt;
use std::sync::Arc;

use super::Engine;
use super::threads::Threads;
use crate::posix::options::PosixOptions;
use crate::posix::tree::Tree;
use crate::{Error, ErrorKind, Result};

/// What moves the bytes of objects: option of [`PosixOptions::io`], and answer in [`IoChoice::engine`].
///
/// The engines differ in speed and in what they leave in the page cache, never in what a call does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum IoEngine {
    /// `pread` and `pwrite` on the store's I/O threads, through the page cache.
    #[default]
    Threads,
    /// io_uring where a disk can be read and written past the page cache, threads elsewhere: on tmpfs, on network file systems, and
    /// where the system forbids io_uring. [`IoChoice`] says which, and why.
    Auto,
    /// io_uring, or [`Unsupported`](ErrorKind::Unsupported). Needs the feature `io-uring`.
    IoUring,
}

impl fmt::Display for IoEngine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Threads => "threads",
            Self::Auto => "auto",
            Self::IoUring => "io_uring",
        })
    }
}

/// The engine of an open store, and what was tried. Print it where a store is opened: nobody else says that io_uring was wanted and
/// is not used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IoChoice {
    asked: IoEngine,
    engine: IoEngine,
    direct: bool,
    fixed_bytes: usize,
    why: String,
}

impl IoChoice {
    fn threads(asked: IoEngine, why: impl Into<String>) -> Self {
        Self { asked, engine: IoEngine::Threads, direct: false, fixed_bytes: 0, why: why.into() }
    }

    /// What was asked for.
    pub fn asked(&self) -> IoEngine {
        self.asked
    }

    /// What is used: [`Threads`](IoEngine::Threads) or [`IoUring`](IoEngine::IoUring).
    pub fn engine(&self) -> IoEngine {
        self.engine
    }

    /// Whether aligned bytes go past the page cache (`O_DIRECT`).
    pub fn direct(&self) -> bool {
        self.direct
    }

    /// Bytes of staging memory that are registered with the kernel.
    pub fn fixed_bytes(&self) -> usize {
        self.fixed_bytes
    }

    /// What was tried, and what came of it.
    pub fn why(&self) -> &str {
        &self.why
    }
}

impl fmt::Display for IoChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (asked for {}): {}", self.engine, self.asked, self.why)
    }
}

/// Chooses the engine for a tree, and proves that it works there. Blocks.
pub(in crate::posix) fn choose(tree: &Tree, options: &PosixOptions) -> Result<(Arc<dyn Engine>, IoChoice)> {
    choose_with(tree, options, rings::start)
}

/// [`choose`] with the way to set rings up, which a test replaces.
fn choose_with(
    tree: &Tree,
    options: &PosixOptions,
    start: fn(&PosixOptions) -> rings::Started,
) -> Result<(Arc<dyn Engine>, IoChoice)> {
    let asked = options.io;
    let threads =
        |why: String| -> (Arc<dyn Engine>, IoChoice) { (Arc::new(Threads), IoChoice::threads(asked, why)) };
    match asked {
        IoEngine::Threads => Ok(threads("pread and pwrite through the page cache".into())),
        IoEngine::Auto => {
            let found = rings::worth_trying(tree).and_then(|()| start(options)).and_then(|engine| {
                let (engine, choice) = rings::proven(tree, options, engine);
                if choice.direct { Ok((engine, choice)) } else { Err(choice.why) }
            });
            Ok(found.unwrap_or_else(|why| threads(format!("io_uring is not used: {why}"))))
        }
        IoEngine::IoUring => match start(options) {
            Ok(engine) => Ok(rings::proven(tree, options, engine)),
            Err(why) => {
                let message =
                    format!("io_uring was asked for, and cannot be had: {why}; ask for auto or threads");
                Err(Error::new(ErrorKind::Unsupported, tree, message))
            }
        },
    }
}

/// A build that has io_uring.
#[cfg(feature = "io-uring")]
mod rings {
    use std::io;
    use std::sync::Arc;

    use kv_memory::HostBuf;
    use rustix::fs::{fstat, major};
    use rustix::io::Errno;

    use super::super::uring::{DEPTH, Uring};
    use super::super::{Direction, Engine, Transfer, move_one};
    use super::{IoChoice, IoEngine};
    use crate::posix::options::PosixOptions;
    use crate::posix::temporary::TEMPORARY_PREFIX;
    use crate::posix::tree::Tree;

    /// Rings, or why there are none.
    pub(super) type Started = Result<Uring, String>;

    /// Most rings of a store: one thread can submit more than a disk can take.
    const MOST_RINGS: usize = 2;

    /// Two pages past the page cache, and a tail that cannot go there.
    const PROBE: usize = 2 * 4096 + 100;

    pub(super) fn start(options: &PosixOptions) -> Started {
        let rings = options.threads.clamp(1, MOST_RINGS);
        Uring::start(rings, options.fixed.as_ref()).map_err(|error| {
            let why = match Errno::from_io_error(&error) {
                Some(Errno::PERM | Errno::ACCESS) => {
                    "a container's seccomp filter or kernel.io_uring_disabled forbids it"
                }
                Some(Errno::NOSYS) => "this kernel has none",
                Some(Errno::NOMEM) => "raise the limit of locked memory",
                _ => "see io_uring_setup(2)",
            };
            format!("setting up a ring answered \"{error}\": {why}")
        })
    }

    /// Whether the bytes of this tree rest on a disk of this host.
    pub(super) fn worth_trying(tree: &Tree) -> Result<(), String> {
        if tree.network() {
            return Err("this is a network file system, on which it was not measured to be better".into());
        }
        let root = tree.directory("").map_err(|error| error.to_string())?.ok_or("the root is gone")?;
        let stat = fstat(&root).map_err(|errno| format!("cannot examine the root: {errno}"))?;
        if major(stat.st_dev) == 0 {
            return Err("this file system is on no block device, as tmpfs is, where it gains nothing".into());
        }
        Ok(())
    }

    /// The engine, past the page cache if that was seen to work.
    pub(super) fn proven(
        tree: &Tree,
        options: &PosixOptions,
        mut engine: Uring,
    ) -> (Arc<dyn Engine>, IoChoice) {
        engine.set_direct(true);
        let direct = attempt(tree, &engine);
        engine.set_direct(direct.is_ok());
        let (fixed_bytes, fixed) = match engine.fixed() {
            None => (0, "no staging memory was given to register".to_owned()),
            Some(Ok(bytes)) => (*bytes, format!("{bytes} bytes of staging are registered")),
            Some(Err(error)) => (
                0,
                format!(
                    "registering the staging memory answered \"{error}\": raise the limit of locked memory"
                ),
            ),
        };
        let way = match &direct {
            Ok(()) => "past the page cache where offsets and lengths are multiples of 4096".to_owned(),
            Err(why) => format!("through the page cache, because O_DIRECT does not work here ({why})"),
        };
        let why = format!("{} ring(s) of depth {DEPTH}, {way}; {fixed}", engine.rings());
        let choice = IoChoice {
            asked: options.io,
            engine: IoEngine::IoUring,
            direct: direct.is_ok(),
            fixed_bytes,
            why,
        };
        (Arc::new(engine), choice)
    }

    /// Writes a file of pages and a tail past the page cache, and reads it back.
    fn attempt(tree: &Tree, engine: &Uring) -> Result<(), String> {
        let root = tree.directory("").map_err(|error| error.to_string())?.ok_or("the root is gone")?;
        let random = tree.environment.entropy.next_u64();
        let name = format!("{TEMPORARY_PREFIX}io.{}.{random:016x}", std::process::id());
        let says = |errno: Errno| errno.to_string();
        let file = Arc::new(tree.create_file(&root, &name).map_err(says)?);
        let mut pattern = vec![0; PROBE];
        for (byte, value) in pattern.iter_mut().zip((0..=250).cycle()) {
            *byte = value;
        }
        let moved = |direction, buffer| -> Result<HostBuf, String> {
            let file = Arc::new(engine.open(Arc::clone(&file), direction).map_err(says)?);
            let (buffer, moved) = move_one(engine, Transfer { file, direction, offset: 0, buffer });
            if moved.map_err(says)? {
                Ok(buffer)
            } else {
                Err("the file is shorter than what was written".into())
            }
        };
        let tried = HostBuf::copy_of(&pattern)
            .map_err(|error| io::Error::other(error).to_string())
            .and_then(|buffer| moved(Direction::Write, buffer))
            .and_then(|mut buffer| {
                buffer.fill(0);
                moved(Direction::Read, buffer)
            })
            .and_then(|buffer| {
                if *buffer == *pattern { Ok(()) } else { Err("what was read is not what was written".into()) }
            });
        // What cannot be removed a sweep finds.
        let _ = tree.remove(&root, &name, &name);
        tried
    }
}

/// A build that has none.
#[cfg(not(feature = "io-uring"))]
mod rings {
    use std::convert::Infallible;
    use std::sync::Arc;

    use super::super::Engine;
    use super::IoChoice;
    use crate::posix::options::PosixOptions;
    use crate::posix::tree::Tree;

    pub(super) type Started = Result<Infallible, String>;

    pub(super) fn start(_: &PosixOptions) -> Started {
        Err("kv-storage was built without the feature `io-uring`".into())
    }

    pub(super) fn worth_trying(_: &Tree) -> Result<(), String> {
        Ok(())
    }

    pub(super) fn proven(_: &Tree, _: &PosixOptions, never: Infallible) -> (Arc<dyn Engine>, IoChoice) {
        match never {}
    }
}
