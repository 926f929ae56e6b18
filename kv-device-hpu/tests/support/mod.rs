//! The emulated runtime as a test sees it: a copy of its own, its control, and an engine in the same process.
#![expect(unsafe_code, reason = "loads the emulated runtime, and plays the engine around the backend")]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(dead_code, clippy::allow_attributes, reason = "each test uses some of it")]

pub(crate) mod engine;
pub(crate) mod rank;
pub(crate) mod raw;

use std::any::Any;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use kv_device::Result;
use kv_device::dynamic::{Library, LibrarySearch};
use kv_device::emulation::{Control, own_copy};
use kv_device_hpu::synapse::Selector;
use kv_device_hpu::{HpuDevice, HpuOptions};

/// The emulated runtime that cargo has built beside this test.
pub(crate) fn library() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let built = test.ancestors().nth(2).unwrap().join("examples/libfake_synapse.so");
    assert!(built.exists(), "{} is missing: cargo build -p kv-device-hpu --examples", built.display());
    built
}

/// A machine of a test's own.
#[derive(Debug, Clone)]
pub(crate) struct Fake {
    pub(crate) path: PathBuf,
    pub(crate) control: Control,
    pub(crate) loaded: Library,
}

impl Fake {
    /// A copy of the library with state of its own.
    pub(crate) fn new() -> Self {
        let path = own_copy(&library()).unwrap();
        let loaded = load(&path);
        Self { control: Control::of(&loaded).unwrap(), path, loaded }
    }

    /// A copy that has run some commands.
    pub(crate) fn with(commands: &[&str]) -> Self {
        let fake = Self::new();
        for command in commands {
            fake.tell(command);
        }
        fake
    }

    /// Runs a command.
    pub(crate) fn tell(&self, command: &str) -> String {
        self.control.command(command).unwrap()
    }

    pub(crate) fn options(&self) -> HpuOptions {
        let mut options = HpuOptions::default();
        options.library = Some(self.path.clone());
        options
    }

    /// The device of a tool.
    pub(crate) fn own(&self) -> Result<Arc<HpuDevice>> {
        HpuDevice::own(Selector::Any, &self.options())
    }

    /// What was not given back.
    pub(crate) fn leaks(&self) -> String {
        self.tell("leaks")
    }

    /// How often a function was called since the log was last cleared.
    pub(crate) fn count(&self, symbol: &str) -> u64 {
        self.control.count(symbol).unwrap()
    }
}

/// Keeps something until the process ends, where whoever looks for leaks finds it.
pub(crate) fn keep(what: impl Any + Send) {
    static KEPT: Mutex<Vec<Box<dyn Any + Send>>> = Mutex::new(Vec::new());
    KEPT.lock().unwrap().push(Box::new(what));
}

fn load(path: &Path) -> Library {
    let search = LibrarySearch {
        what: "the emulated runtime",
        variable: "KVBRIDGE_SYNAPSE_LIBRARY",
        names: &[],
        directories: Vec::new(),
    };
    search.open_with(Some(OsStr::new(path)), "test").unwrap()
}

/// Waits until what was dropped on other threads is gone too: the device's threads end after their device.
pub(crate) fn settled_leaks(fake: &Fake) -> String {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
    loop {
        let leaks = fake.leaks();
        if leaks.is_empty() || std::time::Instant::now() > deadline {
            return leaks;
        }
        std::thread::yield_now();
    }
}
