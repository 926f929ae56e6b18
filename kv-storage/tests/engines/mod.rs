//! The engines that the tests of the posix store run with.

use std::path::Path;

use kv_storage::posix::IoEngine;
use kv_storage::{ErrorKind, PosixOptions, PosixStore};

/// Both engines, or only the threads, with a word on stderr, where io_uring cannot be had in `root`. With `KV_REQUIRE=io_uring` in the
/// environment that is a failure.
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
    engines
}
