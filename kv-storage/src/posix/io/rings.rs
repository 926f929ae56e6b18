//! Rings for a tree: set up, and proven on a file of their own before any object depends on them.

use std::sync::Arc;

use rustix::fs::{fstat, major};
use rustix::io::Errno;

use super::Engine;
use super::attempt::attempt;
use super::choice::IoChoice;
use super::uring::{DEPTH, Uring};
use crate::posix::options::{DEFAULT_THREADS, PosixOptions};
use crate::posix::tree::Tree;

/// Rings, or why there are none.
pub(super) type Started = Result<Uring, String>;

/// Most rings of a store, each with a thread: one can submit more than most disks take.
const MOST_RINGS: usize = 2;

pub(super) fn start(options: &PosixOptions) -> Started {
    let rings = (options.threads.unwrap_or(DEFAULT_THREADS) / 2).clamp(1, MOST_RINGS);
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
pub(super) fn proven(tree: &Tree, options: &PosixOptions, mut engine: Uring) -> (Arc<dyn Engine>, IoChoice) {
    engine.set_direct(true);
    let direct = attempt(tree, &engine);
    engine.set_direct(direct.is_ok());
    let (fixed_bytes, fixed) = match engine.fixed() {
        None => (0, "no staging memory was given to register".to_owned()),
        Some(Ok(bytes)) => (*bytes, format!("{bytes} bytes of staging are registered")),
        Some(Err(error)) => (
            0,
            format!("registering the staging memory answered \"{error}\": raise the limit of locked memory"),
        ),
    };
    let way = match &direct {
        Ok(()) => "past the page cache where offsets and lengths are multiples of 4096".to_owned(),
        Err(why) => format!("through the page cache, because O_DIRECT does not work here ({why})"),
    };
    let why = format!("{} ring(s) of depth {DEPTH}, {way}; {fixed}", engine.rings());
    let choice = IoChoice::io_uring(options.io, direct.is_ok(), fixed_bytes, why);
    (Arc::new(engine), choice)
}
