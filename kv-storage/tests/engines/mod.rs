//! The engines that the tests of the posix store run with.

use std::path::Path;

use kv_storage::posix::IoEngine;
use kv_storage::{ErrorKind, PosixOptions, PosixStore};

/// Every engine that can be had in `root`, threads first. Where io_uring cannot, a word on stderr says so, and with `KV_REQUIRE=io_uring` in the
/// environment that is a failure. NIXL is one of them where `KVBRIDGE_NIXL` names it, as the step `nixl` of `cargo xtask test` does.
pub(crate) async fn engines(root: &Path) -> Vec<IoEngine> {
    let mut engines = vec![IoEngine::Threads];
    let folder = tempfile::tempdir_in(root).unwrap();
    let options = PosixOptions::default().io(IoEngine::IoUring).format_if_empty(true);
    match PosixStore::open(folder.path(), options).await {
        Ok(store) => {
            eprintln!("{}", store.io_engine());
            engines.push(IoEngine::IoUring);
        }
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
            let required = std::env::var("KV_REQUIRE").unwrap_or_default();
            assert!(!required.split(',').any(|what| what == "io_uring"), "KV_REQUIRE={required}: {error}");
            eprintln!("SKIPPED: io_uring: {error}");
        }
    }
    if cfg!(feature = "nixl") && std::env::var_os("KVBRIDGE_NIXL").is_some() {
        engines.push(IoEngine::Nixl);
    }
    engines
}
