//! NIXL's plugin POSIX as an engine: it moves the bytes between staging and the open file, and knows neither the name nor the directory.

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::io::Errno;

use super::attempt::attempt;
use super::choice::IoChoice;
use super::threads::{read_all, write_all};
use super::{Answer, DataFile, Direction, Engine, Transfer};
use crate::nixl::{Nixl, Target, Wanted, Way};
use crate::posix::options::{DEFAULT_THREADS, PosixOptions};
use crate::posix::tree::Tree;
use crate::{Error, ErrorKind, Result};

/// Transfers that one call keeps under way.
const DEPTH: usize = 8;

/// Most threads of a store that use NIXL: what is in the page cache is copied by the thread that asks for it.
const MOST_THREADS: usize = 2;

/// io_uring rather than `libaio`, which blocks whoever starts a transfer through the page cache until it is done; and a queue for one
/// transfer, which is what an agent has.
const PARAMETERS: [(&str, &str); 2] = [("use_uring", "true"), ("ios_pool_size", "64")];

#[derive(Debug)]
struct NixlEngine {
    nixl: Nixl,
    redone: Arc<AtomicU64>,
}

/// The engine, proven on a file of the tree. Blocks.
///
/// # Errors
/// `Unsupported` if there is no NIXL, or none that works here.
pub(super) fn choose(tree: &Tree, options: &PosixOptions) -> Result<(Arc<dyn Engine>, IoChoice)> {
    let unsupported = |why: String| {
        Error::new(
            ErrorKind::Unsupported,
            tree,
            format!("NIXL was asked for, and cannot be had: {why}; or ask for threads"),
        )
    };
    let wanted = Wanted {
        plugin: "POSIX",
        parameters: &PARAMETERS,
        staging: options.fixed.as_ref(),
        transfers: 1,
        threads: (options.threads.unwrap_or(DEFAULT_THREADS) / 2).clamp(1, MOST_THREADS),
        seed: tree.environment.entropy.next_u64(),
    };
    let nixl = Nixl::start(&options.nixl, &wanted)
        .map_err(|missing| unsupported(missing.to_string()).with_source(missing))?;
    let fixed_bytes = options.fixed.as_ref().map_or(0, |staging| staging.region().len());
    let why = format!("{nixl}; {fixed_bytes} bytes of staging are registered for good");
    let redone = Arc::new(AtomicU64::new(0));
    let engine = NixlEngine { nixl, redone: Arc::clone(&redone) };
    attempt(tree, &engine).map_err(unsupported)?;
    if redone.load(Ordering::Relaxed) > 0 {
        let why = "it did not write and read a file that plain calls write and read; NIXL's own log on stderr says more";
        return Err(unsupported(why.into()));
    }
    Ok((Arc::new(engine), IoChoice::nixl(fixed_bytes, why, redone)))
}

impl Engine for NixlEngine {
    fn depth(&self) -> usize {
        DEPTH
    }

    fn open(&self, file: Arc<OwnedFd>, _: Direction) -> rustix::io::Result<DataFile> {
        Ok(DataFile { plain: file, direct: None })
    }

    fn start(&self, transfer: Transfer, answer: Answer) {
        let Transfer { file, direction, offset, buffer } = transfer;
        let way = match direction {
            Direction::Read => Way::In,
            Direction::Write => Way::Out,
        };
        let redone = Arc::clone(&self.redone);
        let again = Arc::clone(&file);
        self.nixl.submit(crate::nixl::Transfer {
            target: Target::File(Arc::clone(&file.plain)),
            way,
            offset,
            buffer,
            done: Box::new(move |buffer, moved| match moved {
                Ok(()) => answer(buffer, Ok(true)),
                Err(_) => {
                    redone.fetch_add(1, Ordering::Relaxed);
                    redo(Transfer { file: again, direction, offset, buffer }, answer);
                }
            }),
        });
    }
}

/// Moves the buffer by plain calls, on a thread of its own: they say what is wrong, or that nothing is.
fn redo(transfer: Transfer, answer: Answer) {
    let held = Arc::new(Mutex::new(Some((transfer, answer))));
    let taken = Arc::clone(&held);
    let take = move || taken.lock().unwrap_or_else(PoisonError::into_inner).take();
    let work = {
        let take = take.clone();
        move || {
            let Some((Transfer { file, direction, offset, mut buffer }, answer)) = take() else { return };
            let moved = match direction {
                Direction::Read => read_all(&file.plain, &mut buffer, offset),
                Direction::Write => write_all(&file.plain, &buffer, offset).map(|()| true),
            };
            answer(buffer, moved);
        }
    };
    if std::thread::Builder::new().name("kv-nixl-again".into()).spawn(work).is_err()
        && let Some((transfer, answer)) = take()
    {
        answer(transfer.buffer, Err(Errno::AGAIN));
    }
}
