//! The store keeps the contract.
#![expect(clippy::unwrap_used, clippy::panic, reason = "the functions that tests share are test code too")]

use std::sync::Arc;

use custom_store::LogStore;
use kv_storage::{ErrorKind, Metered, conformance};

async fn check() {
    let folder = tempfile::tempdir().unwrap();
    let store = Arc::new(LogStore::create(&folder.path().join("log")).unwrap());
    // Once as it is, once behind one of our wrappers, which works with any store.
    let metered = Metered::new(Arc::<LogStore>::clone(&store));
    if let Err(failure) = conformance::run(store, Arc::new(metered)).await {
        panic!("{failure}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_a_multi_thread_runtime() {
    check().await;
}

#[tokio::test(flavor = "current_thread")]
async fn on_a_current_thread_runtime() {
    check().await;
}

#[test]
fn a_file_that_is_there_is_not_overwritten() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log");
    std::fs::write(&path, "somebody's").unwrap();
    let error = LogStore::create(&path).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Backend);
    assert!(error.to_string().contains(&path.display().to_string()), "{error}");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "somebody's");
}
