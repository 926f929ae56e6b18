//! The libraries that the tests load: the emulated one, which cargo builds beside them, and the real one where there is one.

use std::path::{Path, PathBuf};

use kv_storage::posix::{FsyncPolicy, IoEngine};
use kv_storage::{NixlOptions, PosixOptions, PosixStore};

/// Where the step `nixl` of `cargo xtask test` has put a wheel.
const REAL: &str = "KVBRIDGE_NIXL";

/// A library that cargo has built from an example.
pub(crate) fn built(example: &str) -> PathBuf {
    let program = std::env::current_exe().unwrap();
    let folder = program.parent().and_then(Path::parent).unwrap();
    let file = folder.join(format!("examples/lib{example}.so"));
    let build = "cargo build -p kv-storage --features nixl --examples";
    assert!(file.exists(), "{} is not built: {build}", file.display());
    file
}

/// The emulated library.
pub(crate) fn fake() -> NixlOptions {
    NixlOptions::default().library(built("fake_nixl"))
}

/// The emulated library, which does what `mode` says while `switch` exists.
pub(crate) fn faulty(mode: &str, switch: &Path) -> NixlOptions {
    fake().parameter("fake", mode).parameter("fake_while", switch.to_str().unwrap())
}

/// The real library, or `None`, with a word on stderr.
pub(crate) fn real() -> Option<NixlOptions> {
    if std::env::var_os(REAL).is_none() {
        eprintln!("SKIPPED: {REAL} is not set; cargo xtask test --only nixl sets it");
        return None;
    }
    Some(NixlOptions::default())
}

/// Both, or the emulated one alone.
pub(crate) fn libraries() -> Vec<NixlOptions> {
    [Some(fake()), real()].into_iter().flatten().collect()
}

/// Options of a store of its own whose bytes NIXL moves.
pub(crate) fn options(nixl: &NixlOptions) -> PosixOptions {
    let options = PosixOptions::default().io(IoEngine::Nixl).nixl(nixl.clone());
    options.fsync(FsyncPolicy::None).format_if_empty(true).sweep_older_than(None)
}

/// A store on tmpfs.
pub(crate) async fn open(root: &Path, nixl: &NixlOptions) -> kv_storage::Result<PosixStore> {
    PosixStore::open(root, options(nixl)).await
}

pub(crate) fn shared_memory() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}
