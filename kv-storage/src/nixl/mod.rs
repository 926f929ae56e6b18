//! NIXL, NVIDIA's library for moving bytes between memory and storage, as what moves the bytes of objects.
//!
//! It is loaded when a store asks for it: nothing of it is linked, and a machine without it builds and runs everything else. NIXL moves byte
//! ranges; naming, publication, records, rights and listing are those of the store that it works for:
//!
//! * `nixl+posix:///path` is a [`PosixStore`](crate::PosixStore) with [`IoEngine::Nixl`](crate::posix::IoEngine::Nixl);
//! * `nixl+obj://bucket/prefix` is an [`S3Store`](crate::S3Store) whose reads go through the plugin OBJ ([`NixlObjStore`]).
//!
//! **NIXL's success is a hint.** The end of every transfer is looked at, lengths are compared with the object's before, and checksums above.
//! **Its failure is a question**: it says that a transfer failed, and not why. The same bytes are then moved by the store's own calls, whose
//! answer is the answer; how often that happened is counted.

mod agent;
mod arrival;
mod exit;
mod library;
mod missing;
#[cfg(feature = "s3")]
mod obj;
mod options;
mod patience;
mod poller;
mod search;

use std::ffi::CString;
use std::fmt;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;

use kv_memory::StagingPool;

pub(crate) use agent::{Target, Way};
pub use missing::{Attempt, Missing};
#[cfg(feature = "s3")]
pub use obj::NixlObjStore;
pub use options::NixlOptions;
#[cfg(feature = "s3")]
pub(crate) use poller::Failed;
pub(crate) use poller::Transfer;
use poller::{Plugin, Poller};

/// A plugin and the threads that use it, in turns.
#[derive(Debug)]
pub(crate) struct Nixl {
    pollers: Vec<Poller>,
    turn: AtomicUsize,
    library: &'static Path,
}

/// A plugin as a store wants it.
pub(crate) struct Wanted<'a> {
    pub(crate) plugin: &'a str,
    /// Parameters, before which those of the options go.
    pub(crate) parameters: &'a [(&'a str, &'a str)],
    pub(crate) staging: Option<&'a StagingPool>,
    /// Transfers of one agent at a time.
    pub(crate) transfers: usize,
    pub(crate) threads: usize,
    /// Random.
    pub(crate) seed: u64,
}

impl Nixl {
    /// Loads the library and starts the plugin. Blocks.
    ///
    /// # Errors
    /// What is missing.
    pub(crate) fn start(options: &NixlOptions, wanted: &Wanted<'_>) -> Result<Self, Missing> {
        let functions =
            library::load(search::search(options.library.as_deref(), |name| std::env::var_os(name)))?;
        let failed = |call, status| Missing::Plugin {
            library: functions.library.clone(),
            plugin: wanted.plugin.to_owned(),
            call,
            status,
        };
        let text = |text: &str| CString::new(text).map_err(|_| failed("a parameter with a NUL", 0));
        let given = options.parameters.iter().map(|(key, value)| (key.as_str(), value.as_str()));
        let own = wanted.parameters.iter().copied();
        let own = own.filter(|(key, _)| options.parameters.iter().all(|(given, _)| given != key));
        let parameters = own.chain(given).map(|(key, value)| Ok((text(key)?, text(value)?)));
        let plugin = Plugin {
            functions,
            plugin: text(wanted.plugin)?,
            parameters: parameters.collect::<Result<_, Missing>>()?,
            staging: wanted.staging.cloned(),
            transfers: wanted.transfers.max(1),
            descriptor_bytes: options.descriptor_bytes.max(1),
        };
        let mut pollers = Vec::new();
        for number in 0..wanted.threads.max(1) {
            let (sender, ready) = mpsc::channel();
            let seed = wanted.seed.wrapping_add(number as u64);
            let poller = Poller::start(number, plugin.clone(), seed, sender)
                .map_err(|error| failed("pthread_create", -error.raw_os_error().unwrap_or(1)))?;
            ready.recv().unwrap_or_else(|_| Err(failed("the thread", -1)))?;
            pollers.push(poller);
        }
        Ok(Self { pollers, turn: AtomicUsize::new(0), library: &functions.library })
    }

    /// Moves a buffer, over as many steps as it has descriptors.
    pub(crate) fn submit(&self, transfer: Transfer) {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed) % self.pollers.len();
        if let Some(poller) = self.pollers.get(turn) {
            poller.submit(transfer);
        }
    }
}

impl fmt::Display for Nixl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} on {} thread(s)", self.library.display(), self.pollers.len())
    }
}
