//! The real library of before 1.5.0, alone in its process: beside a newer one the loader would give it parts of that.

use kv_storage::nixl::Missing;
use kv_storage::posix::IoEngine;
use kv_storage::{ErrorKind, NixlOptions, PosixOptions, PosixStore};

//= SEMANTICS.md#nixl-missing
#[tokio::test]
async fn a_wheel_of_1_4_is_too_old() {
    let variable = "KVBRIDGE_NIXL_OLD";
    let Some(wheel) = std::env::var_os(variable) else {
        eprintln!("SKIPPED: {variable} is not set; cargo xtask test --only nixl sets it");
        return;
    };
    let root = tempfile::tempdir().unwrap();
    let options = PosixOptions::default()
        .format_if_empty(true)
        .io(IoEngine::Nixl)
        .nixl(NixlOptions::default().library(wheel));
    let error = PosixStore::open(root.path(), options).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    let source = std::error::Error::source(&error).and_then(|source| source.downcast_ref());
    assert!(matches!(source, Some(Missing::TooOld { .. })), "{error}");
    assert!(error.to_string().contains("expected 1.5.0 or newer"), "{error}");
}
