//! Which engine a store gets, and why: tried once, at open, on the file system that it is for.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::threads::Threads;
use super::{Engine, nixl, rings};
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
    /// NIXL's plugin POSIX, or [`Unsupported`](ErrorKind::Unsupported): through the page cache, on io_uring of NIXL's own. Needs the
    /// feature `nixl`, and NIXL 1.5.0 or newer on the machine.
    Nixl,
}

impl fmt::Display for IoEngine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Threads => "threads",
            Self::Auto => "auto",
            Self::IoUring => "io_uring",
            Self::Nixl => "nixl",
        })
    }
}

/// The engine of an open store, and what was tried. Print it where a store is opened: nobody else says that io_uring was wanted and
/// is not used.
#[derive(Debug, Clone)]
pub struct IoChoice {
    asked: IoEngine,
    engine: IoEngine,
    direct: bool,
    fixed_bytes: usize,
    why: String,
    redone: Arc<AtomicU64>,
}

impl IoChoice {
    fn threads(asked: IoEngine, why: impl Into<String>) -> Self {
        Self {
            asked,
            engine: IoEngine::Threads,
            direct: false,
            fixed_bytes: 0,
            why: why.into(),
            redone: Arc::default(),
        }
    }

    /// Of rings that work.
    #[cfg(feature = "io-uring")]
    pub(super) fn io_uring(asked: IoEngine, direct: bool, fixed_bytes: usize, why: String) -> Self {
        Self { asked, engine: IoEngine::IoUring, direct, fixed_bytes, why, redone: Arc::default() }
    }

    /// Of NIXL that works; the engine counts what it could not do.
    #[cfg(feature = "nixl")]
    pub(super) fn nixl(fixed_bytes: usize, why: String, redone: Arc<AtomicU64>) -> Self {
        let (asked, engine) = (IoEngine::Nixl, IoEngine::Nixl);
        Self { asked, engine, direct: false, fixed_bytes, why, redone }
    }

    /// What was asked for.
    pub fn asked(&self) -> IoEngine {
        self.asked
    }

    /// What is used: anything but [`Auto`](IoEngine::Auto).
    pub fn engine(&self) -> IoEngine {
        self.engine
    }

    /// Whether aligned bytes go past the page cache (`O_DIRECT`).
    pub fn direct(&self) -> bool {
        self.direct
    }

    /// Bytes of staging memory that are registered with the kernel, or with NIXL.
    pub fn fixed_bytes(&self) -> usize {
        self.fixed_bytes
    }

    /// Transfers so far that NIXL failed, or called done when bytes were missing, and that were made again by plain calls. Those have the
    /// right bytes or the right error; more than a few say that NIXL is of no use here, and its log on stderr says why.
    pub fn redone(&self) -> u64 {
        self.redone.load(Ordering::Relaxed)
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
        IoEngine::Nixl => nixl::choose(tree, options),
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

#[cfg(test)]
#[cfg(feature = "io-uring")]
mod tests {
    use super::*;
    use crate::posix::Modes;

    fn tree(root: &std::path::Path) -> Tree {
        let options = PosixOptions::default();
        Tree::bare(root, options.fsync, Modes::Private, &options.environment).unwrap()
    }

    fn asked(engine: IoEngine) -> PosixOptions {
        PosixOptions::default().io(engine)
    }

    //= SEMANTICS.md#engine-fallback
    //= SEMANTICS.md#engine-refused
    #[test]
    fn where_rings_are_forbidden_auto_says_why_not_and_whoever_insists_is_refused() {
        let root = tempfile::tempdir().unwrap();
        let forbidden: fn(&PosixOptions) -> rings::Started = |_| Err("the kernel says no".into());
        // On a file system where it would not be tried, the reason is another.
        let tried = rings::worth_trying(&tree(root.path())).is_ok();
        let (engine, choice) = choose_with(&tree(root.path()), &asked(IoEngine::Auto), forbidden).unwrap();
        assert_eq!((engine.depth(), choice.engine(), choice.asked()), (1, IoEngine::Threads, IoEngine::Auto));
        let said = choice.to_string();
        assert!(said.starts_with("threads (asked for auto): io_uring is not used: "), "{said}");
        assert_eq!(said.contains("the kernel says no"), tried, "{said}");

        let refused = choose_with(&tree(root.path()), &asked(IoEngine::IoUring), forbidden).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Unsupported);
        assert!(refused.to_string().contains("the kernel says no; ask for auto or threads"), "{refused}");

        let never: fn(&PosixOptions) -> rings::Started = |_| unreachable!("threads need no ring");
        let (_, choice) = choose_with(&tree(root.path()), &asked(IoEngine::Threads), never).unwrap();
        assert_eq!(choice.engine(), IoEngine::Threads);
    }

    //= SEMANTICS.md#engine-fallback
    #[test]
    fn auto_does_not_try_what_is_on_no_disk() {
        // `/dev/shm` is a tmpfs wherever there is one.
        let shared_memory = std::path::Path::new("/dev/shm");
        if !shared_memory.is_dir() {
            return;
        }
        let never: fn(&PosixOptions) -> rings::Started = |_| unreachable!("a ring was tried on tmpfs");
        let (_, choice) = choose_with(&tree(shared_memory), &asked(IoEngine::Auto), never).unwrap();
        assert_eq!(choice.engine(), IoEngine::Threads);
        assert!(choice.why().contains("no block device"), "{choice}");
    }

    #[test]
    fn the_probe_leaves_nothing_behind() {
        let root = tempfile::tempdir().unwrap();
        for engine in [IoEngine::Threads, IoEngine::Auto, IoEngine::IoUring] {
            match choose(&tree(root.path()), &asked(engine)) {
                Ok((_, choice)) => assert_eq!(choice.asked(), engine),
                Err(error) => assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}"),
            }
            assert_eq!(root.path().read_dir().unwrap().count(), 0, "{engine}");
        }
    }
}
